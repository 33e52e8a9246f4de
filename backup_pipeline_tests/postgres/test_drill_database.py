"""A drill proves a good dump, and fails when one row, constraint, policy, sequence value or grant is missing."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backup_pipeline.errors import RefusedError, SourceError
from backup_pipeline.postgres.compare.comparison import Expectation
from backup_pipeline.postgres.compare.scratch_restore import DrillHooks, drill_database
from backup_pipeline.postgres.load.load import load_plain_dump
from backup_pipeline.postgres.load.psql import run_plain_dump
from backup_pipeline.postgres.load.rebuild import rebuild_database
from backup_pipeline.postgres.load.session import refused
from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.databases import create_database, drop_database, server_facts
from backup_pipeline.postgres.server.embedded import EmbeddedServer, scratch_server
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_restore import NASTY, ask, dump_of, expectation_of, opened, run

Captured = tuple[bytes, Expectation]


@pytest.fixture(scope="module")
def captured(server: EmbeddedServer, template: Callable[[str, str], str]) -> Captured:
    target = server.target(template("nasty", NASTY))
    return dump_of(target), expectation_of(target)


@pytest.fixture(scope="module")
def scratch() -> Iterator[PostgresTarget]:
    """A server that knows none of the backup's roles, as a drill makes for itself."""
    with scratch_server(Path("/tmp"), settings={"max_connections": "60"}, superuser="scratch_0123") as running:
        yield running.target()


def drilled(captured: Captured, server: PostgresTarget, damage: str = "") -> list[str]:
    dump, expected = captured
    outcome = drill_database(
        opened(dump),
        expected,
        server,
        hooks=DrillHooks((lambda target: run(target, damage)) if damage else None),
    )
    return [f"{finding.subject}: {finding.problem}" for finding in [*outcome.findings, *outcome.missing_here]]


def test_a_good_dump_is_restored_and_found_equal(captured: Captured, server: EmbeddedServer) -> None:
    before = server_facts(server.target())
    dump, expected = captured
    outcome = drill_database(opened(dump), expected, server.target())
    assert outcome.findings == []
    assert outcome.numbers["tables"] == len(expected.fingerprints) > 15
    assert outcome.numbers["restore_seconds"] > 0
    after = server_facts(server.target())
    assert (after.databases, after.roles) == (before.databases, before.roles)


# What is done to a copy, and what the finding names.
DAMAGES = [
    ("insert into app.no_columns default values", "table app.no_columns: "),
    (
        "alter table app.customers disable trigger touch;"
        "update app.customers set balance = balance + 0.000001 where id = 1;"
        "alter table app.customers enable trigger touch",
        "table app.customers: ",
    ),
    ("insert into app.no_key values (7, null)", "table app.no_key: "),
    ("alter table app.orders drop constraint orders_parent_fkey", "constraint app.orders.orders_parent_fkey"),
    ("alter table app.customers drop constraint customers_name_key", "constraint app.customers.customers_name_key"),
    ("drop policy own on app.orders", "policy app.orders.own: is missing"),
    ("alter table app.orders no force row level security", "table app.orders: is 'table, row security', in"),
    ("select setval('app.customers_id_seq', 1)", "sequence app.customers_id_seq: stands at 1"),
    ("revoke select on app.customers from nasty_reader", "grant table app.customers: is"),
    ('revoke update (name) on app.customers from "nasty-owner = x"', "grant column app.customers.name: is missing"),
    ("alter table app.no_key owner to postgres", "owner table app.no_key: is 'postgres'"),
    ("drop index app.measures_value cascade", "index app.measures_value: is missing"),
    ("drop view app.richer", "view app.richer: is missing"),
    (
        "create or replace function app.plain(a integer) returns integer language sql immutable return a + 2",
        "function app.plain(integer): has another definition",
    ),
    ("drop trigger touch on app.customers", "trigger app.customers.touch: is missing"),
    ("alter table app.customers disable trigger touch", "trigger app.customers.touch: has another definition"),
    ("drop event trigger watch", "event trigger watch: is missing"),
    ("drop publication everything", "publication everything: is missing"),
    ("comment on column app.orders.amount is null", "comment table column app.orders.amount: is missing"),
    ("alter table app.orders alter column details drop default", "default app.orders.details: is missing"),
    ("select lo_unlink(4711)", "large objects: 0 with other content"),
    (
        "alter default privileges for role postgres in schema app revoke select on tables from nasty_reader",
        "default privilege for role postgres in schema app on tables: is missing",
    ),
    ("create table app.more ()", "table app.more: is not in the backup"),
]


@pytest.mark.story
@pytest.mark.parametrize(("damage", "subject"), DAMAGES)
def test_a_drill_fails_when_the_copy_differs_in_one_thing(
    captured: Captured, scratch: PostgresTarget, damage: str, subject: str
) -> None:
    found = drilled(captured, scratch, damage)
    assert found
    assert any(subject in line for line in found), found


