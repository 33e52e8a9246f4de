"""Unique keys of every kind are held against the rows, not against the index, which may be broken."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.model.record import CheckResult
from backup_pipeline.postgres.catalog.read import read_tables
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.tables import keys as table_keys
from backup_pipeline_tests.support.postgres_capture import Capture, capture

Make = Callable[..., PostgresTarget]
_T = ("s", "public", "t")

_PLAIN = "create unique index on {table} (k)"
_INCLUDING = "create unique index on {table} (k) include (l)"
# The columns, the key's definition, three good rows, and rows that repeat the key, with their number.
_KEYS: dict[str, tuple[str, str, str, str, int]] = {
    "integer primary key": ("k int", "primary key (k)", "(1), (2), (3)", "(1), (3), (3)", 3),
    "text": ("k text", "unique (k)", "('a'), ('b'), ('a ')", "('a')", 1),
    "varchar over a domain": ("k d", "unique (k)", "('a'), ('b'), (null)", "('a')", 1),
    "composite": ("k text, l int", "unique (k, l)", "('a', 1), ('a', 2), ('b', 1)", "('a', 2), ('b', 1)", 2),
    "nulls are distinct": (
        "k text, l int",
        "unique (k, l)",
        "('a', null), ('a', null), (null, null)",
        "('a', 7), ('a', 7)",
        1,
    ),
    "nulls are not distinct": (
        "k text, l int",
        "unique nulls not distinct (k, l)",
        "('a', null), ('b', null), (null, 1)",
        "('a', null), (null, 1)",
        2,
    ),
    "enum": ("k mood", "unique (k)", "('sad'), ('ok'), (null)", "('ok')", 1),
    "numeric with a scale": ("k numeric(10,2)", "unique (k)", "(1), (1.01), ('NaN')", "(1.010), ('NaN')", 2),
    "numeric without": ("k numeric", "unique (k)", "(1.0), (1.01), (2)", "(1.00), (1), (2.000)", 3),
    "interval": ("k interval", "unique (k)", "('1 mon'), ('1 day'), (null)", "('30 days'), ('24:00')", 2),
    "float": ("k float8", "unique (k)", "(0), ('NaN'), (1)", "('-0'), ('NaN')", 2),
    "infinite dates": ("k date", "unique (k)", "('infinity'), ('0044-03-15 BC'), ('2020-01-01')", "('infinity')", 1),
    "jsonb": ("k jsonb", "unique (k)", """('{"a": 1}'), ('{"a": 2}'), ('null')""", """('{"a": 1.0}')""", 1),
    "array": ("k numeric[]", "unique (k)", "('{1}'), ('{2}'), ('{}')", "('{1.0}')", 1),
    "composite type": (
        "k pair",
        "unique (k)",
        "(row(1, null)), (row(null, null)), (row(2, 1))",
        "(row(null, null))",
        1,
    ),
    "range": ("k int4range", "unique (k)", "('[1,3)'), ('empty'), ('[3,4)')", "('[1,2]')", 1),
    "bytea": ("k bytea", "unique (k)", r"('\x00'), ('\x0000'), ('')", r"('\x00')", 1),
    "padded text": ("k char(5)", "unique (k)", "('a'), ('b'), ('c')", "('a  ')", 1),
    "uuid": ("k uuid", "unique (k)", "(md5('a')::uuid), (md5('b')::uuid), (null)", "(md5('a')::uuid)", 1),
    "an index that includes a column": ("k int, l int", _INCLUDING, "(1, 1), (2, 2), (3, 3)", "(1, 2)", 1),
    "a plain unique index": ("k text", _PLAIN, "('a'), ('b'), ('c')", "('a')", 1),
    "a deferrable key": ("k int", "unique (k) deferrable initially deferred", "(1), (2), (3)", "(1)", 1),
}
_FLAG = "update pg_index set indisunique = {} where indrelid = 'public.{}'::regclass"
_TYPES = (
    b"create type public.mood as enum ('sad', 'ok'); create domain public.d as varchar(9); "
    b"create type public.pair as (a int, b int);"
)


def _make_table(connection: Any, table: str, columns: str, key: str, rows: str) -> None:
    constraint = f", {key}" if "index" not in key else ""
    connection.execute(f"create table public.{table} ({columns}{constraint})".encode())
    if not constraint:
        connection.execute(key.format(table=f"public.{table}").encode())
    connection.execute(f"insert into public.{table} values {rows}".encode())


def _break_the_key(target: PostgresTarget, table: str, rows: str) -> None:
    """Add rows past the index, as a broken index or a changed collation lets them in."""
    with connected(target) as connection:
        connection.execute(_FLAG.format("false", table).encode())
    with connected(target) as connection:
        connection.execute(f"insert into public.{table} values {rows}".encode())
        connection.execute(_FLAG.format("true", table).encode())


@pytest.fixture(scope="module")
def captured(
    server: Any, template: Callable[[str, str], str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Capture, Capture]:
    """Every kind of key in a table of its own, captured while it holds and after it was broken."""
    # Its own at each set-up: a module's tests may be shared out in several parts to one process.
    name = f"keys_{uuid.uuid4().hex[:12]}"
    with connected(server.target()) as connection:
        connection.execute(
            f'create database {name} template "{template("keys_of_every_kind", _TYPES.decode())}"'.encode()
        )
    target = server.target(name)
    with connected(target) as connection:
        connection.execute("set search_path = public, pg_catalog")
        for number, (columns, key, good, _, _) in enumerate(_KEYS.values()):
            _make_table(connection, f"t{number}", columns, key, good)
    before = capture(tmp_path_factory.mktemp("good"), target)
    for number, (_, _, _, bad, _) in enumerate(_KEYS.values()):
        _break_the_key(target, f"t{number}", bad)
    return before, capture(tmp_path_factory.mktemp("bad"), target)


def _check(target: PostgresTarget, folder: Path) -> CheckResult:
    return capture(folder, target, selected=frozenset({_T})).check("pandera_schema", *_T)


@pytest.mark.parametrize("kind", _KEYS)
def test_repeated_keys_are_found_and_good_ones_are_not(kind: str, captured: tuple[Capture, Capture]) -> None:
    key, table = _KEYS[kind][1], f"t{list(_KEYS).index(kind)}"
    before, after = (done.check("pandera_schema", "s", "public", table) for done in captured)
    assert (before.passed, before.table, "left to the server" in before.summary) == (True, (), False)
    named = "k, l" if "(k, l)" in key else "k"
    assert after.table == ({"column": named, "check": "unique key", "failures": _KEYS[kind][4]},)


def test_several_pieces_and_passes_find_what_one_does(
    database: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = database()
    filler = "repeat(md5(i::text), 40)"
    rows = f"select i, 'user' || i || '@example.org', {filler} from generate_series(1, 30000) i"
    with connected(target) as connection:
        connection.execute("create table public.t (k int primary key, constraint_free text, f text)")
        connection.execute("create unique index i on public.t (constraint_free)")
        connection.execute(f"insert into public.t {rows}".encode())
    _break_the_key(
        target,
        "t",
        "(30001, 'user5@example.org', ''), (30002, 'user5@example.org', ''), (30003, 'user29000@example.org', '')",
    )
    made = table_keys.UniqueKeys
    monkeypatch.setattr(
        "backup_pipeline.artefacts.table_validation.UniqueKeys", lambda keys, rows: made(keys, rows, limit=7_000)
    )
    done = capture(tmp_path, target, selected=frozenset({_T}))
    check = done.check("pandera_schema", *_T)
    assert check.table == ({"column": "constraint_free", "check": "unique key", "failures": 3},)
    assert "example.org" not in check.model_dump_json()


def test_what_cannot_be_looked_at_is_named(database: Make, tmp_path: Path) -> None:
    target = database()
    with connected(target) as connection:
        connection.execute(
            b"create table public.t (k text, l int);"
            b"create unique index some_rows on public.t (k) where l > 1;"
            b"create unique index lower_k on public.t (lower(k));"
            b"create function public.cmp(int, int) returns int language sql immutable as 'select ($1 % 7) - ($2 % 7)';"
            b"create operator class public.own for type int using btree as operator 1 <, operator 2 <=, operator 3 =,"
            b" operator 4 >=, operator 5 >, function 1 public.cmp(int, int);"
            b"create unique index of_its_own on public.t (l public.own)"
        )
    check = _check(target, tmp_path)
    assert check.passed
    assert check.summary.endswith("left to the server: unique index lower_k, unique index some_rows, key (l)")


def test_an_index_that_was_never_finished_promises_nothing(database: Make, tmp_path: Path) -> None:
    target = database()
    with connected(target) as connection:
        _make_table(connection, "t", "k text", _PLAIN, "('a'), ('b')")
    _break_the_key(target, "t", "('a')")
    with connected(target) as connection:
        connection.execute("update pg_index set indisvalid = false where indrelid = 'public.t'::regclass")
    assert _check(target, tmp_path).passed


def test_a_collation_that_is_not_deterministic_asks_the_server(database: Make, tmp_path: Path) -> None:
    target = database()
    with connected(target) as connection:
        connection.execute("create collation public.\"my Coll\" (provider = libc, locale = 'C')")
        # Only ICU makes such collations, which not every server has; the catalog's word is enough here.
        connection.execute("update pg_collation set collisdeterministic = false where collname = 'my Coll'")
        connection.execute('create table public.t (k text collate "C", l text collate public."my Coll")')
        connection.execute("create unique index i on public.t (l)")
        connection.execute('create unique index j on public.t (k collate public."my Coll")')
        connection.execute('create unique index k on public.t (l collate "C")')
        keys = next(t.keys for t in read_tables(connection) if t.name == "t")
    assert [(key.columns, key.equality, key.collations) for key in keys] == [
        (("l",), "server", ('public."my Coll"',)),
        (("k",), "server", ('public."my Coll"',)),
        (("l",), "value", ()),
    ]


def test_keys_of_a_partitioned_table_are_unique_over_all_partitions(database: Make, tmp_path: Path) -> None:
    target = database()
    with connected(target) as connection:
        connection.execute(
            b"create table public.t (k numeric, l int) partition by hash (l);"
            b"create table public.t0 partition of public.t for values with (modulus 2, remainder 0);"
            b"create table public.t1 partition of public.t for values with (modulus 2, remainder 1);"
            b"create unique index i on public.t (k, l);"
            b"insert into public.t select n, n from generate_series(1, 50) n"
        )
    assert _check(target, tmp_path / "good").passed
    with connected(target) as connection:
        connection.execute(
            "update pg_index set indisunique = false where indrelid in "
            "('public.t'::regclass, 'public.t0'::regclass, 'public.t1'::regclass)"
        )
    with connected(target) as connection:
        connection.execute("insert into public.t values (7.00, 7), (8.0, 8)")
        connection.execute(
            "update pg_index set indisunique = true where indrelid in "
            "('public.t'::regclass, 'public.t0'::regclass, 'public.t1'::regclass)"
        )
    assert _check(target, tmp_path / "bad").table == ({"column": "k, l", "check": "unique key", "failures": 2},)


def test_the_primary_key_comes_first_and_two_indexes_of_one_key_count_once(database: Make) -> None:
    target = database()
    with connected(target) as connection:
        connection.execute("create table public.t (a int, b int, unique (b), primary key (a))")
        connection.execute("create unique index a_first on public.t (b)")
        found: Any = next(t.keys for t in read_tables(connection) if t.name == "t")
    assert [(key.columns, key.primary) for key in found] == [(("a",), True), (("b",), False)]
