"""Databases that are healthy, with what real ones have: each is backed up, proven and restored as it is."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import psycopg

from backup_pipeline.model.record import Severity
from backup_pipeline.model.restore import RestoreMode, RestoreOptions
from backup_pipeline.operations.proof.drill import drill_set
from backup_pipeline.operations.restore.run import Confirmation, apply_restore, plan_restore
from backup_pipeline.postgres.compare.scratch_restore import DrillHooks, drill_database
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.databases import drop_database
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_capture import capture
from backup_pipeline_tests.support.postgres_restore import ask, dump_of, expectation_of, opened, run, sealed_set
from backup_pipeline_tests.support.sites import TestSite, dsn

# PostgreSQL prints each of these otherwise before a dump and restore than after it.
PRINTED_OTHERWISE = """
create type st as enum ('a', 'b'); create domain dst as st default 'a';
create domain dd as date default now() check (extract('YEAR' from value) > 1);
create view v as select id from (select 1 as id union all select null) q;
create view v2 as select extract('YEAR' from now()) y;
alter view v2 alter column y set default extract('DAY' from now());
create materialized view m as select id from (select 1 as id union all select null) q;
create function f(a numeric default extract('YEAR' from now())) returns bigint language sql
    begin atomic select extract('DAY' from now())::bigint + a; end;
create table g (d date default now(), s dst, z numeric default extract('YEAR' from now()),
                y numeric generated always as (extract('YEAR' from d)) stored check (extract('MONTH' from d) > 0));
create table t (id integer);
create rule r as on insert to t where new.id > 5 do also insert into g (z) select extract('YEAR' from now());
create index gi on g (extract('YEAR' from d)) where extract('YEAR' from d) > 3;
create function tf() returns trigger language plpgsql as 'begin return new; end';
create trigger tr before insert on g for each row when (extract('YEAR' from new.d) > 2) execute function tf();
create policy p on g using (extract('YEAR' from d) > 2) with check (d in (select current_date union all select null));
create statistics ss on (extract('YEAR' from d)), s from g;
create table pp (d date) partition by range (extract('YEAR' from d));
create table pp1 partition of pp for values from (extract('YEAR' from date '2001-01-01')) to (2010);
create publication pub for table g where (extract('YEAR' from d) > 3);
insert into g values (now());
"""
# A real change of each in the restored copy, and the name that it is found by.
REAL_CHANGES = """
view public.v               | create or replace view v as select id from (select 2 as id union all select null) q
default public.v2.y         | alter view v2 alter column y set default extract('MONTH' from now())
materialized view public.m  | drop materialized view m; create materialized view m as select 3
function public.f(numeric)  | create or replace function f(a numeric default extract('MONTH' from now())) returns bigint
                              language sql begin atomic select extract('DAY' from now())::bigint + a; end
rule public.t.r             | create or replace rule r as on insert to t where new.id > 6 do also nothing
index public.gi             | drop index gi; create index gi on g (extract('DAY' from d))
trigger public.g.tr         | create or replace trigger tr before insert on g for each row
                              when (extract('YEAR' from new.d) > 9) execute function tf()
policy public.g.p           | alter policy p on g using (extract('YEAR' from d) > 1)
default public.g.z          | alter table g alter column z set default extract('MONTH' from now())
constraint public.g.g_d_check | alter table g drop constraint g_d_check,
                              add constraint g_d_check check (extract('DAY' from d) > 0)
domain public.dst           | alter domain dst set default 'b'
published pub               | alter publication pub set table g where (extract('YEAR' from d) > 4)
"""
# pg_dump sorts options; what their owner wrote is in another order.
OPTIONS = """
create extension postgres_fdw; create extension file_fdw;
create server s foreign data wrapper postgres_fdw options (host 'h', port '1', dbname 'x');
create user mapping for public server s options (user 'u', password 'p');
create foreign table ft (a integer options (column_name 'b'), c text) server s
    options (table_name 'x', schema_name 'y');
create foreign data wrapper w options (z '1', b '2', a_b '3', ab '4');
create server fs foreign data wrapper file_fdw;
create foreign table ff (a text options (force_null 'true', force_not_null 'false')) server fs
    options (filename '/etc/passwd', format 'csv', delimiter ':');
