"""The database that workers without a shared disk coordinate by: its heartbeats and its connections."""

from __future__ import annotations

import math
import multiprocessing
import threading
from collections.abc import Callable

import pytest

from backup_pipeline.errors import LockError, TimeLimitError
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.stores.state import locks
from backup_pipeline.stores.state.database import StateDatabase
from backup_pipeline.stores.state.locks import DatabaseCoordination
from backup_pipeline.system.limits import Limit, ends_with, limited


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
