"""A Supabase-like project, restored by a role without superuser rights, as a platform gives it to its customers.

`tenant` stands for the platform's role `postgres`; `supabase_admin` is the platform's superuser.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backup_pipeline.errors import RefusedError
from backup_pipeline.model.restore import RestoreMode, RestoreOptions, RestorePlan, RestoreResult
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.restore.run import Confirmation, apply_restore, plan_restore
from backup_pipeline.postgres.compare.comparison import compare_database
from backup_pipeline.postgres.compare.scratch_restore import DrillHooks, drill_database
from backup_pipeline.postgres.load.rebuild import rebuild_database
from backup_pipeline.postgres.server.databases import drop_database
from backup_pipeline.postgres.server.embedded import EmbeddedServer, scratch_server
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.rules.skipped_statements import Line, LineKind, SkippedStatements, line_of, reported
from backup_pipeline_tests.support.postgres_restore import ask, dump_of, expectation_of, opened, run, sealed_set
from backup_pipeline_tests.support.sites import TestSite, dsn

ROLES = """
create role supabase_admin superuser login password 'admin';
create role supabase_auth_admin; create role supabase_storage_admin;
create role anon; create role authenticated; create role service_role;
create role tenant nosuperuser createdb createrole bypassrls login password 'tenant';
grant anon, authenticated, service_role to tenant;
grant set on parameter session_replication_role to tenant;
"""
# What the platform makes in every new project's database, before the customer comes.
PLATFORM = """
alter default privileges for role supabase_admin in schema public grant all on tables to anon, authenticated, tenant;
alter default privileges for role tenant in schema public grant all on tables to anon, authenticated, service_role;
grant all on schema public to tenant; grant usage on schema public to anon, authenticated;
create schema auth authorization supabase_admin;
grant usage on schema auth to tenant, anon, authenticated, supabase_auth_admin;
create table auth.schema_migrations (version text primary key);
insert into auth.schema_migrations values ('20240101'), ('20250101');
create table auth.users (id integer primary key, email text);
create table auth.identities (id serial primary key, user_id integer not null references auth.users);
create function auth.uid() returns integer language sql as 'select 1';
alter table auth.schema_migrations owner to supabase_auth_admin;
alter table auth.users owner to supabase_auth_admin;
alter table auth.identities owner to supabase_auth_admin;
grant all on all tables in schema auth to tenant; grant all on all sequences in schema auth to tenant;
create schema storage authorization supabase_admin;
grant usage on schema storage to tenant;
create table storage.migrations (id integer primary key, name text unique);
insert into storage.migrations values (1, 'initial');
create table storage.objects (id integer primary key, name text, owner integer);
alter table storage.objects enable row level security;
grant all on all tables in schema storage to tenant;
create schema extensions authorization supabase_admin;
create function extensions.watch() returns event_trigger language plpgsql as 'begin end';
alter function extensions.watch owner to supabase_admin;
create event trigger platform_watch on ddl_command_end execute function extensions.watch();
create publication supabase_realtime; alter publication supabase_realtime owner to tenant;
"""
# What the customer makes of it, as `tenant`.
PROJECT = """
create table public.profiles (id integer primary key references auth.users, name text);
create table public.notes (id bigint generated always as identity primary key, owner integer references auth.users,
                           body text);
create table public.secrets (id integer primary key);
revoke all on public.secrets from anon, authenticated;
alter table public.notes enable row level security;
create policy own_notes on public.notes to authenticated using (owner = auth.uid());
create function public.new_user() returns trigger language plpgsql security definer as $$
begin insert into public.profiles values (new.id, 'made by the trigger'); return new; end $$;
alter publication supabase_realtime add table public.notes;
insert into auth.users values (1, 'a@example.org'), (2, 'b@example.org');
insert into auth.identities (user_id) values (1), (2);
insert into storage.objects values (1, 'materials/a.pdf', 1);
insert into public.profiles values (1, 'Anna'), (2, 'Berta');
insert into public.notes (owner, body) select 1 + n % 2, 'note ' || n from generate_series(1, 50) n;
insert into public.secrets values (7);
"""
ON_PLATFORM = """
create trigger on_new_user after insert on auth.users for each row execute function public.new_user();
create policy own_files on storage.objects to authenticated using (owner = auth.uid());
"""
SETTINGS = """
store: backups
sources:
  supabase: {kind: postgres, dsn_env: SUPABASE_URL, tables: {include: ["public.*"]}}
