"""Data that a restore is refused at first: by CHECKs that read other tables, and under the empty search_path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backup_pipeline.postgres.compare.scratch_restore import drill_database
from backup_pipeline.postgres.load import load as restore_load
from backup_pipeline.postgres.load.rebuild import rebuild_database
from backup_pipeline.postgres.server.databases import drop_database
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_restore import ask, dump_of, expectation_of, opened, run

Make = Callable[[str], PostgresTarget]
# `a_orders` is loaded before the table that its CHECK reads, and `b_rates` before `c_currencies`.
CHECKED = """
create table c_currencies (code text primary key);
insert into c_currencies values ('EUR'), ('CHF');
create function known(code text) returns boolean language sql stable
  as 'select exists (select from public.c_currencies c where c.code = $1)';
create table b_rates (code text primary key check (public.known(code)), rate numeric);
insert into b_rates values ('EUR', 1), ('CHF', 0.95);
create function okrate(rate numeric) returns boolean language sql stable
  as 'select exists (select from public.b_rates r where r.rate = $1)';
create table a_orders (id int, rate numeric constraint a_rate_is_known check (public.okrate(rate)), note text);
insert into a_orders select n, case n % 2 when 0 then 1 else 0.95 end, repeat(md5(n::text), 8)
  from generate_series(1, 100) n;
comment on constraint a_rate_is_known on a_orders is 'kept';
"""
BROKEN = "update b_rates set rate = 0.94 where code = 'CHF'"
UNQUALIFIED = """
create function price(n int) returns int language plpgsql immutable as 'begin return n * 2; end';
create function with_tax(n int) returns int language plpgsql immutable as 'begin return price(n) + 1; end';
create table goods (id int primary key, gross int generated always as (with_tax(id)) stored);
insert into goods (id) select generate_series(1, 40);
create table seen (id int check (with_tax(id) > 0));
insert into seen values (1);
"""
INDEXED = "create index on goods (with_tax(id)); create materialized view m as select with_tax(id) as t from goods;"


def _made(request: pytest.FixtureRequest, kind: str, sql: str) -> PostgresTarget:
    if kind == "installed":
        return request.getfixturevalue("installed_database")(sql)  # type: ignore[no-any-return]
    target = request.getfixturevalue("database")()
    run(target, sql)
    return target  # type: ignore[no-any-return]


def _restored(target: PostgresTarget, tmp_path: Path, form: str) -> tuple[PostgresTarget, tuple[str, ...]]:
    """Restore a database's dump beside it; return the copy and what was left out."""
    path = tmp_path / f"dump.{form}"
    path.write_bytes(dump_of(target, *(["-Fc"] if form == "custom" else [])))
    copy = target.with_database(f"{target.database}_{form}")
    done = rebuild_database(lambda: path.open("rb"), copy)
    return copy, tuple(line.subject for line in done.skipped_lines)


@pytest.mark.takes(seconds=12)
@pytest.mark.parametrize(("kind", "large"), [("embedded", True), ("installed", False)])
def test_tables_whose_checks_read_others_are_loaded_after_them(
    kind: str, large: bool, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = _made(request, kind, CHECKED)
    if large:
        # Loaded by several connections at once, each of which is refused.
        monkeypatch.setattr(restore_load, "LARGE_TABLE", 4096)
    wanted = (
        "select count(*), min(obj_description(k.oid)) from a_orders, pg_constraint k where conname = 'a_rate_is_known'"
    )
    for broken in (False, True):
        if broken:
            run(target, BROKEN)
        for form in ("plain", "custom"):
            copy, skipped_lines = _restored(target, tmp_path, form)
            try:
                assert ask(copy, wanted) == [(100, "kept")]
                # Rows that violate the constraint where they come from do so in the copy, which says it.
                assert skipped_lines == (("public.a_orders.a_rate_is_known",) if broken else ())
                assert ask(copy, "select convalidated from pg_constraint where conname like 'a_rate%'") == [
                    (not broken,)
                ]
            finally:
                drop_database(copy)
    drilled = drill_database(opened(dump_of(target)), expectation_of(target), target)
    assert drilled.findings == []
    assert "a_rate_is_known" in str(drilled.skipped)


def test_a_check_that_held_while_another_table_was_empty_is_tested_again(
    database: Callable[[], PostgresTarget], tmp_path: Path
) -> None:
    # Loaded first, `a_quiet` satisfies its CHECK whatever it holds; with the rows of `b_blocked` it does not.
    target = database()
    run(
        target,
        "create table b_blocked (id int); create function free(id int) returns boolean language sql stable"
        " as 'select not exists (select from public.b_blocked b where b.id = $1)';"
        "create table a_quiet (id int constraint is_free check (public.free(id)));"
        "create table c_fine (id int constraint is_free_too check (public.free(id)));"
        "insert into a_quiet values (1), (2); insert into c_fine values (3); insert into b_blocked values (2)",
    )
    for form in ("plain", "custom"):
        copy, skipped_lines = _restored(target, tmp_path, form)
        try:
            assert skipped_lines == ("public.a_quiet.is_free",)
            valid = "select conname::text from pg_constraint where conname like 'is_free%' and convalidated"
            assert ask(copy, valid) == [("is_free_too",)]
            assert ask(copy, "select count(*) from a_quiet") == [(2,)]
        finally:
            drop_database(copy)
    drilled = drill_database(opened(dump_of(target)), expectation_of(target), target)
    assert drilled.findings == []
    assert "is_free" in str(drilled.skipped)


@pytest.mark.parametrize("kind", ["embedded", "installed"])
def test_functions_that_name_others_without_a_schema_are_restored(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    # Since version 17 indexes and views are built under a search_path of the server's own, wherever that is.
    target = _made(request, kind, UNQUALIFIED + (INDEXED if kind == "installed" else ""))
    for form in ("plain", "custom"):
        copy, skipped_lines = _restored(target, tmp_path, form)
        try:
            assert skipped_lines == ()
            assert ask(copy, "select sum(gross) from goods") == ask(target, "select sum(gross) from goods")
        finally:
            drop_database(copy)
    assert drill_database(opened(dump_of(target)), expectation_of(target), target).findings == []
