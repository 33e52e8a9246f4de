from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup_pipeline.archives import tarball
from backup_pipeline.archives.tarball import EntryKind, State, TarballWriter
from backup_pipeline.archives.tarball_reader import read_listing
from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.errors import SourceError
from backup_pipeline.model.manifest import Manifest
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.sources.folder.capture import capture_folder, inspect_folder
from backup_pipeline.sources.folder.settings import FolderSource
from backup_pipeline.stores.local import LocalSetWriter
from backup_pipeline_tests.support.archive_sets import NOW, check_of, context_of, new_set, tree


def settings(root: Path, *buckets: str, **more: object) -> FolderSource:
    return FolderSource(kind="folder", path=root, buckets=buckets, **more)  # type: ignore[arg-type]


def capture(writer: LocalSetWriter, source: FolderSource) -> ArtefactRecord:
    (record,) = capture_folder(context_of(writer), source)
    return record


def buckets(root: Path) -> Path:
    for name in ("materials", "submissions", "private"):
        (root / name / "deep" / "er").mkdir(parents=True)
        (root / name / "a.txt").write_text(name)
        (root / name / "deep" / "er" / "b.bin").write_bytes(os.urandom(3000))
    (root / "materials" / "empty").mkdir()
    (root / "materials" / "empty.txt").write_text("")
    return root


def test_the_named_buckets_come_out_of_real_tar_as_they_went_in(tmp_path: Path) -> None:
    root = buckets(tmp_path / "storage")
    odd = root / "materials" / "line\nbreak"
    odd.write_text("x")
    (root / "materials" / os.fsdecode(b"not\xffutf8")).write_text("y")
    (root / "materials" / ("long" * 30)).mkdir()
    (root / "materials" / ("long" * 30) / ("name" * 60)).write_text("z")
    (root / "materials" / "ümläut 😀.pdf").write_bytes(b"%PDF")
    os.utime(odd, ns=(1, 1_700_000_000_123_456_789))
    odd.chmod(0o640)
    writer = new_set(tmp_path)
    record = capture(writer, settings(root, "submissions", "materials"))
    assert record.key == ("storage", "tarball")
    assert [file.path for file in record.files] == ["storage_buckets.tar.gz", "storage_buckets.listing.jsonl.gz"]
    assert not record.failed_checks
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "xzpf", writer.folder / "storage_buckets.tar.gz", "-C", out], check=True)
    for name in ("materials", "submissions"):
        assert tree(out / name) == tree(root / name)
    assert not (out / "private").exists()


def test_the_listing_has_size_time_and_sha256_of_every_file(tmp_path: Path) -> None:
    root = buckets(tmp_path / "storage")
    writer = new_set(tmp_path)
    record = capture(writer, settings(root))
    with writer.open("storage_buckets.listing.jsonl.gz") as file:
        listed = {m.path: m for m in read_listing(file) if m.kind is EntryKind.FILE}
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    assert listed.keys() == files.keys()
    for name, path in files.items():
        assert listed[name].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (listed[name].size, listed[name].mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    assert record.details["files"] == len(files)
    assert record.details["bytes"] == sum(path.stat().st_size for path in files.values())


def test_two_captures_of_one_tree_are_equal_to_the_byte(tmp_path: Path) -> None:
    root = buckets(tmp_path / "storage")
    digests = [capture(new_set(tmp_path, number=n), settings(root)).files[0].sha256 for n in (1, 2)]
    assert digests[0] == digests[1]


def test_every_missing_bucket_is_named_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    root = buckets(tmp_path / "storage")
    writer = new_set(tmp_path)
    with pytest.raises(SourceError) as caught:
        capture(writer, settings(root, "materials", "gone", "also_gone", "../storage"))
    assert str(root / "gone") in str(caught.value)
    assert str(root / "also_gone") in str(caught.value)
    assert "outside" in str(caught.value)
    assert [path.name for path in writer.folder.iterdir()] == ["records"]


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=str(tmp_path / "nowhere")):
        capture(new_set(tmp_path), settings(tmp_path / "nowhere", "materials"))


def test_an_empty_root_fails_unless_the_settings_allow_it(tmp_path: Path) -> None:
    root = tmp_path / "storage"
    (root / "only" / "folders").mkdir(parents=True)
    with pytest.raises(SourceError, match="holds no file"):
        capture(new_set(tmp_path), settings(root))
    record = capture(new_set(tmp_path, number=1), settings(root, allow_empty=True))
    assert record.details["files"] == 0
    assert not record.failed_checks


