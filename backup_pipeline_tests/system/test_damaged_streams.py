"""A damaged stream is reported as that, wherever the damage lies and whatever the decompressor makes of it."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from backup_pipeline.archives.tarball_reader import read_members
from backup_pipeline.errors import ValidationError
from backup_pipeline.postgres.load.input import plain_sql
from backup_pipeline.postgres.server.clients import PostgresClient
from backup_pipeline.system.streams import Compression, compressed_sink, gunzip, unzstd

CONTENT = b"".join(
    b"insert into t values (%d, '%s');\n" % (i, random.Random(i).randbytes(6).hex().encode()) for i in range(120)
)


def tarball() -> bytes:
    """Return a tarball with long names and times in fractions of a second, so with extended headers."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(2):
            member = tarfile.TarInfo("ü" * 90 + f"/{number}")
            member.size, member.mtime = 50 + number, 1234567.25 + number
            archive.addfile(member, io.BytesIO(b"a" * member.size))
    return file.getvalue()


def members(data: bytes) -> None:
    for _, content in read_members(io.BytesIO(data), "storage.tar.gz"):
        while content and content.read():
            pass


def restored(data: bytes) -> bytes:
    client = PostgresClient((18, 0), Path("/nowhere"))
    with plain_sql(io.BytesIO(data), client) as stream:
        return b"".join(iter(lambda: stream.read(1 << 16), b""))


def verified(data: bytes) -> bytes:
    return b"".join(gunzip(io.BytesIO(data), name="dump"))


@pytest.mark.parametrize("read", [restored, verified])
def test_a_bit_flipped_anywhere_is_refused_or_changes_nothing(read: Callable[[bytes], bytes]) -> None:
    whole = gzip.compress(CONTENT, mtime=0)
    assert read(whole) == CONTENT
    refused = []
    # The first two bytes say that it is gzip at all.
    for position in range(2, len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        try:
            # In the header (time, system) it may mean nothing.
            assert read(bytes(flipped)) == CONTENT
        except ValidationError as error:
            refused.append(error.what)
    assert len(refused) > len(whole) - 20
    assert all("gzip stream" in what for what in refused)


@pytest.mark.parametrize("read", [restored, verified])
def test_a_stream_that_is_cut_off_anywhere_is_refused(read: Callable[[bytes], bytes]) -> None:
    whole = gzip.compress(CONTENT, mtime=0)
    for end in range(2, len(whole)):
        with pytest.raises(ValidationError, match="gzip stream"):
            read(whole[:end])


def written(content: bytes, compression: Compression) -> bytes:
    file = io.BytesIO()
    with compressed_sink(file, compression=compression) as sink:
        sink.write(content)
    return file.getvalue()


def unpacked(data: bytes) -> bytes:
    return b"".join(unzstd(io.BytesIO(data), name="dump"))


@pytest.mark.parametrize("read", [restored, unpacked])
def test_a_zstandard_stream_that_is_cut_off_anywhere_is_refused(read: Callable[[bytes], bytes]) -> None:
    whole = written(CONTENT, "zstd")
    assert read(whole) == CONTENT
    for end in range(4, len(whole)):
        with pytest.raises(ValidationError, match="Zstandard stream"):
            read(whole[:end])


@pytest.mark.parametrize("read", [restored, unpacked])
def test_zstandard_frames_with_anything_behind_them_are_refused(read: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ValidationError, match="Zstandard stream"):
        read(written(CONTENT, "zstd") + b"-- more of it\n")


def test_a_byte_changed_anywhere_in_a_tarball_is_a_clear_error_or_changes_nothing() -> None:
    whole = tarball()
    members(gzip.compress(whole))
    refused = set()
    # Both headers of the first member, and the beginning of the second's.
    for position in range(2048):
        changed = bytearray(whole)
        changed[position] = ord("=")
        try:
            members(gzip.compress(bytes(changed), 1))
        except ValidationError as error:
            refused.add((position, error.where))
    assert len(refused) > 500
    assert {where for _, where in refused} == {"storage.tar.gz"}
