"""Dumps as Zstandard frames and custom dumps without compression: inspected, drilled, restored by psql."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from backup_pipeline.postgres.compare.scratch_restore import drill_database
from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.script import create_database
from backup_pipeline_tests.support.postgres_capture import NASTY, Capture, capture
from backup_pipeline_tests.support.postgres_restore import ask, expectation_of

ROWS = "create table public.many as select i, 'customer ' || i as name from generate_series(1, 200000) i;"


@pytest.fixture(scope="module")
def database(server: EmbeddedServer, template: Callable[[str, str], str]) -> str:
    return template("nasty_and_many", NASTY + ROWS)


def dumped(folder: Path, server: EmbeddedServer, database: str, **values: object) -> tuple[Capture, Path]:
    done = capture(folder, server.target(database), selected=frozenset({("s", "dump")}), **values)
    record = done.records["s", "dump"]
    assert all(check.passed for check in record.checks if check.name == "dump_complete")
    return done, done.folder / record.files[0].path


@pytest.mark.parametrize(
    ("values", "name"),
    [({"compression": "zstd"}, "s_db.sql.zst"), ({"dump_format": "custom", "compression": "none"}, "s_db.dump")],
)
def test_such_a_dump_is_inspected_and_drilled(
    tmp_path: Path, server: EmbeddedServer, database: str, values: dict[str, object], name: str
) -> None:
    done, path = dumped(tmp_path, server, database, **values)
    assert path.name == name
    assert done.findings("s", "dump") == []
    outcome = drill_database(lambda: path.open("rb"), expectation_of(server.target(database)), server.target())
    assert outcome.findings == []


def test_a_zstandard_dump_that_was_cut_off_is_found_damaged(
    tmp_path: Path, server: EmbeddedServer, database: str
) -> None:
    done, path = dumped(tmp_path, server, database, compression="zstd")
    path.write_bytes(path.read_bytes()[:-9])
    [finding] = done.findings("s", "dump")
    assert "Zstandard stream is damaged or cut off" in finding.problem


def test_a_zstandard_dump_is_restored_by_zstd_and_psql_alone(
    tmp_path: Path, server: EmbeddedServer, database: str
) -> None:
    _, path = dumped(tmp_path, server, database, compression="zstd")
    create_database(server.target(), "by_hand")
    target = server.target("by_hand")
    sql = subprocess.run(["zstd", "-dc", path], capture_output=True, check=True).stdout
    command = [
        choose_client(18).program("psql"),
        "-X",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        "-1",
        *target.program_arguments(),
    ]
    done = subprocess.run(command, input=sql, env=target.program_environment(), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert ask(target, "select count(*) from public.many") == [(200_000,)]
