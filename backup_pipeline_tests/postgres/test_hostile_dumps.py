"""A dump is somebody else's file: it must not run commands here, and names in it are only names."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backup_pipeline.errors import BackupSystemError, RefusedError, SourceError, ValidationError
from backup_pipeline.model.restore import RestoreOptions
from backup_pipeline.operations.restore.run import Confirmation, apply_restore, plan_restore
from backup_pipeline.postgres.load.psql import run_plain_dump
from backup_pipeline.postgres.load.rebuild import LoadOptions, rebuild_database
from backup_pipeline.postgres.load.stream import CopyBlock, DumpParts, Statement
from backup_pipeline.postgres.server.clients import PostgresClient, choose_client
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.databases import drop_database, server_facts
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_restore import ask, dump_of, lines_of, opened, run, sealed_set
from backup_pipeline_tests.support.sites import TestSite, dsn

HEAD = b"--\n-- PostgreSQL database dump\n--\n\n\\restrict KEY\n\nSET client_encoding = 'UTF8';\n"
TAIL = b"\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict KEY\n\n"


@pytest.fixture
def fresh(server: EmbeddedServer) -> Iterator[PostgresTarget]:
    target = server.target("hostile_copy")
    yield target
    drop_database(target)


@pytest.mark.parametrize("careful", [False, True])
@pytest.mark.parametrize(
    "body",
    [
        b"create table a (i integer);\n\\! touch {mark}\n",
        b"-- Name: a\n\\! touch {mark}\n-- more\ncreate table a (i integer);\n",
        b"\\unrestrict KEY\n\\! touch {mark}\n\\restrict KEY\ncreate table a (i integer);\n",
        b"create table a (t text);\nCOPY public.a (t) FROM stdin;\nx\n\\.\n\\! touch {mark}\n",
        b"select 1 \\g |touch {mark}\n",
        b"\\copy (select 1) to program 'touch {mark}'\n",
        b"select 1; \\o |touch {mark}\nselect 2;\n",
    ],
)
def test_a_meta_command_is_never_obeyed(fresh: PostgresTarget, tmp_path: Path, body: bytes, careful: bool) -> None:
    mark = tmp_path / "obeyed"
    dump = HEAD + body.replace(b"{mark}", str(mark).encode()) + TAIL
    with pytest.raises(BackupSystemError):
        rebuild_database(opened(dump), fresh, options=LoadOptions(careful=careful))
    assert not mark.exists()
    assert fresh.database not in server_facts(fresh).databases


def test_a_psql_that_would_obey_is_refused(fresh: PostgresTarget) -> None:
    client = choose_client(server_facts(fresh).major)
    old = PostgresClient((16, 9), client.folder)
    with pytest.raises(RefusedError, match="CVE-2025-8714"):
        run_plain_dump(io.BytesIO(HEAD + TAIL), fresh, old)


def test_a_statement_that_fails_ends_the_restore_and_tells_no_data(fresh: PostgresTarget) -> None:
    # Not by a CHECK: rows that violate one come back, and the CHECK with them as NOT VALID.
    body = b"create table a (i integer);\nCOPY public.a (i) FROM stdin;\nx4711\n\\.\n"
    with pytest.raises(SourceError) as reported:
        rebuild_database(opened(HEAD + body + TAIL), fresh)
    assert "4711" not in str(reported.value)
    assert "public.a" in str(reported.value)


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
def test_a_damaged_gzip_is_told_as_such(fresh: PostgresTarget, cut: float) -> None:
    data = gzip.compress(
        HEAD
        + b"create table a (i integer);\nCOPY public.a (i) FROM stdin;\n"
        + b"".join(b"%d\n" % (i * i) for i in range(50_000))
        + b"\\.\n"
        + TAIL
    )
    with pytest.raises(ValidationError):
        rebuild_database(opened(data[: int(len(data) * cut)]), fresh)
    assert fresh.database not in server_facts(fresh).databases


@pytest.mark.parametrize("name", ['-d "quoted" name\nü/%20?x=1&y', "dbname=postgres"])
def test_odd_database_names_are_only_names(server: EmbeddedServer, tmp_path: Path, name: str) -> None:
    target = server.target(name)
    quoted = '"' + name.replace('"', '""') + '"'
    with connected(server.target()) as connection:
        connection.execute(f"create database {quoted}".encode())
    try:
        run(target, "create table t (i integer primary key); insert into t values (1)")
        site = TestSite(tmp_path)
        site.variables["ODD"] = dsn(target)
        site.write("sources: {odd: {kind: postgres, dsn_env: ODD}}\nplans: {nightly: {sources: [odd]}}\n")
        saved, set_id = lines_of(dump_of(target)), sealed_set(site.site, "nightly")
        run(target, "drop table t")
        plan = plan_restore(site.site, "nightly", set_id, "odd")
        result = apply_restore(
            site.site, "nightly", set_id, "odd", RestoreOptions(), confirmation=Confirmation(plan.plan_id, plan.confirm)
        )
        assert lines_of(dump_of(target)) == saved
        drop_database(server.target(result.undo.kept))
    finally:
        drop_database(target)


def test_the_password_is_in_no_argument(server: EmbeddedServer) -> None:
    target = server.target()
    assert target.password
    assert target.password not in " ".join(target.program_arguments())
    assert target.password not in repr(target)


def parts_of(dump: bytes, piece: int) -> list[object]:
    class Slowly:
        def __init__(self) -> None:
            self.file = io.BytesIO(dump)

        def read(self, size: int = -1) -> bytes:
            return self.file.read(piece)

    return [
        part.body if isinstance(part, Statement) else (part.table, part.columns, b"".join(part.chunks()))
        for part in DumpParts(Slowly())
    ]


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 8, 64, 1 << 20])
def test_a_dump_is_cut_at_the_same_places_whatever_the_pieces_it_comes_in(piece: int) -> None:
    dump = (
        HEAD
        + rb"""
CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END;
CREATE FUNCTION g() AS $_$ ; COPY public.x (a) FROM stdin;
\. \! $_ $$ $_$;
/* a /* nested */ ; comment */ COMMENT ON TABLE x IS E'it\'s; \\';
COMMENT ON TABLE y IS 'no escape \';
CREATE RULE r AS ON INSERT TO x DO ALSO (SELECT 1; SELECT 2);
COPY public."a"";
b" (id, "c ("" , d", e) FROM stdin;
1	\\.	x
\.
COPY public.bare  FROM stdin;


\.
SELECT a$b$c, $1, 1.5;
"""
        + TAIL
    )
    found = parts_of(dump, piece)
    copies = [part for part in found if isinstance(part, tuple)]
    assert copies == [
        (("public", 'a";\nb'), ("id", 'c (" , d', "e"), b"1\t\\\\.\tx\n"),
        (("public", "bare"), (), b"\n\n"),
    ]
    assert len(found) == 9
    assert found[-1] == b"SELECT a$b$c, $1, 1.5;"


def test_a_row_of_many_megabytes_passes_whole(fresh: PostgresTarget, database: Callable[..., PostgresTarget]) -> None:
    source = database()
    run(
        source,
        "create table big (id integer primary key, body text);"
        "insert into big select i, repeat(chr(64 + i), 9000000) from generate_series(1, 3) i",
    )
    rebuild_database(opened(gzip.compress(dump_of(source), 1)), fresh)
    query = "select id, length(body), md5(body) from big order by id"
    assert ask(fresh, query) == ask(source, query)


def test_a_copy_block_knows_its_table() -> None:
    block = CopyBlock(b'COPY "a.b"."c d" (x) FROM stdin;', iter(()))
    assert (block.table, block.columns) == (("a.b", "c d"), ("x",))