def test_a_tree_that_has_collapsed_since_the_last_set_is_told(tmp_path: Path) -> None:
    root = buckets(tmp_path / "storage")
    writer = new_set(tmp_path)
    before = capture(writer, settings(root))
    previous = Manifest(
        set_id=before.set_id,
        plan="nightly",
        sources=("storage",),
        started_at=NOW,
        sealed_at=NOW,
        run_id="r",
        root_run_id="r",
        pipeline_version="1",
        artefacts=(before,),
    )
    for name in ("private", "submissions"):
        shutil.rmtree(root / name)
    context = CaptureContext(new_set(tmp_path, number=1), "storage", previous=previous)
    (record,) = capture_folder(context, settings(root))
    check = check_of(record, "size_not_collapsed")
    assert not check.passed
    assert check.numbers["bytes_before"] == before.details["bytes"]


def test_links_and_pipes_are_left_out_and_named_by_a_warning(tmp_path: Path) -> None:
    root = buckets(tmp_path / "storage")
    (root / "materials" / "link").symlink_to("/etc/passwd")
    (root / "materials" / "folderlink").symlink_to(root / "private")
    os.mkfifo(root / "materials" / "pipe")
    record = capture(new_set(tmp_path), settings(root, "materials"))
    check = check_of(record, "folder_only_files")
    assert not check.passed
    assert check.severity == "WARN"
    assert {str(row["path"]) for row in check.table} == {"materials/link", "materials/folderlink", "materials/pipe"}
    assert not record.failed_checks


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that other users can enter: each session of pytest closes the one that all of them share."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _captured_by_nobody(place: Path, root: Path) -> str:
    """Capture a folder in a child that has dropped to another user (root reads everything); return what it reports."""
    (place / "store").mkdir()
    os.chown(place / "store", 65534, 65534)
    reader, writer_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            writer = new_set(place)
            try:
                capture(writer, settings(root))
                text = "no error"
            except SourceError as error:
                text = f"{error}|{sorted(path.name for path in writer.folder.iterdir())}"
            os.write(writer_end, text.encode())
        finally:
            os._exit(0)
    os.close(writer_end)
    os.waitpid(child, 0)
    text = os.read(reader, 10000).decode()
    os.close(reader)
    return text


needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs another user to fail as")


@needs_root
def test_unreadable_files_are_all_named_and_nothing_appears(open_place: Path) -> None:
    root = buckets(open_place / "storage")
    for name in ("materials", "private"):
        (root / name / "a.txt").chmod(0)
    text = _captured_by_nobody(open_place, root)
    assert "2 files" in text
    assert "materials/a.txt" in text
    assert "private/a.txt" in text
    assert text.endswith("|['records']")


@needs_root
def test_a_folder_whose_only_content_cannot_be_read_is_not_called_empty(open_place: Path) -> None:
    root = buckets(open_place / "storage")
    for name in ("materials", "private"):
        (root / name).chmod(0o700)
        shutil.rmtree(root / name)
        (root / name / "closed").mkdir(parents=True)
        (root / name / "closed" / "a.txt").write_text("a")
        (root / name / "closed").chmod(0o700)
    text = _captured_by_nobody(open_place, root)
    assert "holds no file" not in text
    assert "materials/closed" in text
    assert "cannot be read" in text


def _disturb(monkeypatch: pytest.MonkeyPatch, path: Path, times: int) -> None:
    """Append to the file after each of its first `times` reads, as an application would."""
    left = [times]
    real = tarball._same

    def same(before: os.stat_result, after: os.stat_result) -> bool:
        if left[0] and before.st_ino == path.stat().st_ino:
            left[0] -= 1
            with path.open("ab") as file:
                file.write(b"more")
            return real(before, path.stat())
        return real(before, after)

    monkeypatch.setattr(tarball, "_same", same)


def test_a_small_file_that_changes_once_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = buckets(tmp_path / "storage")
    _disturb(monkeypatch, root / "materials" / "a.txt", 1)
    record = capture(new_set(tmp_path), settings(root))
    assert check_of(record, "folder_stable").passed
    assert (root / "materials" / "a.txt").read_text() == "materialsmore"
    assert not record.failed_checks


def test_a_file_that_never_stands_still_is_named_by_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = buckets(tmp_path / "storage")
    _disturb(monkeypatch, root / "materials" / "a.txt", 100)
    record = capture(new_set(tmp_path), settings(root))
    check = check_of(record, "folder_stable")
    assert not check.passed
    assert check.table == ({"path": "materials/a.txt", "what": "changed"},)
    assert record.details["changed"] == ["materials/a.txt"]
    assert not record.failed_checks


def test_a_large_file_that_changes_goes_in_again_and_the_later_copy_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tarball, "SMALL", 1000)
    root = buckets(tmp_path / "storage")
    large = root / "materials" / "large.bin"
    large.write_bytes(os.urandom(5000))
    _disturb(monkeypatch, large, 1)
    writer = new_set(tmp_path)
    record = capture(writer, settings(root))
    assert check_of(record, "folder_stable").passed
    assert not record.failed_checks
    with writer.open("storage_buckets.listing.jsonl.gz") as file:
        lines = [m for m in read_listing(file) if m.path == "materials/large.bin"]
    assert [line.state for line in lines] == [State.SUPERSEDED, State.WHOLE]
    assert lines[1].sha256 == hashlib.sha256(large.read_bytes()).hexdigest()


