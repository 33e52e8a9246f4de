from __future__ import annotations

import contextlib
import os
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from backup_pipeline.artefacts.sqlite_restore import restore_sqlite
from backup_pipeline.artefacts.tree_restore import restore_folder
from backup_pipeline.errors import RefusedError, StoreError, ValidationError
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.sources.folder.capture import capture_folder
from backup_pipeline.sources.folder.settings import FolderSource
from backup_pipeline.sources.repository.capture import capture_repository
from backup_pipeline.sources.repository.restore import restore_repository
from backup_pipeline.sources.repository.settings import RepositorySource
from backup_pipeline.sources.sqlite.capture import capture_sqlite
from backup_pipeline.sources.sqlite.settings import SqliteSource
from backup_pipeline.stores.local import LocalSetWriter
from backup_pipeline.system import file_exchange, file_swap
from backup_pipeline.system.file_swap import heal, is_swapped, restoring, swap, undo
from backup_pipeline.system.file_swap_note import SwapState, note_path, read_note
from backup_pipeline_tests.support.archive_sets import NOW, context_of, git, new_set, repository, tree

LATER = NOW + timedelta(minutes=1)


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run with and without the system call that exchanges two names in one step."""
    if request.param == "two renames":
        monkeypatch.setattr(file_exchange, "_renameat2", lambda: None)
    return str(request.param)


def storage(root: Path) -> Path:
    for name in ("materials", "submissions", "other"):
        (root / name / "deep").mkdir(parents=True)
        (root / name / "a.txt").write_text(name)
        (root / name / "deep" / "b").write_bytes(os.urandom(5000))
        os.utime(root / name / "a.txt", ns=(0, 1_700_000_000_123_456_789))
        (root / name / "deep").chmod(0o750)
    return root


def captured(tmp_path: Path, root: Path, *buckets: str) -> tuple[LocalSetWriter, ArtefactRecord]:
    writer = new_set(tmp_path)
    source = FolderSource(kind="folder", path=root, buckets=buckets)
    (record,) = capture_folder(context_of(writer), source)
    return writer, record


def test_a_lost_folder_comes_back_as_it_was(tmp_path: Path, way: str) -> None:
    root = storage(tmp_path / "storage")
    before = tree(root)
    writer, record = captured(tmp_path, root)
    root.rename(tmp_path / "lost")
    done = restore_folder(writer.open, record, root, now=NOW)
    assert tree(root) == before
    assert done.kept == ()
    assert done.files == 6
    undo(root, now=LATER)
    assert not root.exists()


def test_a_restore_keeps_what_was_there_and_undo_brings_it_back(tmp_path: Path, way: str) -> None:
    root = storage(tmp_path / "storage")
    before = tree(root)
    writer, record = captured(tmp_path, root)
    (root / "materials" / "a.txt").write_text("changed since")
    (root / "since.txt").write_text("new since")
    root.chmod(0o755)
    changed = tree(root)
    done = restore_folder(writer.open, record, root, now=NOW)
    assert tree(root) == before
    assert root.stat().st_mode & 0o777 == 0o755
    (kept,) = done.kept
    assert tree(kept) == changed
    assert is_swapped(root, NOW)
    back = undo(root, now=LATER)
    assert tree(root) == changed
    assert tree(back.kept[0]) == before
    assert not is_swapped(root, NOW)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".storage")]


def test_only_the_captured_buckets_of_a_root_are_swapped(tmp_path: Path, way: str) -> None:
    root = storage(tmp_path / "storage")
    before = tree(root)
    writer, record = captured(tmp_path, root, "materials", "submissions")
    (root / "materials" / "a.txt").unlink()
    (root / "other" / "a.txt").write_text("not captured, changed since")
    changed = tree(root)
    restore_folder(writer.open, record, root, now=NOW)
    expected = {path: entry for path, entry in before.items() if not path.startswith("other")}
    expected |= {path: entry for path, entry in changed.items() if path.startswith("other")}
    assert tree(root) == expected
    undo(root, now=LATER)
    assert tree(root) == changed


@pytest.mark.parametrize("kept", [0, 1])
def test_a_record_that_misses_one_of_its_files_leaves_the_target_untouched(tmp_path: Path, kept: int) -> None:
    root = storage(tmp_path / "storage")
    before = tree(root)
    writer, record = captured(tmp_path, root)
    changed = record.model_copy(update={"files": record.files[:kept]})
    with pytest.raises(ValidationError, match="does not name a tarball and its listing"):
        restore_folder(writer.open, changed, root, now=NOW)
    assert tree(root) == before


def test_two_restores_are_undone_one_after_the_other(tmp_path: Path, way: str) -> None:
    root = storage(tmp_path / "storage")
    writer, record = captured(tmp_path, root)
    (root / "one").write_text("1")
    first = tree(root)
    restore_folder(writer.open, record, root, now=NOW)
    (root / "two").write_text("2")
    second = tree(root)
    restore_folder(writer.open, record, root, now=NOW + timedelta(seconds=5))
    undo(root, now=LATER)
    assert tree(root) == second
    undo(root, now=LATER + timedelta(seconds=1))
    assert tree(root) == first
    with pytest.raises(RefusedError, match="no restore to undo"):
        undo(root, now=LATER)


def test_undo_refuses_when_what_was_kept_is_gone(tmp_path: Path) -> None:
    root = storage(tmp_path / "storage")
    writer, record = captured(tmp_path, root)
    (kept,) = restore_folder(writer.open, record, root, now=NOW).kept
    kept.rename(tmp_path / "elsewhere")
    before = tree(root)
    with pytest.raises(RefusedError, match=r"before-2026-11-21T020000Z"):
        undo(root, now=LATER)
    assert tree(root) == before


def test_a_damaged_tarball_leaves_the_target_untouched(tmp_path: Path) -> None:
    root = storage(tmp_path / "storage")
    writer, record = captured(tmp_path, root)
    place = writer.folder / record.files[0].path
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(data)
    before = tree(root)
    with pytest.raises(ValidationError):
        restore_folder(writer.open, record, root, now=NOW)
    assert tree(root) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["storage", "store"]


def test_a_swap_that_fails_half_way_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    root = storage(tmp_path / "storage")
    before = tree(root)
    real = file_swap._swap_part
    with restoring(root, now=NOW) as (target, new):
        for name in ("materials", "submissions"):
            (new / name).mkdir(parents=True)

        def failing(top: Path, part: file_swap.Part) -> None:
            if part.target.endswith("submissions"):
                raise PermissionError(13, "Permission denied")
            real(top, part)

        monkeypatch.setattr(file_swap, "_swap_part", failing)
        with pytest.raises(StoreError):
            swap(target, NOW, names=("materials", "submissions"))
    assert tree(root) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["storage"]


@pytest.mark.parametrize("step", range(4))
def test_a_swap_broken_off_after_any_rename_is_healed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, step: int
) -> None:
    old, new_content = "old", "new"
    target = tmp_path / "db"
    target.write_text(old)
    (tmp_path / "db-wal").write_text("old log")
    taken = _break_after(monkeypatch, step)
    with (
        pytest.raises(_BrokenOffError) if step < 3 else contextlib.nullcontext(),
        restoring(target, now=NOW) as (real, new),
    ):
        new.write_text(new_content)
        # As a kill would: nothing runs afterwards, not even healing.
        monkeypatch.setattr(file_swap, "heal", lambda target: "")
        swap(real, NOW, sidecars=("-wal",))
    taken.append("no more")
    monkeypatch.undo()
    if way == "two renames":
        monkeypatch.setattr(file_exchange, "_renameat2", lambda: None)
    heal(target)
    assert all(entry.state is SwapState.SWAPPED for entry in read_note(target).swaps)
    wal = tmp_path / "db-wal"
    if target.read_text() == old:
        assert wal.read_text() == "old log"
        assert not note_path(target).exists()
    else:
        assert target.read_text() == new_content
        assert not wal.exists()
        undo(target, now=LATER)
        assert (target.read_text(), wal.read_text()) == (old, "old log")


@pytest.mark.parametrize("step", range(5))
def test_an_undo_broken_off_after_any_rename_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, step: int
) -> None:
    target = tmp_path / "db"
    target.write_text("old")
    (tmp_path / "db-wal").write_text("old log")
    with restoring(target, now=NOW) as (real, new):
        new.write_text("new")
        swap(real, NOW, sidecars=("-wal",))
    (tmp_path / "db-wal").write_text("new log")
    taken = _break_after(monkeypatch, step)
    with pytest.raises(_BrokenOffError) if step < 4 else contextlib.nullcontext():
        undo(target, now=LATER)
    taken.append("no more")
    monkeypatch.undo()
    if way == "two renames":
        monkeypatch.setattr(file_exchange, "_renameat2", lambda: None)
    heal(target)
    assert (target.read_text(), (tmp_path / "db-wal").read_text()) == ("old", "old log")
    aside = tmp_path / "db.undone-2026-11-21T020100Z"
    assert aside.read_text() == "new"
    assert aside.with_name(aside.name + "-wal").read_text() == "new log"


class _BrokenOffError(BaseException):
    """Stands for a kill."""


def _break_after(monkeypatch: pytest.MonkeyPatch, step: int) -> list[str]:
    """Raise at the rename or exchange after `step` of them; returns what was done."""
    done: list[str] = []
    rename, exchange = Path.rename, file_exchange.exchange

    def counted_rename(self: Path, to: Path) -> Path:
        if ".restore." in self.name or done[-1:] == ["no more"]:
            return rename(self, to)
        if len(done) >= step:
            raise _BrokenOffError
        done.append(f"{self.name} -> {to.name}")
        return rename(self, to)

    def counted_exchange(first: Path, second: Path) -> bool:
        if len(done) >= step:
            raise _BrokenOffError
        if not exchange(first, second):
            return False
        done.append("exchange")
        return True

    monkeypatch.setattr(Path, "rename", counted_rename)
    monkeypatch.setattr(file_exchange, "exchange", counted_exchange)
    return done


def database(path: Path) -> Path:
    connection = sqlite3.connect(path)
    connection.execute("pragma journal_mode=wal")
    connection.execute("create table auftraege (record_id integer primary key, auftrag_nr text, note)")
    connection.executemany("insert into auftraege values (?, ?, ?)", [(n, f"{n:06d}", None) for n in range(500)])
    connection.commit()
    connection.close()
    return path


def test_a_database_is_restored_and_the_old_one_with_its_log_can_come_back(tmp_path: Path, way: str) -> None:
    path = database(tmp_path / "werkstatt.db")
    writer = new_set(tmp_path)
    records = list(capture_sqlite(context_of(writer, "werkstatt"), SqliteSource(kind="sqlite", path=path)))
    connection = sqlite3.connect(path)
    connection.execute("delete from auftraege where record_id > 10")
    connection.commit()
    with pytest.raises(RefusedError, match=r"In use by .*\("):
        restore_sqlite(writer.open, records, path, now=NOW)
    connection.close()
    restore_sqlite(writer.open, records, path, now=NOW)
    assert _count(path) == 500
    undo(path, now=LATER)
    assert _count(path) == 11


def test_a_log_that_cannot_be_folded_in_goes_with_its_own_file(tmp_path: Path, way: str) -> None:
    path = database(tmp_path / "werkstatt.db")
    writer = new_set(tmp_path)
    records = list(capture_sqlite(context_of(writer, "werkstatt"), SqliteSource(kind="sqlite", path=path)))
    path.write_bytes(b"SQLite format 3\0" + b"damaged" * 1000)
    (tmp_path / "werkstatt.db-wal").write_bytes(b"stale log of the damaged file")
    (kept,) = restore_sqlite(writer.open, records, path, now=NOW).kept
    assert not (tmp_path / "werkstatt.db-wal").exists()
    assert kept.with_name(kept.name + "-wal").read_bytes() == b"stale log of the damaged file"
    assert _count(path) == 500


def test_a_database_whose_rows_are_not_the_captured_ones_is_not_put_in_place(tmp_path: Path) -> None:
    path = database(tmp_path / "werkstatt.db")
    writer = new_set(tmp_path)
    records = list(capture_sqlite(context_of(writer, "werkstatt"), SqliteSource(kind="sqlite", path=path)))
    wrong = [
        record.model_copy(update={"fingerprint": record.fingerprint.model_copy(update={"value": "0" * 16})})
        if record.fingerprint
        else record
        for record in records
    ]
    with pytest.raises(ValidationError, match="not the captured one"):
        restore_sqlite(writer.open, wrong, path, now=NOW)
    assert sorted(p.name for p in tmp_path.iterdir() if "werkstatt" in p.name and "-" not in p.name) == ["werkstatt.db"]


def _count(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("select count(*) from auftraege").fetchone()[0])
    finally:
        connection.close()


def _captured_repository(tmp_path: Path, **more: object) -> tuple[LocalSetWriter, Path, dict[str, ArtefactRecord]]:
    path = repository(tmp_path / "claire")
    (path / ".env").write_text("SECRET=hidden\n")
    git(path, "remote", "add", "origin", "https://claire:hidden@git.example.org/claire.git")
    writer = new_set(tmp_path)
    source = RepositorySource(kind="repository", path=path, **more)  # type: ignore[arg-type]
    records = {record.key[-1]: record for record in capture_repository(context_of(writer, "claire"), source)}
    return writer, path, records


def test_a_repository_comes_back_with_its_history_from_the_bundle(tmp_path: Path, way: str) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "data.bin").write_bytes(b"1234")
    writer, path, records = _captured_repository(tmp_path, include_env=True, volumes=(volume,))
    log = git(path, "log", "--all", "--format=%H %s %D")
    files = {name: entry[::2] for name, entry in tree(path).items() if not name.startswith(".git")}
    path.rename(tmp_path / "lost")
    (volume / "data.bin").write_bytes(b"later")
    done = restore_repository(
        writer.open, records["bundle"], path, now=NOW, extras=records["extras"], volumes={"volume": volume}
    )
    assert git(path, "log", "--all", "--format=%H %s %D") == log
    assert git(path, "status", "--porcelain") == ""
    assert git(path, "fsck", "--full") == ""
    assert git(path, "remote", "get-url", "origin") == "https://git.example.org/claire.git"
    restored = {name: entry[::2] for name, entry in tree(path).items() if not name.startswith(".git")}
    assert {name: entry[1] for name, entry in restored.items()} == {name: entry[1] for name, entry in files.items()}
    assert (path / "link").is_symlink()
    assert os.access(path / "tool.sh", os.X_OK)
    assert (path / ".env").read_text() == "SECRET=hidden\n"
    assert (path / ".env").stat().st_mode & 0o777 == 0o600
    assert (volume / "data.bin").read_bytes() == b"1234"
    assert len(done) == 2
    undo(volume, now=LATER)
    assert (volume / "data.bin").read_bytes() == b"later"


def test_the_files_of_head_come_back_from_the_zip(tmp_path: Path) -> None:
    writer, _, records = _captured_repository(tmp_path)
    target = tmp_path / "files"
    (done,) = restore_repository(writer.open, records["archive"], target, now=NOW)
    assert (target / "README.md").read_bytes() == b"# Claire\r\n"
    assert (target / "sub" / "ü ber\nline.txt").read_text() == "odd name"
    assert os.access(target / "tool.sh", os.X_OK)
    assert (target / "link").read_text() == "README.md"
    assert not (target / "link").is_symlink()
    assert "link is a link" in done.notes[0]
    assert not (target / ".env").exists()
    assert not (target / ".git").exists()


def test_a_volume_that_was_not_captured_is_refused_by_name(tmp_path: Path) -> None:
    writer, path, records = _captured_repository(tmp_path)
    with pytest.raises(RefusedError, match="uploads"):
        restore_repository(writer.open, records["bundle"], path, now=NOW, volumes={"uploads": tmp_path / "x"})
