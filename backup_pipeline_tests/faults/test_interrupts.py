"""Ctrl-C and SIGTERM: one line, the code of the signal, nothing left running, locked or open on the server."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.sites import SHOP, TestSite, dsn

_SESSIONS = """select count(*) from pg_stat_activity
 where datname = current_database() and pid <> pg_backend_pid() and application_name in ('backup-pipeline', 'pg_dump')
   and (%s or wait_event_type = 'Lock')"""


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGINT, 130, "Interrupted."),
        (signal.SIGTERM, 143, "Terminated."),
        (signal.SIGKILL, -9, None),
    ],
)
def test_an_interrupted_backup_of_two_sources_leaves_nothing_open(
    tmp_path: Path,
    database: Callable[..., PostgresTarget],
    template: Callable[[str, str], str],
    number: int,
    code: int,
    line: str | None,
) -> None:
    target = database(template("shop", SHOP))
    site = TestSite(tmp_path)
    site.variables = {"SHOP_URL": dsn(target)}
    one = "{kind: postgres, dsn_env: SHOP_URL}"
    site.write(f"sources: {{shop: {one}, same: {one}}}\nplans: {{nightly: {{sources: [shop, same]}}}}\n")
    with connected(target) as watching, connected(target, autocommit=False) as migration:
        migration.execute("lock table public.orders in access exclusive mode")
        process = site.start("backup", "nightly", "--json")
        # The snapshots of both, side by side.
        while watching.execute(_SESSIONS, [False]).fetchone() != (2,):
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
        _, messages = process.communicate(timeout=60)
        assert process.returncode == code, messages.decode()
        assert messages.decode().strip().splitlines() == ([line] if line else [])
        until = time.monotonic() + 60
        while watching.execute(_SESSIONS, [True]).fetchone() != (1,):  # the migration's
            assert time.monotonic() < until, "a session is still open on the server"
        migration.rollback()
    # Its lock is free, and its set is no backup.
    assert site.run("backup", "nightly").code == 0
    assert len([set_id for set_id in site.store("nightly").ids() if site.store("nightly").read(set_id).manifest]) == 1
