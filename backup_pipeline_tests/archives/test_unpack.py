"""Archives made by hand to do harm, and what unpacking makes of them."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backup_pipeline.archives.tarball import EntryKind, Member
from backup_pipeline.archives.unpack import Limits, unpack_tarball, unpack_zip
from backup_pipeline.errors import ValidationError

PLENTY = Limits(100, 1 << 20)


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    out.seek(0)
    return out


def entry(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o644
    for field, value in more.items():
        setattr(info, field, value)
    return info


def line(path: str, data: bytes = b"", kind: EntryKind = EntryKind.FILE, mode: int = 0o644) -> Member:
    return Member(path, kind, len(data), 0, mode, 0, 0, hashlib.sha256(data).hexdigest())


def outside(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir() if path.name != "into")


@pytest.mark.parametrize("path", ["../evil", "/tmp/evil", "a/../../evil", "a//b", "./a", "..", "a/."])
def test_a_path_that_could_lead_out_is_refused_even_if_the_listing_has_it(tmp_path: Path, path: str) -> None:
    archive = tar_of((entry(path), b"x"))
    with pytest.raises(ValidationError, match=r"evil|plain relative|listing"):
        unpack_tarball(archive, "t", [line(path, b"x")], tmp_path / "into", PLENTY)
    assert outside(tmp_path) == []
    assert not [p for p in (tmp_path / "into").rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE],
)
def test_links_devices_and_sparse_files_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive = tar_of((entry("a", kind, linkname="/etc/passwd"), b""))
    with pytest.raises(ValidationError):
        unpack_tarball(archive, "t", [line("a")], tmp_path / "into", PLENTY)
    assert not list((tmp_path / "into").rglob("*"))


def test_a_link_cannot_be_planted_for_a_later_file_to_go_through(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    archive = tar_of((entry("d", tarfile.SYMTYPE, linkname=str(tmp_path / "victim")), b""), (entry("d/file"), b"x"))
    with pytest.raises(ValidationError):
        unpack_tarball(
            archive, "t", [line("d", kind=EntryKind.FOLDER), line("d/file", b"x")], tmp_path / "into", PLENTY
        )
    assert not list((tmp_path / "victim").iterdir())


def test_a_file_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    archive = tar_of((entry("a"), b"1"), (entry("a"), b"2"))
    with pytest.raises(ValidationError, match="twice"):
        unpack_tarball(archive, "t", [line("a", b"1"), line("a", b"2")], tmp_path / "into", PLENTY)


def test_a_file_that_is_also_a_folder_is_refused(tmp_path: Path) -> None:
    archive = tar_of((entry("a"), b"1"), (entry("a/b"), b"2"))
    with pytest.raises(ValidationError, match=r"lies in a file|file and a folder"):
        unpack_tarball(archive, "t", [line("a", b"1"), line("a/b", b"2")], tmp_path / "into", PLENTY)


@pytest.mark.parametrize(
    ("listing", "why"),
    [
        ([], "not what the listing says"),
        ([line("a", b"1"), line("b", b"1")], "not in the tarball"),
        ([line("other", b"1")], "not what the listing says"),
        ([line("a", b"longer")], "not what the listing says"),
        ([line("a", b"2")], "content"),
    ],
)
def test_what_is_not_as_listed_is_refused(tmp_path: Path, listing: list[Member], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        unpack_tarball(tar_of((entry("a"), b"1")), "t", listing, tmp_path / "into", PLENTY)


@pytest.mark.parametrize("limits", [Limits(1, 1 << 20), Limits(100, 3)])
def test_more_than_the_record_says_is_refused_before_it_is_written(tmp_path: Path, limits: Limits) -> None:
    archive = tar_of((entry("a"), b"11"), (entry("b"), b"22"))
    with pytest.raises(ValidationError, match="beyond"):
        unpack_tarball(archive, "t", [line("a", b"11"), line("b", b"22")], tmp_path / "into", limits)
    assert not (tmp_path / "into" / "b").exists()


def test_an_extended_header_of_gigabytes_is_not_read_into_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 8 << 30
    archive = io.BytesIO(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(4 << 20)))
    with pytest.raises(ValidationError, match="extended header"):
        unpack_tarball(archive, "t", [line("a", b"1")], tmp_path / "into", PLENTY)


@pytest.mark.skipif(os.geteuid() != 0, reason="owners are root's to give")
def test_special_mode_bits_come_back_only_with_the_owner_that_they_were_meant_for(tmp_path: Path) -> None:
    names = ("d/tool", "d/foreign")
    archive = tar_of((entry("d", tarfile.DIRTYPE), b""), *((entry(name), b"x") for name in names))
    listing = [line("d", kind=EntryKind.FOLDER, mode=0o3770), *(line(name, b"x", mode=0o6755) for name in names)]
    listing[2] = replace(listing[2], uid=4711, gid=4711)
    done = unpack_tarball(archive, "t", listing, tmp_path / "into", PLENTY)
    modes = {name: stat.S_IMODE((tmp_path / "into" / name).stat().st_mode) for name in ("", "d", *names)}
    assert modes == {"": 0o700, "d": 0o3770, "d/tool": 0o6755, "d/foreign": 0o755}
    assert done.lost == {"owner": ["d/foreign"], "mode": ["d/foreign"]}
    assert "d/foreign" in " ".join(done.notes())


def test_the_folder_must_be_new(tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    with pytest.raises(Exception, match="exists"):
        unpack_tarball(tar_of(), "t", [], tmp_path / "into", PLENTY)


def zip_of(
    change: Callable[[zipfile.ZipInfo], None] = lambda info: None, name: str = "a", data: bytes = b"x"
) -> io.BytesIO:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = (stat.S_IFREG | 0o644) << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        change(info)
        archive.writestr(info, data)
    out.seek(0)
    return out


@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/evil", "a/../../evil", ".git/hooks/post-checkout", "sub/.GIT/config"]
)
def test_a_zip_cannot_write_outside_or_into_a_repositorys_own_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValidationError):
        unpack_zip(zip_of(name=name), "z", tmp_path / "into", PLENTY)
    assert outside(tmp_path) == []
    assert not [p for p in (tmp_path / "into").rglob("*") if p.is_file()]


def test_a_link_in_a_zip_comes_out_as_a_plain_file(tmp_path: Path) -> None:
    def link(info: zipfile.ZipInfo) -> None:
        info.external_attr = (stat.S_IFLNK | 0o777) << 16

    done = unpack_zip(zip_of(link, data=b"/etc/passwd"), "z", tmp_path / "into", PLENTY)
    assert done.links == ["a"]
    assert not (tmp_path / "into" / "a").is_symlink()
    assert (tmp_path / "into" / "a").read_bytes() == b"/etc/passwd"


def test_a_device_in_a_zip_is_refused(tmp_path: Path) -> None:
    def device(info: zipfile.ZipInfo) -> None:
        info.external_attr = (stat.S_IFCHR | 0o666) << 16

    with pytest.raises(ValidationError, match="not a file"):
        unpack_zip(zip_of(device), "z", tmp_path / "into", PLENTY)


def test_a_zip_bomb_is_refused_by_what_it_says_and_by_what_comes_out(tmp_path: Path) -> None:
    bomb = zip_of(data=bytes(50 << 20))
    with pytest.raises(ValidationError, match="More comes out"):
        unpack_zip(bomb, "z", tmp_path / "one", PLENTY)
    # The same with a directory that lies about the size.
    data = bytearray(bomb.getvalue())
    place = data.rindex(b"PK\x01\x02")
    data[place + 24 : place + 28] = (10).to_bytes(4, "little")
    with pytest.raises(ValidationError):
        unpack_zip(io.BytesIO(data), "z", tmp_path / "two", PLENTY)
    assert sum(path.stat().st_size for path in (tmp_path / "two").rglob("*")) <= PLENTY.bytes


def test_a_zip_with_one_name_twice_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", "2")
    with pytest.raises(ValidationError, match="twice"):
        unpack_zip(out, "z", tmp_path / "into", PLENTY)


def test_a_truncated_zip_is_damaged_and_named(tmp_path: Path) -> None:
    good = zip_of(data=os.urandom(5000)).getvalue()
    with pytest.raises(ValidationError, match=r"^z: "):
        unpack_zip(io.BytesIO(good[:-30]), "z", tmp_path / "into", PLENTY)


def test_a_tarball_damaged_inside_a_file_is_damage_and_not_a_fault_of_the_disk(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    good = tar_of((entry("a"), data)).getvalue()
    for cut in (len(good) // 2, len(good) - 4):
        with pytest.raises(ValidationError, match=r"^t: "):
            unpack_tarball(io.BytesIO(good[:cut]), "t", [line("a", data)], tmp_path / f"into{cut}", PLENTY)