plans:
  nightly: {sources: [supabase]}
"""


class Project:
    """A platform's server with one project's database, and a sealed set of it made by `tenant`."""

    def __init__(self, server: EmbeddedServer, folder: Path) -> None:
        self.server = server
        run(server.target(), ROLES)
        self.source = self.new_database("project")
        run(self.source, PROJECT)
        run(server.target("project"), ON_PLATFORM)
        self.site = TestSite(folder)
        self.site.variables["SUPABASE_URL"] = dsn(self.source)
        self.site.write(SETTINGS)
        self.set_id: SetId = sealed_set(self.site.site, "nightly")

    def as_tenant(self, database: str) -> PostgresTarget:
        there = self.server.target()
        return PostgresTarget(there.host, there.port, database, "tenant", "tenant")

    def new_database(self, name: str) -> PostgresTarget:
        """A database as the platform makes it for a new project."""
        run(self.server.target(), f"create database {name}")
        run(self.server.target(), f"grant all on database {name} to tenant")
        run(self.server.target(name), PLATFORM)
        return self.as_tenant(name)

    def towards(self, target: PostgresTarget) -> None:
        """From now on the source's variable names this database."""
        self.site.variables["SUPABASE_URL"] = dsn(target)
        self.site.write_env()

    def plan(self, options: RestoreOptions | None = None) -> RestorePlan:
        return plan_restore(self.site.site, "nightly", self.set_id, "supabase", options)

    def apply(self, plan: RestorePlan) -> RestoreResult:
        return apply_restore(
            self.site.site,
            "nightly",
            self.set_id,
            "supabase",
            plan.options,
            confirmation=Confirmation(plan.plan_id, plan.confirm),
        )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    # A server of its own: roles belong to the whole server.
    with scratch_server(Path("/tmp"), settings={"max_connections": "60"}) as server:
        yield Project(server, tmp_path_factory.mktemp("supabase"))


@pytest.fixture
def fresh(project: Project) -> Iterator[PostgresTarget]:
    """A new project's database, which the source's variable names."""
    target = project.new_database("fresh")
    project.towards(target)
    yield target
    project.towards(project.source)
    drop_database(project.server.target("fresh"))


def content(target: PostgresTarget) -> list[list[tuple[object, ...]]]:
    names = ("auth.users", "auth.identities", "storage.objects", "public.profiles", "public.notes", "public.secrets")
    return [ask(target, f"select * from {name} order by 1") for name in names]


def test_a_role_without_superuser_rights_rebuilds_and_is_told_what_it_may_not_do(project: Project) -> None:
    plan = project.plan(RestoreOptions(into="looked_at"))
    assert plan.reasons_against == ()
    foretold = "\n".join(plan.warnings)
    assert "left with tenant: it may not give them to" in foretold
    assert "supabase_auth_admin (" in foretold
    assert "default privileges skipped, which only that role may set: supabase_admin" in foretold
    assert "event triggers skipped, which only a superuser may create: platform_watch" in foretold
    result = project.apply(plan)
    try:
        assert content(project.as_tenant("looked_at")) == content(project.source)
        assert any("owner of" in text for text in result.warnings)
    finally:
        drop_database(project.server.target("looked_at"))


