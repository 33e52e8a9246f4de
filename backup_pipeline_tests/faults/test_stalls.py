"""A server that stalls, drips or breaks off in any phase: a limit ends the work, names its setting, leaves nothing."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from backup_pipeline.errors import BackupSystemError, SourceError, TimeLimitError
from backup_pipeline.model.restore import RestoreMode, RestoreOptions
from backup_pipeline.operations.backup.run import BackupRun, RunIdentity
from backup_pipeline.operations.proof.drill import drill_set
from backup_pipeline.operations.restore.run import plan_restore
from backup_pipeline.postgres.server import snapshot
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_restore import sealed_set
from backup_pipeline_tests.support.proxies import Behaviour, Proxy, proxy_before
from backup_pipeline_tests.support.sites import SHOP, TestSite, dsn

_OPEN = """select count(*) from pg_stat_activity where datname = %s and pid <> pg_backend_pid()
 and application_name in ('backup-pipeline', 'pg_dump', 'psql', 'pg_restore')"""
# What a client sends in each phase.
_DURING_A_CAPTURE = {
    "connect": "",
    "catalog": "pg_get_constraintdef",
    "dump": "COPY public.orders",
    "export": "copy (select",
    "fingerprint": "hash_record_extended",
}


@pytest.fixture
def stalling(
    tmp_path: Path, database: Callable[..., PostgresTarget], template: Callable[[str, str], str]
) -> Iterator[tuple[TestSite, Proxy, PostgresTarget]]:
    """A site whose database is reached through a proxy, with short limits; the proxy; the database itself."""
    target = database(template("shop", SHOP))
    site = TestSite(tmp_path)
    with proxy_before(target) as (proxy, through):
        site.variables = {"SHOP_URL": dsn(through) + "?connect_timeout=2"}
        _limits(site)
        # What is imported once takes its time.
        assert _capture(site) == 4
        yield site, proxy, target


def _limits(site: TestSite, *, timeout: str = "10m", stall_timeout: str = "10m") -> None:
    limits = f"timeout: {timeout}, stall_timeout: {stall_timeout}"
    site.write(
        f"sources: {{shop: {{kind: postgres, dsn_env: SHOP_URL, {limits}}}}}\n"
        "plans: {nightly: {sources: [shop], wait_seconds: 0}}\n"
    )


def _all_is_closed(target: PostgresTarget) -> None:
    """No program of ours runs, and, once the network passes again, no session of ours is open."""
    assert [child for child in psutil.Process().children() if child.name() in ("pg_dump", "psql", "pg_restore")] == []
    until = time.monotonic() + 60
    with connected(target.with_database("postgres")) as connection:
        while connection.execute(_OPEN, [target.database]).fetchone() != (0,):
            assert time.monotonic() < until, "a session is still open on the server"
            time.sleep(0.05)


def _capture(site: TestSite) -> int:
    """Capture the source; return the number of records. The lock and all else are given back as a run does it."""
    now = datetime.now(UTC)
    run = BackupRun(site.site, "nightly", RunIdentity(uuid.uuid4().hex, uuid.uuid4().hex, now))
    try:
        return len(list(run.capture("shop")))
    finally:
        run.close()


@pytest.mark.takes(seconds=45)
@pytest.mark.parametrize("behaviour", ["stall", "reset"])
def test_a_capture_ends_whatever_its_server_does_in_any_phase(
    stalling: tuple[TestSite, Proxy, PostgresTarget], behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, proxy, target = stalling
    _limits(site, stall_timeout="2s")
    # That the server hears from idle sessions is no progress.
    monkeypatch.setattr(snapshot, "_HEARTBEAT_SECONDS", 0.2)
    for phase, sent in _DURING_A_CAPTURE.items():
        proxy.trouble_at(sent, behaviour)
        with pytest.raises(BackupSystemError) as caught:
            _capture(site)
        assert proxy.happened.is_set(), phase
        if isinstance(caught.value, TimeLimitError):
            assert behaviour == "stall", phase
            assert "no progress for 2s (`sources.shop.stall_timeout`)" in caught.value.what
        else:
            # While a connection is made, its own limit comes first.
            assert behaviour == "reset" or phase == "connect"
            assert "cannot be reached" in caught.value.what or "was ended" in caught.value.what, phase
        proxy.mend()
        _all_is_closed(target)
    # Nothing is locked, and nothing is left that stops the next.
    _limits(site)
    assert _capture(site) == 4


@pytest.mark.story
@pytest.mark.parametrize("behaviour", ["stall", "reset"])
def test_a_drill_and_an_upsert_end_whatever_their_server_does(
    stalling: tuple[TestSite, Proxy, PostgresTarget], database: Callable[..., PostgresTarget], behaviour: Behaviour
) -> None:
    site, proxy, target = stalling
    set_id = sealed_set(site.site, "nightly")
    scratch = database()
    site.variables["DRILL_DATABASE_URL"] = site.variables["SHOP_URL"].replace(
        f"/{target.database}?", f"/{scratch.database}?"
    )
    upsert = RestoreOptions(mode=RestoreMode.UPSERT)

    def upserted() -> None:
        plan = plan_restore(site.site, "nightly", set_id, "shop", upsert)
        # A plan whose rows could not be counted speaks against itself.
        if plan.reasons_against:
            raise SourceError(plan.reasons_against[0], where="", remedy="")

    works: dict[str, tuple[str, Callable[[], object]]] = {
        "restore": ("COPY public.orders", lambda: drill_set(site.site, "nightly", set_id)),
        "comparison": ("hash_record_extended", lambda: drill_set(site.site, "nightly", set_id)),
        "upsert": ("temporary table", upserted),
    }
    _limits(site, stall_timeout="2s")
    for phase, (sent, work) in works.items():
        proxy.trouble_at(sent, behaviour)
        with pytest.raises(BackupSystemError, match=r"no progress for 2s|was ended|cannot be reached") as caught:
            work()
        assert isinstance(caught.value, TimeLimitError) or behaviour == "reset", phase
        assert proxy.happened.is_set(), phase
        proxy.mend()
        _all_is_closed(target)
    _limits(site)
    # The network passes again: the same works, and what was left of the broken drills is in nobody's way.
    assert drill_set(site.site, "nightly", set_id).passed
    assert plan_restore(site.site, "nightly", set_id, "shop", upsert).tables


@pytest.mark.parametrize("phase", ["catalog", "dump", "fingerprint"])
def test_a_server_that_drips_is_ended_by_the_limit_in_all(
    stalling: tuple[TestSite, Proxy, PostgresTarget], phase: str
) -> None:
    site, proxy, target = stalling
    _limits(site, timeout="3s")
    proxy.trouble_at(_DURING_A_CAPTURE[phase], "drip")
    with pytest.raises(TimeLimitError, match=r"did not end within 3s \(`sources.shop.timeout`\)"):
        _capture(site)
    proxy.mend()
    _all_is_closed(target)