create table r (a text, b integer) with (fillfactor=70, autovacuum_enabled=false, toast.vacuum_truncate=false,
    toast.autovacuum_enabled=false, autovacuum_analyze_threshold=7, autovacuum_analyze_scale_factor=0.1);
alter table r alter column b set (n_distinct_inherited=3, n_distinct=5);
create view v with (security_invoker=true, security_barrier=true, check_option=local) as select * from r;
create materialized view mv with (fillfactor=70, autovacuum_enabled=false) as select 1 a;
create index on r (a) with (fillfactor=70, deduplicate_items=off);
"""
# What pg_dump does not write, and what of an extension's table it does.
LIMITS = """
create table m (id integer generated always as identity primary key); create table m2 (like m including all);
create table twice (a integer); insert into twice values (1), (1);
create extension pg_trgm version '1.3'; create extension postgis;
insert into spatial_ref_sys (srid, auth_name, auth_srid, srtext, proj4text) values (990123, 'own', 1, 'x', 'y');
create index own_index on spatial_ref_sys (auth_name);
create function silent() returns trigger language plpgsql as 'begin return new; end';
create trigger own_trigger before insert on spatial_ref_sys for each row execute function silent();
"""
# Settings of a role or database that change how the catalog is written or what is sent is understood.
BENDING = {
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "America/St_Johns",
    "extra_float_digits": "-3",
    "bytea_output": "escape",
    "xmloption": "document",
    "xmlbinary": "hex",
    "quote_all_identifiers": "on",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "backslash_quote": "on",
    "exit_on_error": "on",
    "standard_conforming_strings": "off",
    "search_path": "odd, public",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "row_security": "on",
    "statement_timeout": "20s",
    "idle_in_transaction_session_timeout": "100ms",
    "idle_session_timeout": "9s",
    "lock_timeout": "1ms",
    "check_function_bodies": "off",
    "lc_monetary": "C.UTF-8",
    "client_encoding": "LATIN9",
    "default_text_search_config": "simple",
    "synchronize_seqscans": "on",
    "session_replication_role": "replica",
}
BENT = r"""
create schema odd; create table odd.t (a integer); create type odd.e as enum ('x''y', E'back\\slash');
create table t (id integer primary key, texts text[], f float8, i interval default '-1 mon -2 days 03:00:00', m money,
                d date default '2001-02-03', z timestamptz default '2001-02-03 04:05:06+07', b bytea default '\\x00ff',
                x xml, e odd.e default E'back\\slash', check (f = null or f > 0.1), "Quoted" text default 'it''s');
