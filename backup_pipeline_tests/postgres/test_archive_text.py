"""A custom archive as plain SQL: the same statements and rows that pg_restore writes, rows before what needs them."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator

import pytest

from backup_pipeline.errors import BackupSystemError, ToolError, ValidationError
from backup_pipeline.postgres.load.archive_text import archive_text
from backup_pipeline.postgres.load.input import ReadablePieces
from backup_pipeline.postgres.load.stream import CopyBlock, DumpParts
from backup_pipeline.postgres.server.clients import PostgresClient, choose_client
from backup_pipeline.postgres.server.databases import create_database, server_facts
from backup_pipeline.postgres.server.embedded import scratch_server
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_restore import NASTY, dump_of, run

LARGE_OBJECTS = "select lo_from_bytea(0, 'one'), lo_from_bytea(0, decode(repeat('ab', 300000), 'hex'));"
LONG_TABLE = "create table long as select i, md5(i::text) || repeat('x', i % 50) as t from generate_series(1, 40000) i;"
Parts = tuple[list[bytes], dict[bytes, bytes]]


@pytest.fixture(scope="module", params=[16, 18])
def source(request: pytest.FixtureRequest) -> Iterator[PostgresTarget]:
    with scratch_server(major=request.param) as server:
        target = server.target("nasty")
        create_database(target)
        run(target, NASTY + LARGE_OBJECTS + LONG_TABLE)
        yield target


@pytest.fixture(scope="module")
def client(source: PostgresTarget) -> PostgresClient:
    return choose_client(server_facts(source).major)


def parts_of(pieces: Iterator[bytes]) -> Parts:
    """Return the statements in order, without the settings that each output begins with, and table → rows."""
    statements: list[bytes] = []
    rows: dict[bytes, bytes] = {}
    for part in DumpParts(ReadablePieces(pieces)):
        if isinstance(part, CopyBlock):
            rows[part.header] = b"".join(part.chunks())
            statements.append(b"COPY")
        elif not part.body.startswith((b"SET ", b"SELECT pg_catalog.set_config(")):
            statements.append(part.body)
    return statements, rows


def by_pg_restore(archive: bytes, client: PostgresClient) -> Parts:
    command = [client.program("pg_restore"), "--file=-"]
    return parts_of(iter([subprocess.run(command, input=archive, capture_output=True, check=True).stdout]))


@pytest.mark.parametrize("how", ["--compress=0", "--compress=1", "--compress=9", "--inserts", "--schema-only"])
def test_statements_and_rows_are_those_of_pg_restore(source: PostgresTarget, client: PostgresClient, how: str) -> None:
    archive = dump_of(source, "--format=custom", how)
    statements, rows = parts_of(archive_text(io.BytesIO(archive), client))
    wanted, wanted_rows = by_pg_restore(archive, client)
    assert rows == wanted_rows
    assert sorted(statements) == sorted(wanted)
    assert len(rows) > 10 if how.startswith("--compress") else not rows


def test_rows_stand_before_keys_and_rights_and_after_their_tables(
    source: PostgresTarget, client: PostgresClient
) -> None:
    statements, _ = parts_of(archive_text(io.BytesIO(dump_of(source, "--format=custom")), client))
    rows = [at for at, text in enumerate(statements) if text == b"COPY"]
    assert rows == list(range(rows[0], rows[-1] + 1))
    for at, text in enumerate(statements):
        if text.startswith(b"CREATE TABLE "):
            assert at < rows[0]
        if text.startswith((b"GRANT ", b"REVOKE ", b"CREATE INDEX ")) or b" ADD CONSTRAINT " in text.split(b"\n")[-1]:
            assert at > rows[-1]


def test_a_damaged_or_cut_archive_is_refused(source: PostgresTarget, client: PostgresClient) -> None:
    archive = dump_of(source, "--format=custom")
    middle = len(archive) // 2
    for damaged in (
        archive[:middle],
        archive[: len(archive) - 2000],
        archive[:500],
        archive[:middle] + bytes(4000) + archive[middle + 4000 :],
    ):
        with pytest.raises((ValidationError, ToolError), match=r"damaged|Exit code 1|cut"):
            list(archive_text(io.BytesIO(damaged), client))


def test_a_layout_that_is_not_known_is_left_to_pg_restore(source: PostgresTarget, client: PostgresClient) -> None:
    archive = bytearray(dump_of(source, "--format=custom"))
    archive[6] = 99
    with pytest.raises(BackupSystemError, match=r"unsupported version \(1\.99\)") as caught:
        list(archive_text(io.BytesIO(archive), client))
    assert caught.value.where == "pg_restore"
