"""Dumps of attackers, drilled for real: no program starts, no file is touched, nothing outside of the copy changes."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backup_pipeline.model.drill_outcome import DrillOutcome
from backup_pipeline.postgres.compare.comparison import Expectation
from backup_pipeline.postgres.compare.scratch_restore import DrillHooks, drill_database
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.databases import server_facts
from backup_pipeline.postgres.server.embedded import EmbeddedServer, scratch_server
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_restore import ask, opened, run

HEAD = "SET client_encoding = 'UTF8';\nSET standard_conforming_strings = on;\n"
SECRET = "what only the operator may read"

# Each is a statement of its own, appended to a dump.
APPENDED = [
    "COPY (SELECT 1) TO PROGRAM 'touch {mark}';",
    "COPY (SELECT 1) TO '{mark}';",
    "CREATE TABLE public.t (x text);\nCOPY public.t FROM PROGRAM 'touch {mark}; echo x';",
    "CREATE TABLE public.t (x text);\nCOPY public.t FROM '{secret}';",
    "DO $$ begin execute 'copy (select 1) to program ''touch {mark}'''; end $$;",
    "SELECT pg_catalog.lo_export(pg_catalog.lo_create(4711), '{mark}');",
    "SELECT pg_catalog.lo_import('{secret}', 4712);",
    "ALTER SYSTEM SET work_mem = '77MB';",
    "ALTER ROLE bystander SUPERUSER;",
    "ALTER ROLE bystander SET work_mem = '77MB';",
    "ALTER DATABASE bystanding SET work_mem = '77MB';",
    "CREATE ROLE attacker SUPERUSER;",
    "CREATE USER attacker SUPERUSER;",
    "DROP DATABASE bystanding WITH (FORCE);",
    "CREATE DATABASE attacker;",
    "CREATE TABLESPACE attacker LOCATION '{folder}';",
    "LOAD '$libdir/plpgsql';",
    "GRANT pg_execute_server_program TO bystander;",
    "GRANT ALL ON DATABASE bystanding TO PUBLIC;",
    "GRANT ALL ON FUNCTION pg_catalog.pg_read_file(text) TO PUBLIC;",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'bystanding';",
    "CREATE FUNCTION public.run(cstring) RETURNS integer LANGUAGE c AS 'libc.so.6', 'system';",
    "CREATE EXTENSION plpython3u;\nCREATE FUNCTION public.f() RETURNS void LANGUAGE plpython3u AS 'pass';",
    "ALTER FUNCTION pg_catalog.pg_read_file(text) OWNER TO PUBLIC;",
    "CREATE FUNCTION public.f() RETURNS event_trigger LANGUAGE plpgsql AS $$ begin perform public.attack(); end $$;\n"
    "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION public.f();\nCREATE TABLE public.late (x text);",
    "CREATE FUNCTION public.f() RETURNS event_trigger LANGUAGE plpgsql AS $$ begin perform public.attack(); end $$;\n"
    "CREATE EVENT TRIGGER e ON login EXECUTE FUNCTION public.f();\nALTER EVENT TRIGGER e ENABLE ALWAYS;",
    "SET SESSION AUTHORIZATION 'postgres';\nALTER TABLE public.victim OWNER TO postgres;",
    "COMMENT ON EXTENSION plpgsql IS 'x'; ALTER SYSTEM SET work_mem = '77MB';",
    "\\! touch {mark}",
]
# What the attacking function tries, one after the other, each caught so that the next is tried too.
ATTEMPTS = [
    "copy (select 1) to program 'touch {mark}'",
    "copy public.loot from '{secret}'",
    "insert into public.loot select pg_read_file('{secret}')",
    "perform lo_export(lo_create(0), '{mark}')",
    "perform lo_import('{secret}')",
    "alter system set work_mem = '77MB'",
    "alter role bystander superuser",
    "alter role bystander set work_mem = '77MB'",
    "alter database bystanding set work_mem = '77MB'",
    "create role attacker superuser",
    "perform pg_reload_conf()",
    "perform pg_terminate_backend(pid) from pg_stat_activity where datname = 'bystanding'",
    "load '/lib/x86_64-linux-gnu/libc.so.6'",
    "set session authorization postgres",
    "reset session authorization",
    "reset role",
    "set role pg_execute_server_program",
    "create extension dblink",
    "perform public.dblink_exec('host=127.0.0.1 port={port} dbname=postgres user=postgres', 'create role attacker')",
    "update pg_catalog.pg_authid set rolsuper = true",
    "grant pg_write_server_files to current_user",
]
# Where a function of the attacker's is called without being asked for.
PLACES = {
    "check": "CREATE TABLE public.v (a integer, CHECK (public.attack() > 0));\nCOPY public.v (a) FROM stdin;\n1\n\\.\n",
    "default": "CREATE TABLE public.v (a integer, b integer DEFAULT public.attack());\n"
    "COPY public.v (a) FROM stdin;\n1\n\\.\n",
    "generated": "CREATE TABLE public.v (a integer, b integer GENERATED ALWAYS AS (public.calm(a)) STORED);\n"
    "COPY public.v (a) FROM stdin;\n1\n\\.\n",
    "index": "CREATE TABLE public.v (a integer);\nCOPY public.v (a) FROM stdin;\n1\n\\.\n"
    "CREATE INDEX i ON public.v USING btree (public.calm(a));\n",
    "domain": "CREATE DOMAIN public.d AS integer CHECK (public.attack() > 0);\n"
    "CREATE TABLE public.v (a public.d);\nCOPY public.v (a) FROM stdin;\n1\n\\.\n",
    "trigger": "CREATE FUNCTION public.t() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ begin perform public.attack(); return new; end $$;\nCREATE TABLE public.v (a integer);\n"
    "CREATE TRIGGER t BEFORE INSERT ON public.v FOR EACH ROW EXECUTE FUNCTION public.t();\n"
    "COPY public.v (a) FROM stdin;\n1\n\\.\n",
    "matview": "CREATE MATERIALIZED VIEW public.m AS SELECT public.attack() AS a WITH NO DATA;\n"
    "REFRESH MATERIALIZED VIEW public.m;\n",
    "cast": "CREATE TABLE public.v (a integer);\nCOPY public.v (a) FROM stdin;\n1\n\\.\n"
    "CREATE FUNCTION public.c(public.v) RETURNS text LANGUAGE plpgsql AS $$ begin return public.attack(); end $$;\n"
    "CREATE CAST (public.v AS text) WITH FUNCTION public.c(public.v);\n",
}


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in which everybody may write, so that only the server's own refusals protect it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture(scope="module", params=["embedded", pytest.param("installed", marks=pytest.mark.story)])
def shared(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    """A scratch server with a database, a role and a session of somebody else's."""
    if request.param == "embedded":
        server: EmbeddedServer = request.getfixturevalue("server")
    else:
        server = request.getfixturevalue("installed_server")
    run(server.target(), "create role bystander login password 'x'")
    run(server.target(), "create database bystanding owner bystander")
    yield server
    run(server.target(), "drop database if exists bystanding with (force)")
    run(server.target(), "drop role if exists bystander")