insert into t (id, texts, f, m, x) values (1, array['NULL', null, 'a'], 0.1 + 0.2, 1234.5, '<a/>');
create view v as select id, i + interval '-1 day', e = 'x''y' as "Same" from t where z > '2001-02-03 04:05:06+07';
create index on t ((id + 1)) where texts <> array[null, 'NULL'];
create function f(a text default 'it''s \\ here') returns text language sql as $$ select a $$;
"""
UMLAUTS = '''
create table public.tä (id serial primary key, ö text); create table public."größe ""x""" (a text);
insert into public.tä (ö) select 'ß' || n || repeat('ü', 100) from generate_series(1, 9000) n;
create view public."Übersicht" as select ö from public.tä; insert into public."größe ""x""" values ('é');
'''
SETTINGS = """
store: backups
sources: {shop: {kind: postgres, dsn_env: SHOP_URL}}
plans: {nightly: {sources: [shop]}}
"""
Database = Callable[[str], PostgresTarget]


def run_alone(target: PostgresTarget, statement: str) -> None:
    with connected(target) as connection:
        connection.execute(statement.encode())


def site_of(folder: Path, target: PostgresTarget, more: str = "") -> TestSite:
    folder.mkdir(exist_ok=True)
    site = TestSite(folder)
    site.variables["SHOP_URL"] = dsn(target)
    site.write(SETTINGS.replace("dsn_env: SHOP_URL", f"dsn_env: SHOP_URL{more}"))
    return site


def test_an_extension_whose_name_sql_quotes_is_found_on_the_server_that_has_it(
    installed_database: Database, installed_server: EmbeddedServer, tmp_path: Path
) -> None:
    target = installed_database('create extension "uuid-ossp"; create table t (id uuid default uuid_generate_v4())')
    outcome = drill_database(opened(dump_of(target)), expectation_of(target), installed_server.target())
    assert outcome.findings == []
    site = site_of(tmp_path, target)
    plan = plan_restore(site.site, "nightly", sealed_set(site.site, "nightly"), "shop")
    assert (plan.missing_extensions, plan.reasons_against) == ((), ())


def test_a_platform_is_recognised_by_the_database_and_not_by_roles_of_its_server(
    installed_database: Database, installed_server: EmbeddedServer, tmp_path: Path
) -> None:
    run(installed_server.target(), "create role supabase_admin; create role supabase_auth_admin")
    try:
        target = installed_database("create schema auth; create table auth.users (id int primary key)")
        site = site_of(tmp_path, target)
        set_id = sealed_set(site.site, "nightly")
        plan = plan_restore(site.site, "nightly", set_id, "shop")
        assert plan.reasons_against == ()
        run(target, "alter schema auth owner to supabase_admin")
        # A superuser's server is nobody's platform: the database is rebuilt as any other.
        assert plan_restore(site.site, "nightly", set_id, "shop").reasons_against == ()
        run(
            installed_server.target(),
            "create role tenant login createdb password 'tenant'; grant pg_read_all_data to tenant",
        )
        run(target, f"alter database {target.database} owner to tenant")
        dsn_of_tenant = f"postgresql://tenant:tenant@{target.host}:{target.port}/{target.database}"
        (site.folder / ".env").write_text(f"SHOP_URL={dsn_of_tenant}\n")
        assert "a Supabase platform's database" in str(plan_restore(site.site, "nightly", set_id, "shop"))
        drop_database(target)
    finally:
        run(installed_server.target(), "drop role supabase_admin, supabase_auth_admin; drop role if exists tenant")


def test_definitions_that_are_printed_otherwise_after_a_reload_are_equal(
    installed_database: Database, installed_server: EmbeddedServer
) -> None:
    target = installed_database(PRINTED_OTHERWISE)
    outcome = drill_database(opened(dump_of(target)), expectation_of(target), installed_server.target())
    assert outcome.findings == []


def test_real_changes_of_such_definitions_are_found_by_name(
    database: Callable[..., PostgresTarget], server: EmbeddedServer
) -> None:
    target = database()
    run(target, PRINTED_OTHERWISE)
    changes = dict(line.split("|") for line in re.split(r"\n(?! )", REAL_CHANGES.strip()))

    def change(copy: PostgresTarget) -> None:
        run(copy, ";".join(changes.values()))

    outcome = drill_database(opened(dump_of(target)), expectation_of(target), server.target(), hooks=DrillHooks(change))
    found = {finding.subject for finding in outcome.findings}
    assert found == {name.strip() for name in changes}


def test_options_are_equal_in_whatever_order_they_were_given(
    installed_database: Database, installed_server: EmbeddedServer
) -> None:
    target = installed_database(OPTIONS)
    changes = {
        "definition server s": "alter server s options (set port '2')",
        "definition table public.ft": "alter foreign table ft options (drop schema_name)",
        "view public.v": "alter view v reset (security_invoker)",
        "table public.r": "alter table r set (fillfactor=71)",
    }

    def change(copy: PostgresTarget) -> None:
        run(copy, ";".join(changes.values()))

    dump, expected = dump_of(target), expectation_of(target)
    assert drill_database(opened(dump), expected, installed_server.target()).findings == []
    changed = drill_database(opened(dump), expected, installed_server.target(), hooks=DrillHooks(change))
    assert {finding.subject for finding in changed.findings} == set(changes)


def test_limits_of_pg_dump_are_reported_and_are_no_damage(
    installed_database: Database, installed_server: EmbeddedServer, tmp_path: Path
) -> None:
    target = installed_database(LIMITS)
    with connected(target) as connection, contextlib.suppress(psycopg.errors.UniqueViolation):
        connection.execute("create unique index concurrently invalid on public.twice (a)")
    captured = capture(tmp_path, target)
    check = captured.check("nothing_beyond_pg_dump", "s", "dump")
    assert [row["object"] for row in check.table] == ["index public.invalid", "sequence public.m2_id_seq"]
    assert check.severity is Severity.WARN
    exported = captured.records["s", "public", "spatial_ref_sys"]
    assert exported.rows == 1
    dump, expected = dump_of(target), expectation_of(target)
    outcome = drill_database(opened(dump), expected, installed_server.target())
    assert outcome.findings == []
    # A drill makes extensions in their recorded versions, where its server has these: pg_trgm 1.3 is no difference.
    assert {finding.subject for finding in outcome.skipped} == {
        "index public.invalid",
        "index public.own_index",
        "trigger public.spatial_ref_sys.own_trigger",
        "sequence public.m2_id_seq",
    }

    def lose(copy: PostgresTarget) -> None:
        run(copy, "delete from spatial_ref_sys where srid = 990123")

    lost = drill_database(opened(dump), expected, installed_server.target(), hooks=DrillHooks(lose))
    assert ["spatial_ref_sys" in finding.subject for finding in lost.findings] == [True]


def test_locale_and_its_provider_come_back_or_their_difference_is_reported(
    installed_database: Database, installed_server: EmbeddedServer, server: EmbeddedServer, tmp_path: Path
) -> None:
    target = installed_database("")
    drop_database(target)
    run_alone(
        installed_server.target(),
        f"""create database {target.database} template template0
        encoding 'UTF8' locale_provider icu icu_locale 'de-DE'""",
    )
    run(target, "create table t (a text primary key); insert into t values ('ä'), ('a'), ('z')")
    site = site_of(tmp_path, target)
    set_id = sealed_set(site.site, "nightly")
    drop_database(target)
    plan = plan_restore(site.site, "nightly", set_id, "shop")
    apply_restore(site.site, "nightly", set_id, "shop", confirmation=Confirmation(plan.plan_id, plan.confirm))
    provider = "select datlocprovider, daticulocale from pg_database where datname = current_database()"
    assert ask(target, provider) == [("i", "de-DE")]
    assert ask(target, "select string_agg(a, '' order by a) from t") == [("aäz",)]
    dump, expected = dump_of(target), expectation_of(target)
    there = drill_database(opened(dump), expected, installed_server.target())
    assert (there.findings, there.missing_here, there.skipped) == ([], [], [])
    # The embedded server has no ICU.
    elsewhere = drill_database(opened(dump), expected, server.target())
    assert elsewhere.findings == []
    assert "those of the backup by icu de-DE" in str([f for f in elsewhere.skipped if f.subject == "locale"])


def test_no_setting_of_a_role_or_database_bends_what_is_read_or_restored(
    installed_database: Database, installed_server: EmbeddedServer, tmp_path: Path
) -> None:
    target = installed_database(BENT)
    plain = expectation_of(target)
    commands = [f"alter database {target.database} set {name} = '{value}'" for name, value in BENDING.items()]
    commands += [f"alter role postgres set {name} = '{value}'" for name, value in BENDING.items()]
    run(installed_server.target(), ";".join(commands).replace("'odd, public'", "odd, public"))
    try:
        assert expectation_of(target).catalog == plain.catalog
        outcome = drill_database(opened(dump_of(target)), plain, installed_server.target())
        assert (outcome.findings, outcome.skipped) == ([], [])
        site = site_of(tmp_path, target)
        set_id = sealed_set(site.site, "nightly")
        manifest = site.store("nightly").read(set_id).manifest
        assert manifest
        assert not [check for r in manifest.artefacts for check in r.checks if not check.passed]
        options = RestoreOptions(careful=True)
        plan = plan_restore(site.site, "nightly", set_id, "shop", options)
        apply_restore(
            site.site, "nightly", set_id, "shop", options, confirmation=Confirmation(plan.plan_id, plan.confirm)
        )
    finally:
        run_alone(installed_server.target(), "alter role postgres reset all")
    assert ask(target, "select texts[1] is null, texts[2] is null from public.t") == [(False, True)]


def test_names_are_read_in_the_encoding_that_the_dump_is_written_in(
    database: Callable[..., PostgresTarget], server: EmbeddedServer, tmp_path: Path
) -> None:
    target = database()
    drop_database(target)
    run_alone(
        server.target(),
        f"""create database {target.database} template template0
        encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'""",
    )
    run_alone(target, UMLAUTS)
    for dump_format in ("plain", "custom"):
        site = site_of(tmp_path / dump_format, target, f", dump_format: {dump_format}")
        set_id = sealed_set(site.site, "nightly")
        manifest = site.store("nightly").read(set_id).manifest
        assert manifest
        assert not [check for record in manifest.artefacts for check in record.checks if not check.passed]
        site.variables["DRILL_DATABASE_URL"] = dsn(server.target())
        site.write_env()
        assert drill_set(site.site, "nightly", set_id, run_id="test").findings == ()
    run_alone(target, "delete from public.tä where id < 5")
    options = RestoreOptions(mode=RestoreMode.UPSERT)
    plan = plan_restore(site.site, "nightly", set_id, "shop", options)
    assert [(c.table, c.insert) for c in plan.tables] == [("public.tä", 4)]


def test_a_table_in_a_tablespace_is_restored_where_there_is_none_and_that_is_said(
    installed_database: Database, installed_server: EmbeddedServer, server: EmbeddedServer, tmp_path: Path
) -> None:
    # Inside of the server's own folder, which it may write.
    with connected(installed_server.target()) as connection:
        connection.execute("set allow_in_place_tablespaces = on")
        connection.execute("create tablespace \"fast disk\" location ''")
    target = installed_database("""create table slow (a integer primary key);
        create table t (a integer primary key) tablespace "fast disk"; insert into t values (1);
        create index i on slow (a) tablespace "fast disk"; create table last (a integer)""")
    dump, archive, expected = dump_of(target), dump_of(target, "--format=custom"), expectation_of(target)
    there = drill_database(opened(dump), expected, installed_server.target())
    assert (there.findings, there.missing_here, there.skipped) == ([], [], [])
    file = tmp_path / "t.dump"
    file.write_bytes(archive)
    for open_dump in (opened(dump), lambda: file.open("rb")):
        outcome = drill_database(open_dump, expected, server.target())
        assert outcome.findings == []
        assert "own tablespace, because the server has not got: fast disk" in str(outcome.skipped)
    drop_database(target)
    run_alone(installed_server.target(), 'drop tablespace "fast disk"')


HAZARDS = """
create schema s;
create function s.price(n int) returns int language plpgsql immutable as 'begin return n * 2; end';
create function s.with_tax(n int) returns int language plpgsql immutable as 'begin return price(n) + 1; end';
create function s.kept(n int) returns int language plpgsql immutable set search_path = s
 as 'begin return price(n); end';
create function s.full_name(n int) returns int language sql immutable as 'select s.price(n) -- price(n)';
create function s.by_way(n int) returns int language sql immutable as 'select s.with_tax(n)';
set search_path = s;
create table goods (id int primary key, gross int generated always as (s.with_tax(id)) stored,
                    a int check (s.with_tax(a) > 0), b int check (s.kept(b) > 0), c int check (s.full_name(c) > 0));
create index by_way on goods (s.by_way(id));
create materialized view taxed as select s.with_tax(id) as tax from goods;
create view plain as select s.with_tax(id) as tax from goods;
create view loop as select 1 as a;
create or replace view loop as select a from loop;
"""


def test_what_a_restore_may_refuse_is_named_at_backup(
    installed_database: Database, database: Database, tmp_path: Path
) -> None:
    for number, target in enumerate((installed_database(HAZARDS), database())):
        if number:
            run(target, HAZARDS)
        check = capture(tmp_path / str(number), target).check("restorable_as_written", "s", "dump")
        assert (check.passed, check.severity) == (False, Severity.WARN)
        found = {str(row["object"]): str(row["problem"]) for row in check.table}
        assert set(found) == {
            "default value for s.goods.gross",
            "table constraint goods_a_check on s.goods",
            "index s.by_way",
            "materialized view s.taxed",
            "view s.loop",
        }
        assert "s.with_tax, which names price without its schema" in found["index s.by_way"]
        assert "reads itself" in found["view s.loop"]
