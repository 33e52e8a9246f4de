"""Every value of every type must come out of the Parquet file as the server has it."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import subprocess
import sys
import zoneinfo
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.sources.postgres.drill_exports import compare_exports
from backup_pipeline.sources.postgres.table_export import inspect_table_export
from backup_pipeline.tables.arrow_csv import LineCount
from backup_pipeline_tests.support.examples import examples
from backup_pipeline_tests.support.postgres_capture import NASTY, Capture, capture
from backup_pipeline_tests.support.sites import TestSite, dsn

_FORMATS = ["parquet", "jsonl", "csv"]
Make = Callable[..., PostgresTarget]
_EXACT = {
    "n102": pa.decimal128(10, 2),
    "n60": pa.decimal256(60, 20),
    "by": pa.binary(),
    "i4": pa.int32(),
    "f4": pa.float32(),
    "f8": pa.float64(),
    "b": pa.bool_(),
}


@pytest.fixture(scope="module")
def nasty(template: Callable[[str, str], str], server: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    name = template("nasty", NASTY)
    target = server.target(name)
    folder = tmp_path_factory.mktemp("nasty")
    done = capture(folder, target, tables={"include": ["*"], "formats": _FORMATS})
    return target, done


def _table(done: Capture, *key: str) -> pa.Table:
    return pq.read_table(done.path(done.records[key], ".parquet"))


def test_every_table_of_the_nasty_database_passes_its_checks_and_inspection(nasty: Any) -> None:
    _, done = nasty
    failed = [(k, c) for k, r in done.records.items() for c in r.checks if not c.passed]
    assert failed == []
    assert [f for key in done.records for f in done.findings(*key)] == []
    assert {k[1:] for k in done.records if len(k) == 3} >= {
        ("public", "nasty"),
        ("public", 'we"ird\nname-=1/2'),
        ("Od'd \"x", "T.1"),
        ("public", "nocols"),
        ("public", "part"),
    }
    assert ("s", "public", "part_a") not in done.records


def test_text_forms_are_the_servers_own_and_exact_types_are_exact(nasty: Any) -> None:
    target, done = nasty
    table = _table(done, "s", "public", "nasty").sort_by("id")
    with connected(target) as connection:
        for field in table.schema:
            name = field.name
            form = field.metadata[b"form"]
            assert field.metadata[b"postgres_type"]
            if field.type == pa.string():
                # format() calls the type's own output function, as COPY does.
                shown = f'case when "{name}" is distinct from null then format(\'%s\', "{name}") end'
                query = f"select {shown} from public.nasty order by id"
                expected = [r[0] for r in connection.execute(query.encode())]
                assert table.column(name).to_pylist() == expected, name
            else:
                assert form == b"exact"
    for name, kind in _EXACT.items():
        assert table.schema.field(name).type == kind, name
    assert table.column("n102").to_pylist() == [Decimal("1.10"), None, None]
    assert table.column("n60").to_pylist()[0] == Decimal("123456789012345678901234567890.12345678901234567890")
    assert table.column("by").to_pylist() == [b"\x00\xff\\\n", b"", None]
    assert str(table.column("f8").to_pylist()) == "[nan, -0.0, None]"
    assert table.column("f4").to_pylist()[1] == float("inf")
    assert table.column("t").to_pylist()[0] == ""


def test_dates_and_times_that_fit_are_exact(database: Make, tmp_path: Path) -> None:
    target = database()
    with connected(target) as connection:
        connection.execute("create table public.d (ts timestamp, tz timestamptz, d date, t time, u uuid)")
        connection.execute(
            "insert into public.d values ('1600-02-29 00:00:00.000001', '9999-12-31 23:59:59.999999+00', '0001-01-01', "
            "'23:59:59.999999', null), (null, '2020-05-05 12:00+05:30', '9999-12-31', '00:00', null)"
        )
    done = capture(tmp_path, target)
    table = _table(done, "s", "public", "d")
    assert table.schema.field("tz").type == pa.timestamp("us", tz="UTC")
    assert table.column("ts").to_pylist() == [dt.datetime.fromisoformat("1600-02-29 00:00:00.000001"), None]
    assert table.column("tz").to_pylist()[1] == dt.datetime(2020, 5, 5, 6, 30, tzinfo=dt.UTC)
    assert table.column("d").to_pylist() == [dt.date(1, 1, 1), dt.date(9999, 12, 31)]
    assert table.column("t").to_pylist()[0] == dt.time(23, 59, 59, 999999)
    assert done.check("content_matches_snapshot", "s", "public", "d").passed


def test_a_partitioned_table_is_one_export_with_the_rows_of_its_partitions(nasty: Any) -> None:
    _, done = nasty
    assert done.records["s", "public", "part"].rows == 500
    assert sorted(_table(done, "s", "public", "part").column("id").to_pylist()) == list(range(1, 501))
    assert done.records["s", "public", "parent"].rows == 1


def test_a_table_without_columns_keeps_its_number_of_rows(nasty: Any) -> None:
    _, done = nasty
    assert done.records["s", "public", "nocols"].rows == 2
    assert done.check("content_matches_snapshot", "s", "public", "nocols").passed


def test_json_lines_and_csv_hold_every_row_and_tell_null_from_empty(nasty: Any) -> None:
    _, done = nasty
    record = done.records["s", "public", "nasty"]
    lines = gzip.decompress(done.path(record, ".jsonl.gz").read_bytes()).decode().splitlines()
    rows = [json.loads(line, parse_float=Decimal) for line in lines]
    assert [row["id"] for row in rows] == [1, 2, 3]
    assert rows[0]["t"] == ""
    assert rows[2]["t"] is None
    assert rows[0]["n60"] == Decimal("123456789012345678901234567890.12345678901234567890")
    text = gzip.decompress(done.path(record, ".csv.gz").read_bytes()).decode()
    assert text.startswith("id,i2,i4,")
    assert "\n1,1,2,1.1,NaN,NaN,1.10," in text
    file = next(f for f in record.files if f.path.endswith(".csv.gz"))
    assert file.content_size == len(text.encode())


def test_rows_longer_than_a_piece_and_line_ends_inside_values_survive(database: Make, tmp_path: Path) -> None:
    target = database()
    with connected(target) as connection:
        connection.execute("create table public.big (id int primary key, t text, b bytea)")
        connection.execute(
            "insert into public.big select i, repeat(e'\"x,\\n', 700000 * (i % 2)) || i, "
            "decode(repeat('00ff', 60000), 'hex') from generate_series(1, 12) i"
        )
    # Through psql, because the table is large, and in several ranges.
    done = capture(tmp_path, target, connections=3)
    table = _table(done, "s", "public", "big").sort_by("id")
    assert done.check("content_matches_snapshot", "s", "public", "big").passed
    assert table.column("t").to_pylist()[0] == '"x,\n' * 700000 + "1"
    assert set(table.column("b").to_pylist()) == {b"\x00\xff" * 60000}


_EARLIEST = dt.datetime.fromisoformat("0001-01-01")
_TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=40)


@settings(
    max_examples=examples(8), phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.tuples(
            st.none() | _TEXT,
            st.none() | st.binary(max_size=30),
            st.none()
            | st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**8), max_value=10**8),
            st.none() | st.floats(),
            st.none() | st.datetimes(min_value=_EARLIEST, timezones=st.just(dt.UTC)),
            st.none() | st.booleans(),
            st.lists(st.none() | _TEXT, max_size=3),
        ),
        max_size=8,
    )
)
def test_any_row_comes_back_as_it_was(rows: list[tuple[Any, ...]], database: Make, tmp_path_factory: Any) -> None:
    target = database()
    with connected(target) as connection:
        connection.execute(
            "create table public.r (i int, t text, b bytea, n numeric(14,4), f float8, z timestamptz, o bool, a text[])"
        )
        for number, row in enumerate(rows):
            connection.execute("insert into public.r values (%s, %s, %s, %s, %s, %s, %s, %s)", (number, *row))
        arrays = [r[0] for r in connection.execute("select a::text from public.r order by i")]
    done = capture(tmp_path_factory.mktemp("any"), target, selected=frozenset({("s", "public", "r")}))
    assert done.check("content_matches_snapshot", "s", "public", "r").passed
    table = _table(done, "s", "public", "r").sort_by("i")
    found = list(zip(*(table.column(name).to_pylist() for name in "tbnfzo"), strict=True)) if rows else []
    assert [repr(r) for r in found] == [repr(_as_stored(row)) for row in rows]
    assert table.column("a").to_pylist() == arrays


def _as_stored(row: tuple[Any, ...]) -> tuple[Any, ...]:
    text, data, number, real, moment, flag, _ = row
    exact = None if number is None else number.quantize(Decimal("0.0001"))
    zoned = None if moment is None else moment.replace(fold=0, tzinfo=zoneinfo.ZoneInfo("UTC"))
    return text, data, exact, real, zoned, flag


@settings(max_examples=examples(50))
@given(values=st.lists(st.text('ab",\n', max_size=6), max_size=9), size=st.integers(1, 9))
def test_rows_of_csv_are_counted_whatever_the_pieces(values: list[str], size: int) -> None:
    data = "".join('1,"' + value.replace('"', '""') + '"\n' for value in values).encode()
    lines = LineCount(quoted=True)
    for at in range(0, len(data), size):
        lines.add(data[at : at + size])
    assert lines.count == len(values)


def test_a_row_too_few_or_too_many_in_a_text_export_is_found(nasty: Any) -> None:
    _, done = nasty
    record = done.records["s", "public", "nasty"]
    for name in ("csv_rows_match_snapshot", "json_lines_match_snapshot"):
        assert done.check(name, "s", "public", "nasty").numbers == {"lines": 3, "rows_expected": 3}
    fewer = record.model_copy(update={"rows": 2})
    problems = [finding.problem for finding in inspect_table_export(done.open_file, fewer)]
    assert problems.count("holds 3 rows, the record says 2") == 3


def test_a_table_with_as_many_columns_as_the_server_takes_is_exported(database: Make, tmp_path: Path) -> None:
    target = database()
    columns = ", ".join(f"c{n} int" for n in range(1600))
    with connected(target) as connection:
        connection.execute(f"create table public.wide ({columns})".encode())
        connection.execute("insert into public.wide (c0, c1599) values (1, 2), (3, null)")
    done = capture(tmp_path, target)
    assert _table(done, "s", "public", "wide").column("c1599").to_pylist() == [2, None]
    assert done.check("content_matches_snapshot", "s", "public", "wide").passed


def test_nulls_below_a_constraint_that_is_not_valid_are_exported(database: Make, tmp_path: Path) -> None:
    target = database()
    with connected(target) as connection:
        if connection.info.server_version < 180000:
            pytest.skip("NOT NULL NOT VALID came with version 18")
        connection.execute("create table public.late (id int primary key, a int)")
        connection.execute("insert into public.late values (1, null), (2, 5)")
        connection.execute("alter table public.late add constraint told not null a not valid")
    done = capture(tmp_path, target)
    assert _table(done, "s", "public", "late").column("a").to_pylist() == [None, 5]
    assert done.check("content_matches_snapshot", "s", "public", "late").passed


def test_domains_that_refuse_a_null_in_any_way_are_captured(database: Make, tmp_path: Path) -> None:
    target = database()
    with connected(target) as connection:
        connection.execute(
            "create function public.strict(value int) returns bool language plpgsql as "
            "$$ begin if value is null then raise exception 'nothing'; end if; return true; end $$;"
            "create domain public.present as int check (value is not null);"
            "create domain public.loud as int check (public.strict(value));"
            "create table public.d (id int primary key, p public.present, l public.loud);"
            "insert into public.d values (1, 2, 3);"
            "create table public.parts (p public.present, l public.loud) partition by list (p)"
        )
    done = capture(tmp_path, target)
    assert _table(done, "s", "public", "d").to_pylist() == [{"id": 1, "p": 2, "l": 3}]
    assert done.check("content_matches_snapshot", "s", "public", "d").passed
    assert done.check("content_matches_snapshot", "s", "public", "parts").passed


def test_rows_that_need_not_obey_a_foreign_key_are_no_orphans(database: Make, tmp_path: Path) -> None:
    target = database()
    with connected(target) as connection:
        connection.execute(
            "create table public.parent (id int primary key); insert into public.parent values (1);"
            "create table public.child (id int primary key, p int references public.parent);"
            "create table public.heir () inherits (public.child); insert into public.heir values (1, 99);"
            "create table public.old (id int primary key, p int); insert into public.old values (1, 99);"
            "alter table public.old add foreign key (p) references public.parent not valid;"
            "create table public.broken (id int primary key, p int references public.parent);"
            "insert into public.child values (1, 1);"
            "alter table public.broken disable trigger all; insert into public.broken values (1, 99)"
        )
        if with_periods := connection.info.server_version >= 180000:
            connection.execute(
                "create table public.told (id int4range, at daterange, primary key (id, at without overlaps));"
                "insert into public.told values ('[1,2)', '[2020-01-01,2021-01-01)'), "
                "('[1,2)', '[2021-01-01,2022-01-01)');"
                "create table public.part (id int4range, at daterange, "
                "  foreign key (id, period at) references public.told (id, period at));"
                "insert into public.part values ('[1,2)', '[2020-06-01,2021-06-01)')"
            )
    done = capture(tmp_path, target)
    for name in ("child", "old", *(("part",) if with_periods else ())):
        assert done.check("pandera_schema", "s", "public", name).passed, name
    assert not done.check("pandera_schema", "s", "public", "broken").passed


def test_a_drill_compares_an_export_whatever_order_the_restored_columns_have(database: Make, tmp_path: Path) -> None:
    source, restored, damaged, other = database(), database(), database(), database()
    for target, columns, rows in (
        (source, "name text, number float8, flag bool", "('hi', 1.5, true), (null, 2, false)"),
        (restored, "flag bool, number float8, name text", "(true, 1.5, 'hi'), (false, 2, null)"),
        (damaged, "flag bool, number float8, name text", "(true, 1.5, 'ho'), (false, 2, null)"),
        (other, "flag bool, number text, name text", "(true, 'a value', 'hi'), (false, '2', null)"),
    ):
        with connected(target) as connection:
            connection.execute(f"create table public.t ({columns}); insert into public.t values {rows}".encode())
    done = capture(tmp_path, source)
    records = [done.records["s", "public", "t"]]
    assert compare_exports(done.open_file, records, restored) == []
    assert [f.problem for f in compare_exports(done.open_file, records, damaged)] == [
        "holds other values than the restored table"
    ]
    assert [f.problem for f in compare_exports(done.open_file, records, other)] == [
        "has other types than the restored table"
    ]


_WITHOUT_PANDAS = """
import sys
from backup_pipeline.cli.common import run_app
from backup_pipeline.cli.main import build_app

