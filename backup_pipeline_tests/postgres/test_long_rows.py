"""A row of many megabytes passes through dump, export and inspection in a small multiple of its size."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_pipeline.postgres.export.dump_content import DumpContent
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.tables import arrow_csv, csv_rows
from backup_pipeline.tables.arrow_csv import CsvDecoder
from backup_pipeline.tables.arrow_types import ColumnForm
from backup_pipeline.tables.csv_rows import CsvRows, whole_rows
from backup_pipeline_tests.support.examples import examples

_MEGABYTES = 40
# One capture in a process of its own; says its peak before and after, and what did not hold.
_CAPTURE = """
import json, os, sys
from pathlib import Path
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_capture import capture
import backup_pipeline.sources.postgres.table_export, backup_pipeline.sources.postgres.drill_exports
from backup_pipeline.sources.postgres.drill_exports import compare_exports
host, port, database, user, password, folder, what = sys.argv[1:]
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))
before = peak()
target = PostgresTarget(host, int(port), database, user, password)
key = ("s", "dump") if what == "dump" else ("s", "public", "big")
done = capture(Path(folder), target, selected=frozenset({key}))
wrong = [c.name for r in done.records.values() for c in r.checks if not c.passed]
wrong += [str(finding) for finding in done.findings(*key)]
if what == "comparison":
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    wrong += map(str, compare_exports(done.open_file, [done.records[key]], target))
print(json.dumps({"before": before, "after": peak(), "wrong": wrong, "rows": done.records[key].rows}), flush=True)
# As the command line ends: see `cli.main`.
os._exit(0)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux reports it")
@pytest.mark.parametrize(("what", "times"), [("dump", 0.5), ("export", 3), ("comparison", 0)])
def test_a_long_row_costs_a_small_multiple_of_its_size(
    what: str, times: float, database: Callable[..., PostgresTarget], tmp_path: Path
) -> None:
    target = database()
    with connected(target) as connection:
        connection.execute("create table public.big (id int primary key, t text, b bytea)")
        connection.execute("insert into public.big select i, 'short', null from generate_series(10, 2000) i")
        connection.execute(f"insert into public.big values (1, repeat(md5('x'), {_MEGABYTES << 15}), null)".encode())
        long = f"decode(repeat(md5('y'), {_MEGABYTES << 16}), 'hex')"
        connection.execute(f"insert into public.big values (2, null, {long})".encode())
    arguments = [target.host, str(target.port), target.database, target.user, target.password, str(tmp_path), what]
    done = subprocess.run([sys.executable, "-c", _CAPTURE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert found["rows"] == (None if what == "dump" else 1993)
    # The server sends bytes as text of twice their number.
    assert found["after"] - found["before"] < 2 * _MEGABYTES * times + 60


_FIELD = st.none() | st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=30)


@settings(max_examples=examples(100))
@given(rows=st.lists(st.tuples(_FIELD, st.none() | st.binary(max_size=30), st.integers(0, 9), _FIELD), max_size=9))
def test_fields_that_are_cut_out_come_back_where_they_were(rows: list[tuple[str, bytes, int, str]]) -> None:
    def text(value: str | bytes | int | None) -> str:
        match value:
            case None:
                return ""
            case bytes():
                return "\\x" + value.hex()
            case int():
                return str(value)
        return value if value.isalnum() else '"' + value.replace('"', '""') + '"'

    forms = [
        ColumnForm("t", "text", "text", "text"),
        ColumnForm("b", "bytea", "bytea", "bytes"),
        ColumnForm("n", "integer", "integer", "integer"),
        ColumnForm("r", "text", "text", "text").as_raw(),
    ]
    decoder = CsvDecoder(forms, pa.schema([form.field() for form in forms]))
    piece = "".join(",".join(map(text, row)) + "\n" for row in rows).encode()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(arrow_csv, "LONG_FIELD", 7)
        table = decoder.decode(piece) if rows else decoder.decode(b"x,,1,\n").slice(1)
    expected = [(t, b, n, None if r is None else r.encode()) for t, b, n, r in rows]
    assert [tuple(row.values()) for row in table.to_pylist()] == expected


def test_after_a_long_row_the_pieces_are_as_small_as_before() -> None:
    rows = [b"1,short\n"] * 500 + [b'2,"' + b"x" * 9000 + b'"\n'] + [b"3,short\n"] * 3000
    pieces = [len(rows.data) for rows in whole_rows(BytesIO(b"".join(rows)), 1000, _Joined)]
    assert sum(pieces) == sum(map(len, rows))
    long = next(index for index, size in enumerate(pieces) if size > 9000)
    assert max(pieces[:long]) <= 1000
    assert max(pieces[long + 1 :]) <= 1000


class _Joined:
    """Takes a long field and returns it."""

    def __init__(self, column: int = 0) -> None:
        self._parts = [b"%d:" % column]

    def take(self, data: bytes) -> None:
        self._parts.append(data)

    def finish(self) -> bytes:
        return b"".join(self._parts)


class _Counted(_Joined):
    """Takes a long field and returns its length."""

    length = 0

    def take(self, data: bytes) -> None:
        self.length += len(data)

    def finish(self) -> bytes:
        return b"%d" % self.length


def test_a_long_field_is_handed_over_as_it_comes() -> None:
    rows = b'1,"' + b'x""' * 10_000_000 + b'"\n2,' + b"y" * 20_000_000 + b",z\n"
    stream = BytesIO(rows)
    tracemalloc.start()
    try:
        pieces = [(bytes(piece.data), piece.long) for piece in whole_rows(stream, 1_500_000, _Counted)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert pieces == [(b'1,""\n', [(0, 1, b"20000000")]), (b'2,"",z\n', [(0, 1, b"20000000")])]
    assert peak < 12_000_000


@settings(max_examples=examples(200))
@given(
    rows=st.lists(st.lists(st.text('x",\n\\', max_size=40), min_size=3, max_size=3), max_size=6),
    piece=st.integers(8, 40),
    at_once=st.integers(1, 9),
)
def test_rows_and_long_fields_together_are_what_came(rows: list[list[str]], piece: int, at_once: int) -> None:
    def quoted(value: str, *, left: bool = False) -> bytes:
        return b'""' if left else b'"' + value.replace('"', '""').encode() + b'"' if value else b""

    whole = b"".join(b",".join(map(quoted, row)) + b"\n" for row in rows)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(csv_rows, "LONG_FIELD", 7)
        patched.setattr(csv_rows, "_READ_AT_ONCE", at_once)
        found = [CsvRows(bytes(each.data), each.long) for each in whole_rows(BytesIO(whole), piece, _Joined)]
    taken = {column for each in found for _, column, _ in each.long}
    assert taken <= {0, 1, 2}
    left = iter(rows)
    for each in found:
        long = {(row, column): value for row, column, value in each.long}
        row_number = 0
        data = each.data
        assert isinstance(data, bytes)
        while data:
            row = next(left)
            expected = b",".join(quoted(v, left=(row_number, at) in long) for at, v in enumerate(row)) + b"\n"
            assert data.startswith(expected)
            data, row_number = data[len(expected) :], row_number + 1
            for (number, at), value in long.items():
                assert number == row_number - 1 or number == 0
                if number == row_number - 1:
                    assert value == b"%d:" % at + row[at].encode()
    assert next(left, None) is None


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 5000])
def test_a_row_of_a_dump_is_not_kept_until_it_is_whole(size: int) -> None:
    block = b"--\n\nCOPY public.big (t) FROM stdin;\n" + b"\\.x\n" + b"y" * 3000 + b"\\.\n" + b"\\.\n\n"
    dump = b"-- PostgreSQL database dump\n" + block + b"-- PostgreSQL database dump complete\n"
    content = DumpContent()
    for at in range(0, len(dump), size):
        content.feed(dump[at : at + size])
        assert content._table is None or sum(map(len, content._pending)) <= 2
    content.finish()
    assert (content.rows, content.complete) == ({("public", "big"): 2}, True)
    whole = DumpContent()
    whole.feed(dump)
    whole.finish()
    assert content.content_sha256 == whole.content_sha256


def test_long_values_are_told_apart_wherever_the_pieces_end() -> None:
    from backup_pipeline.sources.postgres.drill_exports import sum_of

    long = "ü" * 40_000
    rows = [{"t": "short", "b": b"x"}, {"t": long, "b": None}, {"t": None, "b": long.encode()}]
    schema = pa.schema([("t", pa.string()), ("b", pa.binary())])

    def table(*selection: dict[str, object]) -> tuple[pa.Table, list[tuple[int, int, int]]]:
        return pa.Table.from_pylist(list(selection), schema), []

    assert sum_of([table(*rows)]) == sum_of([table(row) for row in reversed(rows)])
    other = {"t": long[:-1] + "u", "b": None}
    assert sum_of([table(rows[0], other, rows[2])]) != sum_of([table(*rows)])
    assert sum_of([table({"t": "", "b": None})]) != sum_of([table({"t": long, "b": None})])
