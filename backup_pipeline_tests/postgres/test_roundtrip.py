"""Dump → restore → dump is equal but for pg_dump's two random lines, on every embedded major and by every way."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup_pipeline.postgres.compare.comparison import compare_database
from backup_pipeline.postgres.load.rebuild import DumpOrigin, LoadOptions, rebuild_database
from backup_pipeline.postgres.server.databases import create_database, drop_database, read_properties
from backup_pipeline.postgres.server.embedded import scratch_server
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_restore import NASTY, dump_of, expectation_of, lines_of, opened, run


@pytest.fixture(scope="module", params=[16, 18])
def source(request: pytest.FixtureRequest) -> Iterator[PostgresTarget]:
    with scratch_server(major=request.param) as server:
        target = server.target("nasty")
        create_database(target)
        run(target, NASTY)
        yield target


@pytest.mark.parametrize("way", ["parallel", "careful", "custom", "pg_restore"])
def test_the_nasty_schema_comes_back_the_same(source: PostgresTarget, way: str, tmp_path: Path) -> None:
    before = dump_of(source)
    stored = tmp_path / "dump"
    stored.write_bytes(dump_of(source, "--format=custom") if way in ("custom", "pg_restore") else before)
    copy = source.with_database(f"copy_{way}")
    try:
        # pg_restore is worth its while with many connections.
        options = LoadOptions(careful=way == "careful", jobs=5 if way == "pg_restore" else 2)
        rebuild_database(lambda: stored.open("rb"), copy, options=options, like=read_properties(source))
        difference = list(difflib.unified_diff(lines_of(before), lines_of(dump_of(copy)), lineterm="", n=0))
        assert difference == []
        assert compare_database(copy, expectation_of(source)).findings == ()
    finally:
        drop_database(copy)


def test_an_older_dump_restores_into_a_newer_server_and_is_found_equal() -> None:
    with scratch_server(major=16) as old, scratch_server(major=18) as new:
        target = old.target("nasty")
        create_database(target)
        run(target, NASTY)
        for role in ("nasty_reader", '"nasty-owner = x"'):
            run(new.target(), f"create role {role}")
        copy = new.target("copy")
        rebuild_database(opened(dump_of(target)), copy, DumpOrigin(written_by=16))
        comparison = compare_database(copy, expectation_of(target))
        rows = [finding for finding in comparison.findings if finding.subject.startswith("table ")]
        assert rows == []