def test_what_this_role_could_do_is_compared_all_the_same(project: Project) -> None:
    copy = project.as_tenant("copy")
    rebuilt = rebuild_database(opened(dump_of(project.source)), copy)
    try:
        expected = expectation_of(project.source)
        assert compare_database(copy, expected, skipped_lines=rebuilt.skipped_lines).findings == ()
        for damage, subject in (
            ("revoke select on public.notes from anon", "grant table public.notes"),
            ("grant select on public.secrets to anon", "grant table public.secrets"),
            ("grant delete on auth.users to anon", "grant table auth.users"),
            ("alter table public.notes owner to anon", "owner table public.notes"),
            ("drop publication supabase_realtime", "publication supabase_realtime"),
            ("drop policy own_notes on public.notes", "policy public.notes.own_notes"),
            (
                "alter default privileges for role tenant in schema public revoke all on tables from anon",
                "default privilege",
            ),
        ):
            run(project.server.target("copy"), damage)
            result = compare_database(copy, expected, skipped_lines=rebuilt.skipped_lines)
            found = [f"{finding.subject}: {finding.problem}" for finding in result.findings]
            assert any(subject in line for line in found), found
    finally:
        drop_database(project.server.target("copy"))


def test_a_drill_by_such_a_role_says_what_it_could_not_look_at_and_proves_the_rest(project: Project) -> None:
    dump, expected = dump_of(project.source), expectation_of(project.source)
    outcome = drill_database(opened(dump), expected, project.as_tenant("postgres"))
    assert outcome.findings == []
    assert any("left with tenant" in skipped.problem for skipped in outcome.skipped)
    lost = drill_database(
        opened(dump),
        expected,
        project.as_tenant("postgres"),
        hooks=DrillHooks(lambda target: run(target, "revoke select on public.notes from anon")),
    )
    assert [finding.subject for finding in lost.findings] == ["grant table public.notes"]


def test_a_superuser_is_refused_nothing(project: Project) -> None:
    copy = project.server.target("copy")
    rebuilt = rebuild_database(opened(dump_of(project.server.target("project"))), copy)
    try:
        assert rebuilt.skipped_lines == ()
        assert compare_database(copy, expectation_of(project.server.target("project"))).findings == ()
    finally:
        drop_database(copy)


def test_a_new_project_gets_its_own_schemas_and_the_platforms_tables_their_rows(
    project: Project, fresh: PostgresTarget
) -> None:
    before = dump_of(project.server.target("fresh"))
    plan = project.plan()
    assert plan.reasons_against == ()
    assert "as the platform made it" in " ".join(plan.steps)
    assert {t.table: t.insert for t in plan.tables}["public.notes"] == 50
    assert {t.table: t.insert for t in plan.tables}["auth.users"] == 2
    assert [line for line in dump_of(project.server.target("fresh")).split(b"\n") if b"restrict" not in line] == [
        line for line in before.split(b"\n") if b"restrict" not in line
    ], "a plan changes nothing"
    result = project.apply(plan)
    assert content(fresh) == content(project.source)
    assert (result.emergency_set, result.undo.kind) == ("", "none")
    assert any("own_files" in text and "platform's tables" in text for text in result.warnings), result.warnings
    owners = (
        "select relname, relowner::regrole::text from pg_class where relnamespace in ('auth'::regnamespace,"
        " 'public'::regnamespace, 'storage'::regnamespace) order by 1"
    )
    assert ask(fresh, owners) == ask(project.source, owners)
    rights = (
        "select relname, (select array_agg(a::text order by a::text) from unnest(relacl) a) from pg_class"
        " where relnamespace = 'public'::regnamespace order by 1"
    )
    assert ask(fresh, rights) == ask(project.source, rights)
    assert ask(fresh, "select nextval('auth.identities_id_seq')") == [(3,)]
    assert ask(fresh, "insert into notes (body) values ('x') returning id") == [(51,)]
    # Now it holds a project: filling it again would be wrong.
    assert any("use --upsert" in reason for reason in project.plan().reasons_against)


def test_a_project_of_another_version_is_refused_and_nothing_is_changed(
    project: Project, fresh: PostgresTarget
) -> None:
    run(project.server.target("fresh"), "insert into auth.schema_migrations values ('20260101')")
    plan = project.plan()
    assert any("1 only in the target" in reason for reason in plan.reasons_against), plan.reasons_against
    with pytest.raises(RefusedError, match="only in the target"):
        project.apply(plan)
    assert ask(fresh, "select count(*) from auth.users") == [(0,)]


