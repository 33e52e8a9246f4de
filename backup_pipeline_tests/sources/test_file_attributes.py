"""What files carry beside their content comes back: attributes, ACLs, special modes, owners, holes."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from backup_pipeline.archives import file_attributes, unpack
from backup_pipeline.archives.file_attributes import acl_binary, acl_text, read_attributes, write_attributes
from backup_pipeline.artefacts import tree_restore as restoring
from backup_pipeline.artefacts.tree_restore import restore_folder
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.sources.file_drill import drill_files
from backup_pipeline.sources.folder.capture import capture_folder, inspect_folder
from backup_pipeline.sources.folder.settings import FolderSource
from backup_pipeline.stores.local import LocalSetWriter
from backup_pipeline_tests.support.archive_sets import NOW, check_of, context_of, new_set

LONG = "long" * 30
pytestmark = pytest.mark.skipif(not hasattr(os, "setxattr"), reason="extended attributes of Linux")


def rich_tree(root: Path) -> Path:
    """Files as a Supabase Storage leaves them, with whatever else a file can carry here."""
    (root / "shared" / LONG).mkdir(parents=True)
    for name in ("photo.jpg", "shared/tool", f"shared/{LONG}/{LONG}", "shared/b\xe4r", "plain"):
        (root / name).write_bytes(b"content of " + name.encode())
    os.setxattr(root / "photo.jpg", "user.supabase.storage.content-type", b"image/jpeg")
    os.setxattr(root / "photo.jpg", "user.raw", bytes(range(256)))
    os.setxattr(root / "shared" / "b\xe4r", "user.empty", b"")
    os.setxattr(root / "shared" / LONG / LONG, "user.n\xe4me", b"line\nbreak=1")
    os.setxattr(root / "shared", "user.on-a-folder", b"yes")
    for how, place in (("u:1234:rw,g:77:r", "photo.jpg"), ("d:u:1234:rwx,d:g::rx", "shared")):
        subprocess.run(["setfacl", "-m", how, str(root / place)], check=True)
    (root / "shared").chmod(0o2775)
    (root / "shared" / LONG).chmod(0o1777)
    if os.geteuid() == 0:
        os.chown(root / "shared" / "tool", 1234, 77)
    (root / "shared" / "tool").chmod(0o4755)
    return root


def looks(root: Path) -> dict[str, tuple[object, ...]]:
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        owner = (status.st_mode, status.st_uid, status.st_gid)
        found[path.relative_to(root).as_posix()] = (*owner, read_attributes(path))
    return found


def captured(tmp_path: Path, root: Path) -> tuple[LocalSetWriter, ArtefactRecord]:
    writer = new_set(tmp_path)
    (record,) = capture_folder(context_of(writer), FolderSource(kind="folder", path=root))
    return writer, record


def test_attributes_acls_modes_and_owners_come_back_and_are_compared(tmp_path: Path) -> None:
    root = rich_tree(tmp_path / "storage")
    before = looks(root)
    assert before["photo.jpg"][3][0], "the disk of this test keeps no attributes"  # type: ignore[index]
    writer, record = captured(tmp_path, root)
    assert not record.failed_checks
    assert list(inspect_folder(writer.open, record)) == []
    root.rename(tmp_path / "lost")
    done = restore_folder(writer.open, record, root, now=NOW)
    assert looks(root) == before
    assert done.notes == ()
    drilled = drill_files(writer.open, [record], tmp_path / "store", now=NOW)
    assert (drilled.findings, drilled.skipped) == ([], [])


@pytest.mark.skipif(os.geteuid() != 0, reason="owners are root's to give")
def test_gnu_tar_brings_attributes_and_acls_back_and_ours_are_what_it_writes(tmp_path: Path) -> None:
    root = rich_tree(tmp_path / "storage")
    writer, record = captured(tmp_path, root)
    out = tmp_path / "out"
    out.mkdir()
    options = ["--xattrs", "--acls", "--same-owner", "--numeric-owner", "-p"]
    archive = writer.folder / record.files[0].path
    subprocess.run(["tar", "xzf", archive, *options, "-C", out], check=True)
    assert looks(out) == looks(root)


def test_a_lost_attribute_mode_or_owner_is_found_by_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = rich_tree(tmp_path / "storage")
    writer, record = captured(tmp_path, root)
    monkeypatch.setattr(unpack, "_take_attributes", lambda *_, **__: None)
    (finding,) = drill_files(writer.open, [record], tmp_path / "store", now=NOW).findings
    assert "photo.jpg has mode 0600 instead of 0664" in finding.problem


def test_what_a_file_system_cannot_keep_is_reported_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = rich_tree(tmp_path / "storage")
    writer, record = captured(tmp_path, root)

    def refuse(place: object, name: str, value: bytes) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(file_attributes.os, "setxattr", refuse)
    done = restore_folder(writer.open, record, tmp_path / "elsewhere", now=NOW)
    reported = " ".join(done.notes)
    assert "user.supabase.storage.content-type of 1 files or folders could not be set: photo.jpg" in reported
    assert "system.posix_acl_default" in reported
    drilled = drill_files(writer.open, [record], tmp_path / "store", now=NOW)
    assert drilled.findings == []
    assert any("user.raw" in skipped.problem for skipped in drilled.skipped)


def test_attributes_that_cannot_be_captured_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = rich_tree(tmp_path / "storage")
    monkeypatch.setattr(file_attributes, "MAXIMUM_BYTES", 100)
    _, record = captured(tmp_path, root)
    check = check_of(record, "folder_only_files")
    assert not check.passed
    assert {"path": "photo.jpg: user.raw", "what": "attribute"} in check.table


def test_a_folder_with_default_acls_gives_none_to_what_is_restored_in_it(tmp_path: Path) -> None:
    root = tmp_path / "storage"
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "file").write_text("x")
    writer, record = captured(tmp_path, root)
    subprocess.run(["setfacl", "-m", "d:u:4711:rwx", str(tmp_path)], check=True)
    restore_folder(writer.open, record, tmp_path / "new", now=NOW)
    assert looks(tmp_path / "new") == looks(root)


@pytest.mark.parametrize("text", ["user::rw", "user:lena:rw-", "nobody::rwx", "mask:1:rwx", "\xff"])
def test_what_is_no_acl_with_numbers_is_not_set(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError):
        acl_binary(text.encode("latin-1"))
    file = tmp_path / "file"
    file.touch()
    lost = write_attributes(file, (("SCHILY.acl.access", text.encode("latin-1")),))
    assert lost == ("system.posix_acl_access",)


def test_acls_pass_through_their_text_unchanged() -> None:
    text = b"user::rw-\nuser:0:r--\nuser:1234:rwx\ngroup::r--\ngroup:77:r-x\nmask::rwx\nother::---\n"
    assert acl_text(acl_binary(text)) == text
    assert acl_binary(text.replace(b"\n", b",")) == acl_binary(text)


def test_a_sparse_file_is_sparse_again_and_needs_no_room_for_its_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "storage"
    root.mkdir()
    image = root / "disk.img"
    with image.open("wb") as file:
        for at in (0, 10 << 20, (30 << 20) + 7):
            file.seek(at)
            file.write(os.urandom(5000))
        file.truncate(60 << 20)
    (root / "zeros").write_bytes(bytes(6 << 20))
    if image.stat().st_blocks * 512 > 1 << 20:
        pytest.skip("no sparse files on this disk")
    writer, record = captured(tmp_path, root)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(restoring.shutil, "disk_usage", lambda _: usage._replace(free=90 << 20))
    restore_folder(writer.open, record, tmp_path / "new", now=NOW)
    new = (tmp_path / "new" / "disk.img").stat()
    assert (new.st_size, stat.S_IMODE(new.st_mode)) == (60 << 20, stat.S_IMODE(image.stat().st_mode))
    assert new.st_blocks * 512 < 1 << 20
    assert (tmp_path / "new" / "zeros").stat().st_blocks * 512 >= 6 << 20