@pytest.mark.parametrize("group", range(4))
def test_a_drill_names_each_of_several_differences(captured: Captured, scratch: PostgresTarget, group: int) -> None:
    damages = DAMAGES[group::4]
    found = drilled(captured, scratch, ";".join(damage for damage, _ in damages))
    for _, subject in damages:
        assert any(subject in line for line in found), (subject, found)


def test_a_dump_cut_short_is_a_finding_and_leaves_nothing_behind(captured: Captured, server: EmbeddedServer) -> None:
    before = server_facts(server.target()).databases
    dump, expected = captured
    outcome = drill_database(opened(dump[: len(dump) // 2]), expected, server.target())
    assert "cannot be restored" in outcome.findings[0].problem
    assert server_facts(server.target()).databases == before


def test_a_scratch_server_where_nothing_may_be_made_is_no_finding_about_the_set(
    captured: Captured, server: EmbeddedServer
) -> None:
    dump, expected = captured
    run(server.target(), "create role bystander login password 'x'")
    limited = PostgresTarget("127.0.0.1", server.target().port, "postgres", "bystander", "x")
    try:
        with pytest.raises(RefusedError, match="may not create databases"):
            drill_database(opened(dump), expected, limited)
    finally:
        run(server.target(), "drop role bystander")


def test_what_is_the_servers_own_trouble_is_no_finding_about_the_set() -> None:
    assert refused("x", "53100", where="", remedy="").permanent is False
    assert refused("x", "42P01", where="", remedy="").permanent is True


def test_a_statement_that_is_refused_is_named_without_the_literals_in_it(
    database: Callable[..., PostgresTarget],
) -> None:
    dump = b"CREATE SUBSCRIPTION s CONNECTION 'host=x password=hidden' PUBLICATION p WITH (connect = false, nope = 1);"
    with pytest.raises(SourceError, match=r"SQLSTATE 42601\) in: CREATE SUBSCRIPTION s CONNECTION") as raised:
        load_plain_dump(io.BytesIO(dump), database())
    assert "hidden" not in str(raised.value)
    raising = b"DO $$ begin raise exception 'no stock of %', 'hidden'; end $$;"
    with pytest.raises(SourceError, match="error of its own") as raised:
        load_plain_dump(io.BytesIO(raising), database())
    assert "hidden" not in str(raised.value)
    target = database()
    for line in ("SELECT 'hidden'::integer;", "DO 'begin raise exception ''hidden''; end';"):
        with pytest.raises(SourceError, match=r"psql ended.*\(SQLSTATE (22P02|P0001)\)") as raised:
            run_plain_dump(io.BytesIO(line.encode()), target, choose_client(18, safe_restore=True))
        assert "hidden" not in str(raised.value)


def test_a_missing_extension_is_named_with_the_way_out(captured: Captured, server: EmbeddedServer) -> None:
    dump, expected = captured
    assert expected.roles is not None
    wanting = Expectation(expected.catalog, expected.roles.model_copy(update={"extensions": {"postgis": "3.5"}}), {})
    outcome = drill_database(opened(dump), wanting, server.target())
    found = outcome.missing_here
    assert outcome.findings == []
    assert [finding.subject for finding in found] == ["extension postgis"]
    assert "DRILL_DATABASE_URL" in found[0].remedy


def test_roles_that_the_scratch_server_lacks_are_made_for_the_drill_and_removed(
    server: EmbeddedServer, database: Callable[..., PostgresTarget]
) -> None:
    source = database()
    run(
        source,
        "create role gone_tomorrow; create table t (); alter table t owner to gone_tomorrow;"
        "grant usage on schema public to gone_tomorrow",
    )
    dump, expected = dump_of(source), expectation_of(source)
    run(source, "drop owned by gone_tomorrow; drop role gone_tomorrow")
    outcome = drill_database(opened(dump), expected, server.target())
    assert outcome.findings == []
    assert "gone_tomorrow" in str(outcome.details["roles_made_for_the_drill"])
    assert "gone_tomorrow" not in server_facts(server.target()).roles


def test_subscriptions_and_cron_jobs_never_come_alive(
    server: EmbeddedServer, database: Callable[..., PostgresTarget]
) -> None:
    source = database()
    run(
        source,
        "create schema cron; create table cron.job (jobid bigint primary key, active boolean);"
        "insert into cron.job values (1, true)",
    )
    run(
        source,
        "create subscription feed connection 'host=127.0.0.1 port=1 dbname=x' publication p"
        " with (connect = false, slot_name = 'feed')",
    )
    dump, expected = dump_of(source), expectation_of(source)
    run(source, "alter subscription feed set (slot_name = none); drop subscription feed")
    seen: list[object] = []

    def look(target: PostgresTarget) -> None:
        from backup_pipeline_tests.support.postgres_restore import ask

        seen.extend(ask(target, "select subenabled, subslotname from pg_subscription"))
        seen.extend(ask(target, "select active from cron.job"))

    outcome = drill_database(opened(dump), expected, server.target(), hooks=DrillHooks(look))
    assert seen == [(False, None), (False,)]
    assert "subscription feed disabled" in str(outcome.details["quieted"])


@pytest.mark.parametrize("way", ["plain", "custom"])
def test_what_only_superusers_may_own_stays_with_the_restoring_superuser(
    server: EmbeddedServer, database: Callable[..., PostgresTarget], tmp_path: Path, way: str
) -> None:
    source = database()
    run(
        source,
        "create role platform_admin superuser nologin;"
        "create schema app authorization platform_admin;"
        "create function app.watch() returns event_trigger language plpgsql as 'begin end';"
        "create event trigger watch on ddl_command_end execute function app.watch();"
        "alter event trigger watch owner to platform_admin;"
        "create foreign data wrapper nothing; alter foreign data wrapper nothing owner to platform_admin;"
        "create publication everything for all tables; alter publication everything owner to platform_admin",
    )
    try:
        path = tmp_path / "dump"
        path.write_bytes(dump_of(source, *(["--format=custom"] if way == "custom" else [])))
        expected = expectation_of(source)
        drop_database(source)
        run(server.target(), "drop role platform_admin")
        outcome = drill_database(lambda: path.open("rb"), expected, server.target())
        assert outcome.findings == []
        reported = "\n".join(finding.problem for finding in outcome.skipped)
        assert "watch to platform_admin" in reported
        assert "nothing to platform_admin" in reported
        run(server.target(), "create role platform_admin nologin")
        copy = source.with_database(f"{source.database}_copy")
        try:
            rebuild_database(lambda: path.open("rb"), copy)
            assert ask(copy, "select evtname from pg_event_trigger") == [("watch",)]
            assert ask(copy, "select nspowner::regrole::text from pg_namespace where nspname = 'app'") == [
                ("platform_admin",)
            ]
        finally:
            drop_database(copy)
    finally:
        run(server.target(), "drop role if exists platform_admin")


def test_what_an_extension_brings_belongs_to_whoever_makes_the_extension(
    installed_database: Callable[[str], PostgresTarget],
) -> None:
    source = installed_database(
        # pg_dump writes collations before the extensions; earthdistance is one that only superusers may make.
        "create collation own (locale = 'C'); create extension tablefunc; create extension earthdistance cascade;"
        "create type mine as (a integer); create table places (at earth); create extension unaccent;"
        "create function plain(regdictionary, text) returns text language c immutable strict parallel safe"
        "    as '$libdir/unaccent', 'unaccent_dict';"
        "create table names (n text); insert into names values ('Ö');"
        "create index on names (plain('public.unaccent', n))"
    )
    run(source, "create role drill_other superuser login password 'x'")
    other = replace(source.with_database("postgres"), user="drill_other", password="x")
    try:
        dump, expected = dump_of(source), expectation_of(source)
        assert expected.catalog is not None
        owners = dict(expected.catalog.objects["owner"])
        assert "composite type public.mine" in owners
        assert "composite type public.tablefunc_crosstab_2" not in owners
        assert drilled((dump, expected), other) == []
        # A set of an older release holds it.
        owners["composite type public.tablefunc_crosstab_2"] = "postgres"
        older = expected.catalog.model_copy(update={"objects": {**expected.catalog.objects, "owner": owners}})
        assert drilled((dump, replace(expected, catalog=older)), other) == []
        lost = drilled((dump, expected), other, "alter type mine owner to pg_monitor")
        assert any("owner composite type public.mine" in line for line in lost), lost
    finally:
        run(source, "drop role drill_other")


# As LedgerSMB's and Supabase's: rights on functions whose arguments have names, and a superusers' setting of one.
FUNCTIONS = """
create role drill_teller nologin;
create type "odd kind" as (a integer);
create function named(in_name text, "Odd, one" "odd kind", variadic rest integer[]) returns text language sql
    as 'select in_name';
create procedure step(in a integer, inout b text) language sql as 'select b';
create aggregate total(integer) (sfunc = int4pl, stype = integer);
create function loud() returns integer language plpgsql
    set log_min_messages = 'fatal' set temp_file_limit = 1 set search_path = '' as 'begin return 1; end';
revoke all on function named(text, "odd kind", integer[]), total(integer), loud() from public;
revoke all on procedure step(integer, text) from public;
grant execute on function named(text, "odd kind", integer[]), total(integer), loud() to drill_teller;
"""


@pytest.mark.parametrize("where", ["server", "installed_server"])
def test_rights_on_named_arguments_and_superusers_settings_of_functions_are_proven(
    where: str, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue(where)
    source = server.target("functions_source")
    create_database(source)
    try:
        run(source, FUNCTIONS)
        dump, expected = dump_of(source), expectation_of(source)
        outcome = drill_database(opened(dump), expected, server.target())
        assert (outcome.findings, outcome.missing_here) == ([], [])
        lost = drilled((dump, expected), server.target(), "grant execute on function named to public")
        assert any("grant" in line and "named" in line for line in lost), lost
        assert ask(source, "select * from pg_parameter_acl") == []
        assert ask(source, "select rolname from pg_roles where rolname ~ '^drill_[0-9a-f]+'") == []
    finally:
        drop_database(source)
        run(server.target(), "drop role if exists drill_teller")
