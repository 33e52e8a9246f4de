"""Who can write to a folder's vault has nothing read, written or removed elsewhere, and keeps nobody waiting."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backup_pipeline.errors import StoreError
from backup_pipeline.stores.objects.errors import ObjectNotFoundError, PlaceRefusedError
from backup_pipeline.stores.objects.folder import FolderPlace


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "vault").mkdir()
    return tmp_path / "vault"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder of somebody's own, with an old file whose name a temporary file of ours could have."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("letter.txt", "0" * 24):
        (folder / name).write_text("mine")
        os.utime(folder / name, (1, 1))
    return folder


def test_a_link_in_the_place_of_temporary_files_removes_nothing_elsewhere(root: Path, elsewhere: Path) -> None:
    (root / ".incoming").symlink_to(elsewhere)
    place = FolderPlace(root)
    with pytest.raises(PlaceRefusedError, match="link"):
        place.put("vault.json", b"{}")
    assert sorted(path.name for path in elsewhere.iterdir()) == ["0" * 24, "letter.txt"]


def test_only_temporary_files_of_writers_are_removed_a_day_later(root: Path) -> None:
    (root / ".incoming").mkdir()
    for name in ("0" * 24, "notes.txt"):
        (root / ".incoming" / name).write_text("old")
        os.utime(root / ".incoming" / name, (1, 1))
    FolderPlace(root)
    assert [path.name for path in (root / ".incoming").iterdir()] == ["notes.txt"]


def test_a_link_in_the_place_of_a_folder_is_neither_listed_nor_written_through(root: Path, elsewhere: Path) -> None:
    place = FolderPlace(root)
    (root / "chunks").symlink_to(elsewhere)
    (root / "copies").mkdir()
    (root / "copies" / "ab").symlink_to(elsewhere)
    for call in (
        lambda: place.create("chunks/one", b"x"),
        lambda: place.put("chunks/one", b"x"),
        lambda: place.create("copies/ab/one", b"x"),
        lambda: place.get("chunks/letter.txt"),
        lambda: place.delete("chunks/letter.txt"),
        lambda: list(place.list("chunks/")),
    ):
        with pytest.raises(PlaceRefusedError, match="link"):
            call()
    assert sorted(path.name for path in elsewhere.iterdir()) == ["0" * 24, "letter.txt"]


@pytest.mark.parametrize("what", ["pipe", "link", "device"])
def test_what_is_no_ordinary_file_is_no_object_and_is_not_waited_for(what: str, root: Path, elsewhere: Path) -> None:
    if what == "pipe":
        os.mkfifo(root / "vault.json")
    else:
        (root / "vault.json").symlink_to("/dev/zero" if what == "device" else elsewhere / "letter.txt")
    place = FolderPlace(root)
    for call in (lambda: place.get("vault.json"), lambda: place.get_range("vault.json", 0, 10)):
        with pytest.raises(ObjectNotFoundError, match="no object"):
            call()
    assert place.info("vault.json") is None
    assert not place.create("vault.json", b"{}")


def test_a_huge_file_is_not_read_into_memory(root: Path) -> None:
    with (root / "vault.json").open("wb") as file:
        file.truncate(8 << 30)
    place = FolderPlace(root)
    with pytest.raises(StoreError, match="no object"):
        place.get("vault.json")
    (root / "small").write_bytes(b"small")
    assert place.get_range("small", 1, 10**12) == b"mall"