for command in (["backup", "nightly"], ["drill", "latest"]):
    code = run_app(build_app(), [*command, "--config", sys.argv[1]])
    print([name for name in ("pandas", "pandera") if name in sys.modules], code, file=sys.stderr)
"""


def test_backup_and_drill_of_ordinary_tables_load_neither_pandas_nor_pandera(
    tmp_path: Path, database: Callable[..., PostgresTarget]
) -> None:
    target = database()
    with connected(target, pinned=False) as connection:
        connection.execute(
            b"create table t (id bigint primary key, n int, name text, at timestamptz, price numeric(9, 2), f float8);"
            b"insert into t values (-9223372036854775808, null, 'a', now(), 1.5, 0.5), (7, 2, null, null, null, null);"
            b"insert into t values (9223372036854775807, -3, '', now(), 0, 'nan')"
        )
    site = TestSite(tmp_path)
    site.variables["SHOP_URL"] = dsn(target)
    site.write(
        "store: backups\nsources:\n  shop: {kind: postgres, dsn_env: SHOP_URL}\nplans: {nightly: {sources: [shop]}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_PANDAS, str(site.folder)],
        capture_output=True,
        text=True,
        env=site.environment(),
    )
    assert done.stderr.splitlines()[-1] == "[] 0"
    (sealed,) = site.store("nightly").sets()
    (table,) = (record for record in sealed.records if record.key == ("shop", "public", "t"))
    assert all(check.passed for check in table.checks)