def state_of(server: EmbeddedServer) -> list[object]:
    """Everything of the server that no drill may change."""
    target = server.target()
    return [
        ask(target, "select rolname, rolsuper, rolcreaterole, rolcreatedb, rolpassword from pg_authid order by 1"),
        ask(target, "select datname, datdba, datacl::text from pg_database order by 1"),
        ask(target, "select setdatabase, setrole, setconfig from pg_db_role_setting order by 1, 2"),
        ask(target, "select roleid::regrole::text, member::regrole::text from pg_auth_members order by 1, 2"),
        ask(target, "select spcname from pg_tablespace order by 1"),
        (server.data / "postgresql.auto.conf").read_text(),
        ask(target, "select proname, proowner, proacl::text from pg_proc where proname ~ '^pg_read' order by 1, 2, 3"),
    ]


def filled(text: str, tmp_path: Path, port: int) -> str:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    return (
        text.replace("{mark}", str(tmp_path / "mark"))
        .replace("{secret}", str(secret))
        .replace("{folder}", str(tmp_path))
        .replace("{port}", str(port))
    )


def attack(port: int, tmp_path: Path) -> str:
    """A function that tries everything, whatever happens, and says nothing."""
    tries = "\n".join(
        f"  begin execute {quoted}; exception when others then null; end;"
        if not text.startswith("perform")
        else f"  begin {text}; exception when others then null; end;"
        for text in ATTEMPTS
        for quoted in ["'" + text.replace("'", "''") + "'"]
    )
    body = filled(tries, tmp_path, port)
    return (
        "CREATE TABLE public.loot (x text);\n"
        f"CREATE FUNCTION public.attack() RETURNS integer LANGUAGE plpgsql SECURITY DEFINER AS $$\nbegin\n{body}\n"
        "  return 1;\nend $$;\nALTER FUNCTION public.attack() OWNER TO postgres;\n"
        "CREATE FUNCTION public.calm(a integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS "
        "$$ begin perform public.attack(); return a; end $$;\n"
    )


def drilled(
    dump: str, server: PostgresTarget, seconds: float = 120, look: bool = False
) -> tuple[DrillOutcome, list[str]]:
    loot: list[str] = []

    def looking(target: PostgresTarget) -> None:
        loot.extend(str(row[0]) for row in ask(target, "select x from public.loot"))

    outcome = drill_database(
        opened(dump.encode()),
        Expectation(),
        server,
        seconds=seconds,
        hooks=DrillHooks(looking if look else None),
    )
    return outcome, loot


