"""A database in SQL_ASCII holds bytes of no known encoding: they are dumped, exported and restored as they are."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.sources.postgres.drill_exports import compare_exports
from backup_pipeline_tests.support.postgres_capture import capture

_T = ("s", "public", "t")
_FORMATS = ["parquet", "jsonl", "csv"]
# Latin-1, UTF-8, a surrogate, an overlong form, a cut character, and what CSV has to quote.
_VALUES = [
    b"M\xfcller",
    "Müller €".encode(),
    b"\xed\xa0\x80",
    b"\xc0\xaf",
    b"\xe2\x82",
    b'\xff,"\n',
    b"plain",
    b"",
    None,
]
_VALID = [b"", b"ascii", "ä€😀".encode(), "퟿\ue000".encode(), b"\x7f", None]


@pytest.fixture
def any_bytes(server: EmbeddedServer) -> Iterator[PostgresTarget]:
    with connected(server.target()) as connection:
        connection.execute("create database any_bytes template template0 encoding 'SQL_ASCII' locale 'C'")
    yield server.target("any_bytes")
    with connected(server.target()) as connection:
        connection.execute("drop database any_bytes with (force)")


def _fill(target: PostgresTarget) -> None:
    with connected(target) as connection:
        connection.execute(
            "create table public.t (id int primary key, bad text, good text, bads text[], j json, b bytea, n int)"
        )
        for number, value in enumerate(_VALUES):
            good = _VALID[number % len(_VALID)]
            connection.execute(
                "insert into public.t values (%s, convert_from(%s, 'SQL_ASCII'), convert_from(%s, 'SQL_ASCII'), "
                "array[convert_from(%s, 'SQL_ASCII')], '{\"a\": 1}', %s, 1)",
                [number, value, good, value, value],
            )


def test_bytes_that_are_no_utf8_are_kept_and_the_field_says_so(any_bytes: PostgresTarget, tmp_path: Path) -> None:
    _fill(any_bytes)
    done = capture(tmp_path, any_bytes, tables={"include": ["*"], "formats": _FORMATS})
    assert [(k, c) for k, r in done.records.items() for c in r.checks if not c.passed] == []
    assert [f for key in done.records for f in done.findings(*key)] == []
    record = done.records[_T]
    assert record.details["stored_as_bytes"] == ["bad", "bads"]
    table = pq.read_table(done.path(record, ".parquet")).sort_by("id")
    assert table.schema.field("bad").type == pa.binary()
    assert table.schema.field("bad").metadata == {b"postgres_type": b"text", b"form": b"bytes"}
    assert table.schema.field("good").type == pa.string()
    assert table.column("bad").to_pylist() == _VALUES
    assert table.column("bads").to_pylist()[0] == b"{M\xfcller}"
    good = [_VALID[number % len(_VALID)] for number in range(len(_VALUES))]
    assert [None if v is None else v.encode() for v in table.column("good").to_pylist()] == good
    lines = gzip.decompress(done.path(record, ".jsonl.gz").read_bytes()).decode().splitlines()
    reported = {row["id"]: row["bad"] for row in map(json.loads, lines)}
    assert reported[8] is None
    assert [base64.b64decode(reported[n]["$text"]) for n in range(8)] == _VALUES[:8]
    assert b"M\xfcller" in gzip.decompress(done.path(record, ".csv.gz").read_bytes())
    assert compare_exports(done.open_file, [record], any_bytes) == []
    with connected(any_bytes) as connection:
        connection.execute("update public.t set bad = convert_from('\\xfe', 'SQL_ASCII') where id = 0")
    assert compare_exports(done.open_file, [record], any_bytes) != []


def test_a_large_table_of_any_bytes_comes_through_psql_as_it_is(any_bytes: PostgresTarget, tmp_path: Path) -> None:
    with connected(any_bytes) as connection:
        connection.execute("create table public.t (id int, v text)")
        connection.execute("alter table public.t alter v set storage external")
        connection.execute(
            "insert into public.t select i, repeat(convert_from('\\xe4f6fc', 'SQL_ASCII'), 3000) "
            "from generate_series(1, 1000) i"
        )
    done = capture(tmp_path, any_bytes)
    assert done.check("content_matches_snapshot", *_T).passed
    column = pq.read_table(done.path(done.records[_T], ".parquet")).column("v")
    assert set(column.to_pylist()) == {b"\xe4\xf6\xfc" * 3000}


def test_a_database_in_latin_1_is_exported_as_text(server: EmbeddedServer, tmp_path: Path) -> None:
    with connected(server.target()) as connection:
        connection.execute("create database latin template template0 encoding 'LATIN1' locale 'C'")
    try:
        target = server.target("latin")
        with connected(target) as connection:
            connection.execute("create table public.t (v text); insert into public.t values ('Müller')")
        done = capture(tmp_path, target)
        assert done.check("content_matches_snapshot", *_T).passed
        assert pq.read_table(done.path(done.records[_T], ".parquet")).column("v").to_pylist() == ["Müller"]
    finally:
        with connected(server.target()) as connection:
            connection.execute("drop database latin with (force)")
