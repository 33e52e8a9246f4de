"""The database that workers without a shared disk coordinate by: its heartbeats and its connections."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest

from backup_pipeline.errors import TimeLimitError
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