def test_a_filling_that_fails_leaves_the_platforms_database_as_it_was(project: Project, fresh: PostgresTarget) -> None:
    run(project.server.target("fresh"), "create function public.new_user() returns integer language sql as 'select 1'")
    plan = project.plan()
    assert any("new_user" in reason for reason in plan.reasons_against), plan.reasons_against
    assert ask(fresh, "select count(*) from auth.users") == [(0,)]
    assert ask(fresh, "select count(*) from pg_class where relnamespace = 'public'::regnamespace") == [(0,)]


def test_rows_that_are_there_already_are_captured_first(project: Project, fresh: PostgresTarget) -> None:
    run(project.server.target("fresh"), "insert into auth.users values (9, 'early@example.org')")
    result = project.apply(project.plan())
    assert result.emergency_set
    assert ask(fresh, "select id from auth.users order by 1") == [(1,), (2,), (9,)]


def test_an_upsert_still_goes_into_a_project_that_is_there(project: Project) -> None:
    run(project.source, "delete from public.notes where id = 3")
    options = RestoreOptions(mode=RestoreMode.UPSERT, tables=("public.notes",))
    project.apply(project.plan(options))
    assert ask(project.source, "select count(*) from public.notes where id = 3") == [(1,)]


def test_only_lines_without_data_or_structure_are_ever_left_out() -> None:
    refused = SkippedStatements(frozenset({"tenant", "anon"}))
    for text, kind, subject in (
        (b'ALTER TABLE auth."odd ""table" OWNER TO supabase_admin;', LineKind.OWNER, "supabase_admin"),
        (b'ALTER FUNCTION f(a text) OWNER TO "Odd ""one";', LineKind.OWNER, 'Odd "one'),
        (b"CREATE EXTENSION IF NOT EXISTS pg_net WITH SCHEMA extensions;", LineKind.EXTENSION, "pg_net"),
        (b"COMMENT ON EXTENSION pg_net IS 'x; OWNER TO y;';", LineKind.EXTENSION_COMMENT, "pg_net"),
        (
            b"ALTER DEFAULT PRIVILEGES FOR ROLE supabase_admin IN SCHEMA public GRANT ALL ON TABLES TO anon;",
            LineKind.DEFAULT_PRIVILEGES,
            "supabase_admin",
        ),
        (b"CREATE EVENT TRIGGER watch ON ddl_command_end\n   EXECUTE FUNCTION f();", LineKind.EVENT_TRIGGER, "watch"),
        (b"ALTER EVENT TRIGGER watch OWNER TO supabase_admin;", LineKind.EVENT_TRIGGER, "watch"),
        (b"SET SESSION AUTHORIZATION supabase_admin;", LineKind.SESSION, "supabase_admin"),
        (b"GRANT ALL ON FUNCTION f() TO anon WITH GRANT OPTION;", LineKind.RIGHTS, "anon"),
    ):
        assert line_of(text) == Line(kind, subject), text
        assert refused.take(text, "42501"), text
        assert not refused.take(text, "57014"), text
    for text in (
        b"CREATE TABLE t (a text DEFAULT ' OWNER TO x;');",
        b"CREATE POLICY p ON t TO anon;",
        b"CREATE FUNCTION f() RETURNS integer LANGUAGE c AS 'x';",
        b"ALTER TABLE t ENABLE ROW LEVEL SECURITY;",
        b"INSERT INTO t VALUES ('GRANT x TO y;');",
    ):
        assert not refused.take(text, "42501"), text
    assert refused.take(b"GRANT SELECT ON t TO gone;", "42704")
    assert [line for line in refused.lines if line.role_missing] == [Line(LineKind.RIGHTS, "gone", role_missing=True)]
    assert reported(refused.lines, "tenant")[0].startswith(
        "owner of 2 objects left with tenant: it may not give them to"
    )
