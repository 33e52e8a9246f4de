"""A server's own marks of columns (`pg_attver`, since PostgreSQL 15.20) are no part of what a backup holds."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from backup_pipeline.model.catalog import COLUMN_OPTIONS, LATER_KINDS, Catalog
from backup_pipeline.postgres.catalog.read import read_catalog
from backup_pipeline.postgres.load.rebuild import rebuild_database
from backup_pipeline.postgres.load.stream import DumpParts
from backup_pipeline.postgres.server.clients import embedded_folders
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.rules.catalog_difference import differences
from backup_pipeline.system import processes

COLUMN = "ALTER TABLE ONLY public.t ALTER COLUMN a SET ({});"


def test_the_options_of_columns_that_an_older_release_recorded_are_not_compared() -> None:
    kinds = tuple(kind for kind in LATER_KINDS if kind != COLUMN_OPTIONS)
    older = Catalog(
        server_major=15,
        kinds=kinds,
        objects={"definition": {"column public.t.a": "4c3d1196cc6c0892", "table public.t": "a"}},
    )
    now = Catalog(server_major=15, kinds=LATER_KINDS, objects={"definition": {"table public.t": "a"}})
    assert differences(older, now) == []


def test_the_options_of_columns_are_compared() -> None:
    marked = Catalog(server_major=15, kinds=LATER_KINDS, objects={COLUMN_OPTIONS: {"public.t.b": "4c3d1196cc6c0892"}})
    found = differences(marked, Catalog(server_major=15, kinds=LATER_KINDS))
    assert [finding.subject for finding in found] == ["options of column public.t.b"]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ("pg_attver=26", None),
        ("pg_attver=26, n_distinct=5", "n_distinct=5"),
        ("n_distinct=5, pg_attver=26", "n_distinct=5"),
        ("n_distinct=5", "n_distinct=5"),
    ],
)
def test_a_mark_in_a_dump_is_not_loaded_and_options_beside_it_are(options: str, kept: str | None) -> None:
    dump = f"SET a = 1;\n{COLUMN.format(options)}\nSELECT 'pg_attver=26';\n"
    bodies = [part.body.decode() for part in DumpParts(io.BytesIO(dump.encode()))]
    assert bodies == ["SET a = 1;", *([COLUMN.format(kept)] if kept else []), "SELECT 'pg_attver=26';"]


def test_a_dump_by_a_client_without_marks_restores_on_another_server(
    installed_database: Callable[[str], PostgresTarget], server: EmbeddedServer
) -> None:
    target = installed_database("create table t (a integer, b text); alter table t alter a set (n_distinct = 5)")
    with connected(target) as connection:
        source = read_catalog(connection)
    # Written by a client of the embedded server, which is of another release.
    program = embedded_folders()[0] / "pg_dump"
    dump = processes.run([program, *target.program_arguments()], env=target.program_environment()).stdout
    restored = server.target("column_marks")
    rebuild_database(lambda: io.BytesIO(dump), restored)
    with connected(restored) as connection:
        found = read_catalog(connection)
    assert set(source.objects[COLUMN_OPTIONS]) == {"public.t.a"}
    assert found.objects[COLUMN_OPTIONS] == source.objects[COLUMN_OPTIONS]
