"""Counting the rows of a custom-format archive as a stream, afterwards and while it is written."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable

import pytest

from backup_pipeline.errors import BackupSystemError, ValidationError
from backup_pipeline.postgres.export.archive_list import ArchiveReadBeside, archive_rows
from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.sites import dsn

TABLES = """
create table a as select i, md5(i::text) || repeat(md5((i * 7)::text), 20) as t from generate_series(1, 8000) i;
create table "B b" as select i from generate_series(1, 3) i;
create table nothing (i int);
"""
ROWS = {("public", "a"): 8000, ("public", "B b"): 3, ("public", "nothing"): 0}


class OnlyForward(io.RawIOBase):
    """A stream that cannot seek."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._rest = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._rest.readinto(buffer)


@pytest.fixture
def archive(database: Callable[[str], PostgresTarget], template: Callable[[str, str], str]) -> bytes:
    target = database(template("archived", TABLES))
    with connected(target, pinned=False) as connection:
        program = choose_client(connection.info.server_version // 10000).program("pg_dump")
    return subprocess.run([program, "-Fc", "-Z0", dsn(target)], capture_output=True, check=True).stdout


def beside(data: bytes) -> dict[tuple[str, str], int]:
    sink = io.BytesIO()
    with ArchiveReadBeside(sink, "x.dump") as reading:
        for start in range(0, len(data), 100_000):
            reading.write(data[start : start + 100_000])
    assert sink.getvalue() == data
    return reading.result


def afterwards(data: bytes) -> dict[tuple[str, str], int]:
    return archive_rows(OnlyForward(data), "x.dump")  # type: ignore[arg-type]


@pytest.mark.parametrize("rows_of", [afterwards, beside])
def test_an_archive_is_read_as_a_stream_and_damage_is_named(
    rows_of: Callable[[bytes], dict[tuple[str, str], int]], archive: bytes
) -> None:
    assert len(archive) > 5_000_000
    assert rows_of(archive) == ROWS
    for damaged in (archive[: len(archive) // 2], archive[:2000], archive[:3000] + bytes(3000) + archive[6000:]):
        with pytest.raises(ValidationError, match="cannot be read to its end") as caught:
            rows_of(damaged)
        assert caught.value.where == "x.dump"
    for none in (b"", b"PG", b"x" * 6_000_000):
        with pytest.raises(ValidationError, match="Not an archive"):
            rows_of(none)


def test_a_dump_that_fails_ends_the_reading_beside(archive: bytes) -> None:
    reading = ArchiveReadBeside(io.BytesIO(), "x.dump")

    def fail() -> None:
        with reading:
            reading.write(archive[:2_000_000])
            raise BackupSystemError("the server went away", where="x", remedy="y")

    with pytest.raises(BackupSystemError, match="the server went away"):
        fail()
    assert not hasattr(reading, "result")
