"""The database that workers without a shared disk coordinate by: its heartbeats and its connections."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup_pipeline.errors import LockError, StoreError, TimeLimitError, UnreachableError
from backup_pipeline.model.manifest import Draft
from backup_pipeline.model.set_id import set_id_at
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.stores.state import locks
from backup_pipeline.stores.state.database import StateDatabase
from backup_pipeline.stores.state.locks import DatabaseCoordination
from backup_pipeline.stores.state.plan_store import SharedPlanStore
from backup_pipeline.system.limits import Limit, ends_with, limited
from backup_pipeline.system.locks import this_process
from backup_pipeline_tests.support.vault_sites import VaultSite

NOWHERE = PostgresTarget("127.0.0.1", 1, "nothing", "nobody", "")


def test_work_that_stands_still_is_ended_although_its_lock_is_refreshed(
    database: Callable[..., PostgresTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.1)
    lock = DatabaseCoordination(StateDatabase(database()), "nightly")
    ended = threading.Event()
    limit = Limit(math.inf, "", 1.0, "stall_timeout")
    with (
        pytest.raises(TimeLimitError, match="no progress for 1s"),
        limited("The capture", limit),
        lock.hold("lock", purpose="a capture"),
        ends_with(ended.set),
    ):
        assert ended.wait(30), "the heartbeat counted as progress"


def _sessions(target: PostgresTarget) -> set[int]:
    """The server's processes for connections to a database but the one that asks."""
    with connected(target) as connection:
        found = connection.execute(
            "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        )
        return {int(row[0]) for row in found}


def test_one_connection_serves_many_questions_and_a_forked_process_has_its_own(
    database: Callable[..., PostgresTarget],
) -> None:
    target = database()
    state = StateDatabase(target)
    state.write("/", {"a": b"1"})
    (first,) = _sessions(target)
    assert state.read("/", ["a"])["a"][1] == b"1"
    assert _sessions(target) == {first}
    child = multiprocessing.get_context("fork").Process(target=state.write, args=("/", {"b": b"2"}))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert set(state.versions("/")) == {"a", "b"}
    assert _sessions(target) == {first}


def test_a_connection_that_was_ended_meanwhile_is_replaced(database: Callable[..., PostgresTarget]) -> None:
    target = database()
    state = StateDatabase(target)
    state.write("/", {"a": b"1"})
    with connected(target) as connection:
        connection.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
    assert set(state.versions("/")) == {"a"}


def test_an_error_in_a_transaction_leaves_no_connection_behind(database: Callable[..., PostgresTarget]) -> None:
    target = database()
    state = StateDatabase(target)
    with pytest.raises(LockError):
        state.write("/", {"a": b"1"}, held_in="nightly", held={"lock": "of nobody"})
    assert state.versions("/") == {}


def test_a_server_that_restarts_is_waited_for_and_loses_nothing(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "server")
    server.start()
    try:
        state, asked = StateDatabase(server.target()), threading.Event()
        state.write("nightly", {"draft": b"1"})
        server.stop()

        def go_on() -> None:
            asked.set()
            state.append("nightly", "draft", b"2")

        waiting = threading.Thread(target=go_on)
        waiting.start()
        assert asked.wait(30)
        server.start()
        waiting.join(60)
        assert state.read("nightly", ["draft"])["draft"][1] == b"12"
    finally:
        server.remove()


def test_a_server_that_never_answered_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backup_pipeline.stores.state.database.PATIENCE_SECONDS", math.inf)
    with pytest.raises(UnreachableError, match="refused"):
        StateDatabase(NOWHERE).versions("nightly")


def test_a_lock_that_was_taken_by_an_unanswered_call_is_taken(database: Callable[..., PostgresTarget]) -> None:
    state, holder = StateDatabase(database()), this_process("a capture")
    assert [state.take("nightly", "lock", holder) for _ in range(2)] == [None, None]
    assert state.take("nightly", "lock", this_process("another")) == holder


def _hold_until_killed(target: PostgresTarget, name: str) -> None:
    with DatabaseCoordination(StateDatabase(target), "nightly").hold(name, purpose="a capture"):
        os.kill(os.getpid(), signal.SIGKILL)


def test_locks_of_a_killed_process_of_this_machine_are_free_at_once(database: Callable[..., PostgresTarget]) -> None:
    target = database()
    state = StateDatabase(target)
    here = DatabaseCoordination(state, "nightly")
    for name in (".claims/set.one.claim", ".claims/set.two.claim"):
        holder = multiprocessing.get_context("fork").Process(target=_hold_until_killed, args=(target, name))
        holder.start()
        holder.join(30)
    assert len(state.holders("nightly", ".claims/", ".claim")) == 2
    with here.hold(".claims/set.one.claim", purpose="the same again", wait_seconds=0) as me:
        assert here.living(".claims/", ".claim") == [me]
    assert state.holders("nightly", ".claims/", ".claim") == []


def test_a_set_that_could_not_be_made_known_leaves_no_folder(tmp_path: Path) -> None:
    vault = VaultSite(tmp_path / "site").init().plan_store()._vault
    store = SharedPlanStore(tmp_path, "nightly", vault, StateDatabase(NOWHERE), file_mode=0o600, folder_mode=0o700)
    moment = datetime(2026, 11, 21, 2, tzinfo=UTC)
    draft = Draft(set_id=set_id_at(moment), plan="nightly", root_run_id="r", sources=("s",), started_at=moment)
    with pytest.raises(UnreachableError):
        store.begin(draft)
    assert not (tmp_path / draft.set_id).exists()


def test_what_a_process_left_that_was_killed_before_its_set_was_known_stops_nobody(
    tmp_path: Path, database: Callable[..., PostgresTarget]
) -> None:
    vault = VaultSite(tmp_path / "site").init().plan_store()._vault
    store = SharedPlanStore(tmp_path, "nightly", vault, StateDatabase(database()), file_mode=0o600, folder_mode=0o700)
    moment = datetime(2026, 11, 21, 2, tzinfo=UTC)
    draft = Draft(set_id=set_id_at(moment), plan="nightly", root_run_id="r", sources=("s",), started_at=moment)
    (tmp_path / draft.set_id).mkdir()
    (tmp_path / draft.set_id / "half a draft").touch()
    store.begin(draft)
    assert store.ids() == (draft.set_id,)
    assert not (tmp_path / draft.set_id / "half a draft").exists()
    with pytest.raises(StoreError, match="exists already"):
        store.begin(draft)