def test_a_file_cut_short_while_it_is_streamed_leaves_a_readable_tarball(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tarball, "SMALL", 1000)
    monkeypatch.setattr(tarball, "CHUNK", 4096)
    file = tmp_path / "large"
    file.write_bytes(os.urandom(20000))
    real = TarballWriter._take

    def take(self: TarballWriter, piece: memoryview, digest: object) -> None:
        os.truncate(file, 5000)
        real(self, piece, digest)

    monkeypatch.setattr(TarballWriter, "_take", take)
    with (tmp_path / "x.tar.gz").open("wb") as sink, TarballWriter(sink) as archive:
        member = archive.add_file("large", file)
    assert member.state is State.CHANGED
    subprocess.run(["tar", "tzf", tmp_path / "x.tar.gz"], check=True, capture_output=True)


def test_files_that_come_and_go_during_a_capture_do_not_break_it(tmp_path: Path) -> None:
    root = buckets(tmp_path / "storage")
    for number in range(300):
        (root / "materials" / f"n{number:03d}").write_bytes(os.urandom(2000))
    stop = threading.Event()

    def churn() -> None:
        number = 0
        while not stop.is_set():
            (root / "materials" / f"n{number % 300:03d}").unlink(missing_ok=True)
            (root / "materials" / f"new{number}").write_bytes(b"x" * (number % 5000))
            number += 1

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        record = capture(new_set(tmp_path), settings(root))
    finally:
        stop.set()
        thread.join()
    assert not record.failed_checks


@pytest.mark.parametrize("which", [0, 1])
def test_any_flipped_bit_is_found_and_the_file_named(tmp_path: Path, which: int) -> None:
    root = buckets(tmp_path / "storage")
    writer = new_set(tmp_path)
    record = capture(writer, settings(root))
    place = writer.folder / record.files[which].path
    good = place.read_bytes()
    unnoticed = []
    for position in range(0, len(good), max(1, len(good) // 60)):
        bad = bytearray(good)
        bad[position] ^= 1 << (position % 8)
        place.write_bytes(bad)
        found = list(inspect_folder(writer.open, record))
        if not found:
            unnoticed.append(bytes(bad))
        assert all("storage_buckets" in finding.subject for finding in found)
    # Some bits carry no content: in gzip's header, and where deflate pads its blocks. The file's digest guards them.
    assert all(gzip.decompress(bad) == gzip.decompress(good) for bad in unnoticed)
    assert len(unnoticed) < 10


@pytest.mark.parametrize("length", [0, 1, 30, -9, -1])
def test_a_truncated_tarball_is_found(tmp_path: Path, length: int) -> None:
    root = buckets(tmp_path / "storage")
    writer = new_set(tmp_path)
    record = capture(writer, settings(root))
    place = writer.folder / record.files[0].path
    place.write_bytes(place.read_bytes()[:length])
    assert list(inspect_folder(writer.open, record))


def test_a_tarball_written_by_another_program_is_compared_member_by_member(tmp_path: Path) -> None:
    root = buckets(tmp_path / "storage")
    writer = new_set(tmp_path)
    record = capture(writer, settings(root))
    place = writer.folder / record.files[0].path
    names = subprocess.run(["tar", "tzf", place], check=True, capture_output=True, text=True).stdout.split()
    command = ["tar", "cf", "-", "--format=pax", "--no-recursion", "-C", root, *names]
    plain = subprocess.run(command, check=True, capture_output=True).stdout
    place.write_bytes(gzip.compress(plain))
    assert list(inspect_folder(writer.open, record)) == []
    (root / "private" / "a.txt").write_text("other..")
    os.utime(root / "private" / "a.txt", ns=(0, 5))
    plain = subprocess.run(command, check=True, capture_output=True).stdout
    place.write_bytes(gzip.compress(plain))
    (finding,) = inspect_folder(writer.open, record)
    assert "private/a.txt" in finding.subject


def test_a_path_longer_than_the_system_allows_is_named_as_that(tmp_path: Path) -> None:
    root = buckets(tmp_path / "storage")
    folder = os.open(root, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("n" * 250, dir_fd=folder)
        deeper = os.open("n" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
    os.close(folder)
    with pytest.raises(SourceError, match="name too long") as refused:
        capture(new_set(tmp_path), settings(root))
    assert "shorten" in refused.value.remedy
    assert len(str(refused.value)) < 1500
    shutil.rmtree(root)