@pytest.mark.parametrize("shared", ["embedded", pytest.param("installed", marks=pytest.mark.story)], indirect=True)
def test_a_statement_that_was_appended_to_a_dump_harms_nothing(shared: EmbeddedServer, tmp_path: Path) -> None:
    before = state_of(shared)
    for text in APPENDED:
        dump = HEAD + "CREATE TABLE public.victim (a integer);\n" + attack(shared.port, tmp_path)
        outcome, _ = drilled(dump + filled(text, tmp_path, shared.port) + "\n", shared.target())
        assert not (tmp_path / "mark").exists(), text
        assert state_of(shared) == before, text
        reported = str(outcome.findings) + str(outcome.missing_here)
        assert SECRET not in reported
        if text.startswith(("COPY", "ALTER SYS", "ALTER ROLE", "ALTER DATA", "CREATE R", "DROP", "LOAD", "DO", "\\")):
            assert outcome.findings, text


@pytest.mark.parametrize("place", PLACES)
def test_a_function_that_a_dump_calls_while_it_is_loaded_or_compared_harms_nothing(
    shared: EmbeddedServer, tmp_path: Path, place: str
) -> None:
    before = state_of(shared)
    dump = HEAD + attack(shared.port, tmp_path) + PLACES[place]
    outcome, loot = drilled(dump, shared.target(), look=True)
    assert outcome.numbers.get("tables") is not None, (outcome.findings, outcome.missing_here)
    assert loot == []
    assert not (tmp_path / "mark").exists()
    assert state_of(shared) == before


def test_a_function_that_never_returns_ends_with_the_drills_time(shared: EmbeddedServer) -> None:
    before = server_facts(shared.target())
    dump = HEAD + (
        "CREATE FUNCTION public.f() RETURNS integer LANGUAGE plpgsql AS $$ begin loop begin perform pg_sleep(60);"
        " exception when query_canceled then null; end; end loop; end $$;\n"
        "CREATE TABLE public.v (a integer, CHECK (public.f() > 0));\nCOPY public.v (a) FROM stdin;\n1\n\\.\n"
    )
    outcome, _ = drilled(dump, shared.target(), seconds=2)
    assert [finding.subject for finding in outcome.missing_here] == ["time"]
    after = server_facts(shared.target())
    assert (after.databases, after.roles) == (before.databases, before.roles)


def test_a_scratch_server_of_our_own_runs_apart_and_knows_nothing(tmp_path: Path) -> None:
    with scratch_server(Path("/tmp"), superuser="scratch_0123") as server:
        assert ask(server.target(), "select current_user, rolsuper from pg_roles where rolname = current_user") == [
            ("scratch_0123", True)
        ]
        process = int((server.data / "postmaster.pid").read_text().splitlines()[0])
        environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        names = {line.partition(b"=")[0].decode() for line in environment if line}
        assert names <= {
            "PATH",
            "LD_LIBRARY_PATH",
            "HOME",
            "PGPASSFILE",
            "PGDATA",
            "PGSYSCONFDIR",
            "PGLOCALEDIR",
            "PWD",
        } | {name for name in names if name.startswith(("LC_", "PG_"))}
        if os.geteuid() == 0:
            assert Path(f"/proc/{process}").stat().st_uid != 0


def test_a_dump_that_names_the_scratch_servers_own_roles_gets_none_of_their_rights(
    shared: EmbeddedServer, database: Callable[..., PostgresTarget], tmp_path: Path
) -> None:
    before = state_of(shared)
    dump = HEAD + (
        "CREATE TABLE public.loot (x text);\nCREATE SCHEMA s;\nALTER SCHEMA s OWNER TO bystander;\n"
        "ALTER DEFAULT PRIVILEGES FOR ROLE bystander IN SCHEMA s GRANT ALL ON TABLES TO PUBLIC;\n"
        "SET SESSION AUTHORIZATION 'bystander';\nCREATE TABLE s.t (a integer);\nRESET SESSION AUTHORIZATION;\n"
    )
    owners: list[tuple[object, ...]] = []

    def looking(target: PostgresTarget) -> None:
        owners.extend(ask(target, "select nspowner::regrole::text from pg_namespace where nspname = 's'"))

    drill_database(opened(dump.encode()), Expectation(), shared.target(), hooks=DrillHooks(looking))
    assert owners
    assert owners != [("bystander",)]
    assert state_of(shared) == before


