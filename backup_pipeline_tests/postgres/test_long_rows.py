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

from backup_pipeline.postgres.export.copy_program import whole_rows
from backup_pipeline.postgres.export.dump_content import DumpContent
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.tables import arrow_csv
from backup_pipeline.tables.arrow_csv import CsvDecoder
from backup_pipeline.tables.arrow_types import ColumnForm

_MEGABYTES = 40
# One capture in a process of its own; says its peak before and after, and what did not hold.
_CAPTURE = """
import json, os, resource, sys
from pathlib import Path
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_capture import capture
import backup_pipeline.sources.postgres.table_export, backup_pipeline.sources.postgres.drill_exports
host, port, database, user, password, folder, what = sys.argv[1:]
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before = peak()
target = PostgresTarget(host, int(port), database, user, password)
key = ("s", "dump") if what == "dump" else ("s", "public", "big")
done = capture(Path(folder), target, selected=frozenset({key}))
wrong = [c.name for r in done.records.values() for c in r.checks if not c.passed]
wrong += [str(finding) for finding in done.findings(*key)]
print(json.dumps({"before": before, "after": peak(), "wrong": wrong, "rows": done.records[key].rows}), flush=True)
# As the command line ends: see `cli.main`.
os._exit(0)
"""


@pytest.mark.parametrize(("what", "times"), [("dump", 0.5), ("export", 5)])
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
    assert found["rows"] == (1993 if what == "export" else None)
    # The server sends bytes as text of twice their number.
    assert found["after"] - found["before"] < 2 * _MEGABYTES * times + 60


_FIELD = st.none() | st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=30)


@settings(max_examples=100, deadline=None)
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
    pieces = [len(bytes(piece)) for piece in whole_rows(BytesIO(b"".join(rows)), 1000)]
    assert sum(pieces) == sum(map(len, rows))
    long = next(index for index, size in enumerate(pieces) if size > 9000)
    assert max(pieces[:long]) <= 1000
    assert max(pieces[long + 1 :]) <= 1000


def test_room_for_a_long_row_grows_in_place_and_by_no_more_than_an_eighth() -> None:
    row = b'1,"' + b"x" * 8_000_000 + b'"\n'
    tracemalloc.start()
    try:
        assert [len(piece) for piece in whole_rows(BytesIO(row), 1_000_000)] == [len(row)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * len(row)


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

    def table(*selection: dict[str, object]) -> pa.Table:
        return pa.Table.from_pylist(list(selection), schema)

    assert sum_of([table(*rows)]) == sum_of([table(row) for row in reversed(rows)])
    other = {"t": long[:-1] + "u", "b": None}
    assert sum_of([table(rows[0], other, rows[2])]) != sum_of([table(*rows)])
    assert sum_of([table({"t": "", "b": None})]) != sum_of([table({"t": long, "b": None})])
