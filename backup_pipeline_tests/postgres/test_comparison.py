"""What a comparison takes for equal, and what a platform's and Keycloak's databases need besides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backup_pipeline.errors import RefusedError
from backup_pipeline.operations.restore.run import plan_restore
from backup_pipeline.postgres.catalog.keycloak_schema import keycloak_state
from backup_pipeline.postgres.compare.comparison import compare_database
from backup_pipeline.postgres.load.excluded_extensions import ExcludedExtensions, exclude_extensions
from backup_pipeline.postgres.load.rebuild import rebuild_database
from backup_pipeline.postgres.load.stream import CopyBlock, Statement
from backup_pipeline.postgres.merge.upsert import UpsertRequest, upsert_database
from backup_pipeline.postgres.server.databases import drop_database
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.rules.upsert_order import order_of_leaves, upsert_order
from backup_pipeline.sources.postgres import keycloak, supabase
from backup_pipeline_tests.support.postgres_restore import ask, dump_of, expectation_of, opened, run, sealed_set
from backup_pipeline_tests.support.sites import TestSite, dsn

AUTH = """
create schema auth;
create table auth.schema_migrations (version text primary key);
create table auth.users (id integer primary key, email text);
create table auth.identities (id integer primary key, user_id integer not null references auth.users);
create table public.profiles (id integer primary key references auth.users, name text);
create function public.new_user() returns trigger language plpgsql security definer as $$
begin insert into public.profiles values (new.id, 'made by the trigger'); return new; end $$;
insert into auth.schema_migrations values ('20240101'), ('20250101');
insert into auth.users values (1, 'a@example.org'), (2, 'b@example.org');
insert into auth.identities values (1, 1), (2, 2);
insert into public.profiles values (1, 'Anna'), (2, 'Berta');
create trigger on_new_user after insert on auth.users for each row execute function public.new_user();
"""
KEYCLOAK = """
create table databasechangeloglock (id integer primary key, locked boolean, lockgranted timestamp, lockedby text);
create table databasechangelog (id varchar(255), author text, orderexecuted integer);
create table migration_model (id varchar(36) primary key, version varchar(36), update_time bigint);
insert into databasechangeloglock values (1, true, now(), 'somebody');
insert into databasechangelog values ('25.0.0-1', 'kc', 1), ('26.0.0-33201', 'kc', 2);
insert into migration_model values ('x', '25.0.0', 1), ('y', '26.0.0', 2);
"""


def platform_request(**changes: object) -> UpsertRequest:
    return UpsertRequest(
        supabase.may_be_written,
        versions=lambda name: name in supabase.VERSION_TABLES,
        **changes,  # type: ignore[arg-type]
    )


def test_inherited_columns_in_another_order_are_the_same_rows(
    server: EmbeddedServer, database: Callable[..., PostgresTarget]
) -> None:
    source = database()
    run(
        source,
        "create table parent (a integer); create table child (z integer) inherits (parent);"
        "alter table parent add column b text; insert into child values (1, 2, 'x'), (3, 4, 'y')",
    )
    copy = server.target("reordered")
    try:
        rebuild_database(opened(dump_of(source)), copy)
        assert ask(copy, "select * from child order by 1") != ask(source, "select * from child order by 1")
        assert not [f for f in compare_database(copy, expectation_of(source)).findings if "rows" in f.problem]
        run(copy, "update child set b = 'other' where a = 1")
        assert [f.subject for f in compare_database(copy, expectation_of(source)).findings] == ["table public.child"]
    finally:
        drop_database(copy)


def test_rows_of_a_partitioned_table_are_counted_once(database: Callable[..., PostgresTarget]) -> None:
    source = database()
    run(
        source,
        "create table events (at integer, what text) partition by range (at);"
        "create table early partition of events for values from (0) to (10) partition by list (what);"
        "create table early_a partition of early for values in ('a');"
        "create table late partition of events for values from (10) to (20);"
        "create table other (n integer); insert into other values (1);"
        "insert into events values (1, 'a'), (2, 'a'), (11, 'b')",
    )
    assert compare_database(source, expectation_of(source)).rows == 4


def test_a_platforms_rows_go_into_its_own_tables_when_the_versions_agree(
    database: Callable[..., PostgresTarget],
) -> None:
    target = database()
    run(target, AUTH)
    dump = dump_of(target)
    run(target, "delete from public.profiles; delete from auth.identities; delete from auth.users where id = 2")
    outcome = upsert_database(opened(dump), target, platform_request(without_triggers=True), commit=True)
    assert outcome.reasons_against == []
    assert ask(target, "select * from public.profiles order by 1") == [(1, "Anna"), (2, "Berta")]
    assert "auth.schema_migrations" not in {change.table for change in outcome.tables}
    run(target, "insert into auth.schema_migrations values ('20260101')")
    with pytest.raises(RefusedError, match="1 only in the target"):
        upsert_database(opened(dump), target, platform_request(), commit=True)


def test_a_role_that_owns_no_tables_skips_triggers_as_a_replica_and_keys_are_checked(
    server: EmbeddedServer, database: Callable[..., PostgresTarget]
) -> None:
    target = database()
    run(target, AUTH)
    dump = dump_of(target)
    run(
        target,
        "do $$ begin create role tenant login password 'tenant'; exception when duplicate_object then null;"
        " end $$; grant set on parameter session_replication_role to tenant;"
        "grant usage on schema auth to tenant; grant all on all tables in schema auth, public to tenant;"
        f'grant all on database "{target.database}" to tenant',
    )
    tenant = PostgresTarget(target.host, target.port, target.database, "tenant", "tenant")
    run(target, "delete from public.profiles; delete from auth.identities; delete from auth.users where id = 2")
    request = platform_request(without_triggers=True)
    outcome = upsert_database(opened(dump), tenant, request, commit=True)
    assert "as a replica does" in str(outcome.warnings)
    assert ask(target, "select * from public.profiles order by 1") == [(1, "Anna"), (2, "Berta")]
    run(target, "delete from public.profiles; delete from auth.identities; delete from auth.users where id = 2")
    only = UpsertRequest(
        lambda name: name != ("auth", "users") and supabase.may_be_written(name),
        versions=request.versions,
        without_triggers=True,
        check_references=False,
    )
    run(target, "create trigger t before insert on public.profiles for each row execute function public.new_user();")
    with pytest.raises(Exception, match=r"refer to rows of auth\.users|does not hold"):
        upsert_database(opened(dump), tenant, only, commit=True)
    assert ask(target, "select count(*) from public.profiles") == [(0,)]
    run(target, "drop owned by tenant; revoke set on parameter session_replication_role from tenant")


def test_keycloaks_lock_is_free_after_a_restore_and_its_version_is_told(
    database: Callable[..., PostgresTarget],
) -> None:
    target, live = database(), database()
    for each in (target, live):
        run(each, KEYCLOAK)
    run(live, "insert into databasechangelog values ('26.1.0-1', 'kc', 3)")
    state, reported = keycloak.settle(target)
    assert "Keycloak 26.0.0, last change 26.0.0-33201" in reported
    assert ask(target, "select locked, lockedby from databasechangeloglock") == [(False, None)]
    assert "start the Keycloak version of the backup" in keycloak.version_warning(state, keycloak_state(live))
    assert keycloak.version_warning(state, keycloak_state(target)) == ""
    assert keycloak.settle(database()) == (None, [])


def test_keycloaks_version_is_recorded_with_the_backup_and_told_in_the_plan(
    tmp_path: Path, database: Callable[..., PostgresTarget]
) -> None:
    live = database()
    run(live, KEYCLOAK)
    site = TestSite(tmp_path)
    site.variables["KC_URL"] = dsn(live)
    site.write("store: sets\nsources: {kc: {kind: postgres, dsn_env: KC_URL}}\nplans: {nightly: {sources: [kc]}}\n")
    set_id = sealed_set(site.site, "nightly")
    manifest = site.store("nightly").read(set_id).manifest
    assert manifest is not None
    record = manifest.record("kc", "dump")
    assert record is not None
    assert record.details["keycloak"] == {"version": "26.0.0", "last_change": "26.0.0-33201"}
    assert "Keycloak" not in str(plan_restore(site.site, "nightly", set_id, "kc").warnings)
    run(live, "insert into databasechangelog values ('26.1.0-1', 'kc', 3)")
    assert "start the Keycloak version of the backup" in str(plan_restore(site.site, "nightly", set_id, "kc").warnings)


def test_a_copy_skips_extensions_that_act_alone_and_names_others_that_are_missing() -> None:
    apart, missing = exclude_extensions(["pg_cron", "pg_stat_statements", "citext", "postgis"], ["citext", "pg_cron"])
    assert (apart.extensions, missing) == (frozenset({"pg_cron", "pg_stat_statements"}), ["postgis"])
    assert apart(CopyBlock(b"COPY cron.job (jobid) FROM stdin;", iter(())))
    for text in (
        b"CREATE EXTENSION IF NOT EXISTS pg_cron WITH SCHEMA pg_catalog;",
        b"COMMENT ON EXTENSION pg_cron IS 'x';",
        b"GRANT ALL ON FUNCTION cron.schedule(text) TO postgres;",
        b"SELECT pg_catalog.setval('cron.jobid_seq', 3, true);",
        b"GRANT USAGE ON SCHEMA cron TO postgres;",
    ):
        assert apart(Statement(text, text)), text
    for text in (b"CREATE EXTENSION IF NOT EXISTS citext;", b"GRANT ALL ON TABLE public.cron TO postgres;"):
        assert not apart(Statement(text, text)), text
    assert not ExcludedExtensions(frozenset())(CopyBlock(b"COPY cron.job (jobid) FROM stdin;", iter(())))


def test_tables_are_written_after_those_that_they_refer_to_and_cycles_together() -> None:
    a, b, c, d, e = (("s", name) for name in "abcde")
    refers = {a: [b], b: [c], c: [b, c], d: [a], e: [("other", "x")]}
    order = upsert_order([a, b, c, d, e], refers)
    assert order.index([b, c]) < order.index([a]) < order.index([d])
    assert [e] in order
    chain = [("s", f"t{number:05}") for number in range(3000)]
    long = upsert_order(chain, {name: [chain[number + 1]] for number, name in enumerate(chain[:-1])})
    assert long == [[name] for name in reversed(chain)]
    leaves = [("s", "p1"), ("s", "p2"), a]
    groups = order_of_leaves(leaves, {("s", "p1"): ("s", "p"), ("s", "p2"): ("s", "p")}, {a: [("s", "p")]})
    assert groups == [[("s", "p1"), ("s", "p2")], [a]]