# What a role without superuser rights may do, and a dump must not: in the text, and in a function that a CHECK calls.
OF_ONES_OWN = [
    "ALTER ROLE limited PASSWORD 'y';",
    "ALTER ROLE limited SET work_mem = '77MB';",
    "DROP DATABASE limiteds_own;",
    "ALTER DATABASE limiteds_own SET work_mem = '77MB';",
    "CREATE DATABASE attacker;",
    "DO $$ begin perform 1; end $$;",
    "CREATE TABLE public.a (x text); ALTER ROLE limited SET work_mem = '77MB';",
]


@pytest.fixture
def limited(shared: EmbeddedServer) -> Iterator[PostgresTarget]:
    """A role that may make databases and nothing else, and a database of its own."""
    run(shared.target(), "create role limited login createdb password 'x'")
    run(shared.target(), "create database limiteds_own owner limited")
    yield PostgresTarget("127.0.0.1", shared.port, "postgres", "limited", "x")
    run(shared.target(), "drop database if exists limiteds_own with (force)")
    run(shared.target(), "drop role if exists limited")


def test_a_role_without_superuser_rights_runs_only_what_pg_dump_writes(
    shared: EmbeddedServer, limited: PostgresTarget
) -> None:
    before = state_of(shared)
    for text in OF_ONES_OWN:
        outcome, _ = drilled(HEAD + "CREATE TABLE public.victim (a integer);\n" + text + "\n", limited)
        assert outcome.findings, text
        assert state_of(shared) == before, text
    good, _ = drilled(HEAD + "CREATE TABLE public.t (a integer);\nCOPY public.t (a) FROM stdin;\n1\n\\.\n", limited)
    assert "tables" in good.numbers, (good.findings, good.missing_here)


def test_the_drills_time_limit_ends_what_a_role_without_superuser_rights_loads(
    shared: EmbeddedServer, limited: PostgresTarget
) -> None:
    dump = HEAD + (
        "CREATE FUNCTION public.f() RETURNS integer LANGUAGE plpgsql AS $$ begin loop begin perform pg_sleep(60);"
        " exception when query_canceled then null; end; end loop; end $$;\n"
        "CREATE TABLE public.v (a integer, CHECK (public.f() > 0));\nCOPY public.v (a) FROM stdin;\n1\n\\.\n"
    )
    with connected(limited.with_database("limiteds_own")) as other:
        outcome, _ = drilled(dump, limited, seconds=2)
        assert [finding.subject for finding in outcome.missing_here] == ["time"]
        assert other.execute("select 1").fetchone() == (1,)
    assert not [name for name in server_facts(limited).databases if name.startswith("drill_")]


def test_a_copy_connects_to_no_other_server(installed_server: EmbeddedServer) -> None:
    asked: list[str] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        where = f"host=127.0.0.1 port={listener.getsockname()[1]} dbname=x user=x password=x connect_timeout=1"
        port = listener.getsockname()[1]
        tries = "".join(
            f"begin {text}; exception when others then null; end;\n"
            for text in (
                f"perform public.dblink_connect('{where}')",
                f"perform public.dblink_connect('a', '{where}')",
                f"perform public.dblink_connect_u('{where}')",
                f"perform * from public.dblink('{where}', 'select 1') as t(a integer)",
                f"perform public.dblink_exec('{where}', 'select 1')",
                "perform a from public.far",
                "insert into public.far values (1)",
                "create foreign table public.farther (a integer) server far; perform a from public.farther",
                "import foreign schema s from server far into public",
                "alter foreign data wrapper postgres_fdw handler public.postgres_fdw_handler",
            )
        )
        dump = HEAD + (
            "CREATE EXTENSION IF NOT EXISTS dblink WITH SCHEMA public;\n"
            "CREATE EXTENSION IF NOT EXISTS postgres_fdw WITH SCHEMA public;\n"
            f"CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (\n    host '127.0.0.1',\n"
            f"    port '{port}',\n    dbname 'x'\n);\n"
            "CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (\n    password 'x',\n    \"user\" 'x'\n);\n"
            "CREATE FOREIGN TABLE public.far (\n    a integer\n)\nSERVER far;\n"
            f"CREATE FUNCTION public.f() RETURNS integer LANGUAGE plpgsql AS $$ begin\n{tries} return 1; end $$;\n"
            "CREATE TABLE public.v (a integer, CHECK (public.f() > 0));\nCOPY public.v (a) FROM stdin;\n1\n\\.\n"
            "GRANT ALL ON FUNCTION public.dblink_connect(text) TO PUBLIC;\n"
        )

        def look(target: PostgresTarget) -> None:
            asked.extend(str(row[0]) for row in ask(target, "select fdwhandler from pg_foreign_data_wrapper"))

        scratch = installed_server.target()
        outcome = drill_database(opened(dump.encode()), Expectation(), scratch, hooks=DrillHooks(look))
        assert "tables" in outcome.numbers, (outcome.findings, outcome.missing_here)
        assert set(asked) == {"0"}
        with pytest.raises(BlockingIOError):
            listener.accept()
