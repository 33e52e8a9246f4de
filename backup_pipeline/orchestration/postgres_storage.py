"""Dagster's PostgreSQL storage, with connections that are kept while a process runs.

Dagster's own opens a connection for each of the hundreds of events of a run, and logs in each time: a new process of
the server, and thousands of rounds of SCRAM on both sides. That was a third of the time of a small backup. Here runs,
events and schedules share a pool; a connection that the server has closed meanwhile is replaced, and a server that
restarts is waited for (`lasting_engine`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dagster_postgres import DagsterPostgresStorage

from backup_pipeline.orchestration.lasting_engine import lasting_engine

# Two are kept; more are opened while several threads ask at once, and closed again.
_KEPT = 2
_ANY_NUMBER = -1


class PostgresStorage(DagsterPostgresStorage):
    """Runs, events and schedules in one database, over one pool of connections."""

    def __init__(self, postgres_url: str, inst_data: Any = None) -> None:
        super().__init__(postgres_url=postgres_url, inst_data=inst_data)
        engine = lasting_engine(postgres_url, pool_size=_KEPT, max_overflow=_ANY_NUMBER, pool_pre_ping=True)
        storages: tuple[Any, ...] = (self._run_storage, self._event_log_storage, self._schedule_storage)
        for storage in storages:
            # The webserver gives each an engine of its own afterwards.
            storage._engine = engine
        events = storages[1]
        events.has_table = _remembering(events.has_table)
        end_watching = events.dispose

        def dispose() -> None:
            """End the thread that watches runs, then close the connections."""
            end_watching()
            events._engine.dispose()

        events.dispose = dispose


def _remembering(has_table: Callable[[str], bool]) -> Callable[[str], bool]:
    """Return the question whether a table is there, which is asked for each event; one that is there stays."""
    found: set[str] = set()

    def known(name: str) -> bool:
        if name not in found and has_table(name):
            found.add(name)
        return name in found

    return known
