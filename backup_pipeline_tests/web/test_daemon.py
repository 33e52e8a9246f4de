"""The daemon reports once that its history went away, and once that it is back."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from backup_pipeline.postgres.server.embedded import free_port
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.web.daemon import watch_history
from backup_pipeline_tests.support.sites import dsn


def test_a_lost_history_is_reported_once_and_its_return_too(database: Callable[..., PostgresTarget]) -> None:
    target = database()
    there = dsn(target)
    away = there.replace(f":{target.port}/", f":{free_port()}/")
    environment = {"DAGSTER_POSTGRES_URL": away}
    reports: queue.Queue[str] = queue.Queue()
    stopped = threading.Event()
    watch = threading.Thread(target=watch_history, args=(environment, stopped, reports.put, 0.05), daemon=True)
    watch.start()
    first = reports.get(timeout=30)
    assert "history cannot be reached" in first
    assert "No schedule, sensor or alert runs until it is back" in first
    assert target.password not in first
    environment["DAGSTER_POSTGRES_URL"] = there
    assert "is back" in reports.get(timeout=30)
    stopped.set()
    watch.join(30)
    assert reports.empty()
