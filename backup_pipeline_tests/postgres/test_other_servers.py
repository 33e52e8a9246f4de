"""Servers that are not the embedded ones: another major version, and one that has the contrib extensions (amcheck)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from backup_pipeline.postgres.compare.comparison import compare_database
from backup_pipeline.postgres.compare.scratch_restore import DrillHooks, drill_database
from backup_pipeline.postgres.load.rebuild import DumpOrigin, rebuild_database
from backup_pipeline.postgres.server.databases import create_database
from backup_pipeline.postgres.server.embedded import EmbeddedServer, scratch_server
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_restore import NASTY, dump_of, expectation_of, opened, run

INSTALLED = sorted(
    (folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if (folder / "initdb").exists()),
    key=lambda folder: int(folder.parent.name),
)
MAJOR = int(INSTALLED[-1].parent.name) if INSTALLED else 0
CONTRIB = Path(f"/usr/share/postgresql/{MAJOR}/extension/amcheck.control").exists()
needs_server = pytest.mark.skipif(not INSTALLED, reason="no postgresql package of the system is installed")
needs_amcheck = pytest.mark.skipif(not CONTRIB, reason="no postgresql package with amcheck is installed")
ROLES = ("nasty_reader", '"nasty-owner = x"')


@pytest.fixture(scope="module")
def installed() -> Iterator[EmbeddedServer]:
    """A scratch cluster run by the system's PostgreSQL."""
    with (
        mock.patch.object(EmbeddedServer, "_binaries", return_value=INSTALLED[-1] if INSTALLED else None),
        scratch_server(Path("/tmp")) as server,
    ):
        yield server


def with_nasty(server: EmbeddedServer) -> PostgresTarget:
    target = server.target("nasty")
    create_database(target)
    run(target, NASTY)
    return target


@needs_server
@pytest.mark.skipif(MAJOR >= 18, reason="the system's PostgreSQL is not older than the embedded one")
def test_rows_of_an_older_major_are_really_compared_on_a_newer_one(installed: EmbeddedServer) -> None:
    source = with_nasty(installed)
    dump, expected = dump_of(source), expectation_of(source)
    with mock.patch.object(EmbeddedServer, "_binaries", _EMBEDDED), scratch_server(Path("/tmp"), major=18) as newer:
        for role in ROLES:
            run(newer.target(), f"create role {role}")
        copy = newer.target("copy")
        rebuild_database(opened(dump), copy, DumpOrigin(written_by=MAJOR))
        comparison = compare_database(copy, expected)
        assert comparison.findings == ()
        assert comparison.rows > 80
        run(
            copy,
            "alter table app.customers disable trigger user;"
            "update app.customers set balance = balance + 0.000001 where id = 1;"
            "alter table app.customers enable trigger user;"
            "insert into app.no_key values (7, null); drop view app.richer",
        )
        found = [f"{f.subject}: {f.problem}" for f in compare_database(copy, expected).findings]
        assert any("table app.customers" in line and "other content" in line for line in found), found
        assert any("table app.no_key: 5 rows, 4 in the backup" in line for line in found), found
        assert any("view app.richer: is missing" in line for line in found), found


_EMBEDDED = EmbeddedServer._binaries


@needs_amcheck
def test_amcheck_finds_an_index_that_does_not_agree_with_its_table(installed: EmbeddedServer) -> None:
    source = installed.target("indexed")
    create_database(source)
    run(
        source,
        "create table t (a integer primary key, b text); create index by_b on t (b);"
        "insert into t select n, 'row ' || n from generate_series(1, 2000) n",
    )
    dump, expected = dump_of(source), expectation_of(source)

    def drilled(damage: str) -> tuple[list[str], list[str]]:
        outcome = drill_database(
            opened(dump),
            expected,
            installed.target(),
            hooks=DrillHooks(lambda target: run(target, damage)),
        )
        return [f"{f.subject}: {f.problem}" for f in outcome.findings], [f.subject for f in outcome.skipped]

    assert drilled("select 1") == ([], [])
    # The catalog says another order than the one in which the entries stand.
    out_of_order = "update pg_index set indoption = '3' where indexrelid = 'by_b'::regclass"
    found, skipped = drilled(out_of_order)
    assert any("index public.by_b: amcheck found damage" in line for line in found), found
    # An entry that is missing: the row is there, the index was not told of it.
    switch = "update pg_index set indisready = {0}, indislive = {0} where indexrelid = 'by_b'::regclass;"
    unseen = (
        f"{switch.format(False)} delete from t where a = 7; insert into t values (7, 'row 7'); {switch.format(True)}"
    )
    found, skipped = drilled(unseen)
    assert len(found) == 1, found
    assert "index public.by_b: amcheck found damage" in found[0]
    assert skipped == []
