"""Observer of a run in this process: the shell's progress, or none.

The one piece of process-wide state in orchestration: Dagster builds resources itself, so that a command which runs a
job in its own process has no other way to hand its watcher in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from backup_pipeline.operations.backup.run import RunObserver

_OBSERVER: ContextVar[RunObserver | None] = ContextVar("backup_pipeline_watcher", default=None)


def current_observer() -> RunObserver:
    """Return the observer of this process."""
    return _OBSERVER.get() or RunObserver()


@contextmanager
def watched_by(observer: RunObserver) -> Iterator[None]:
    """Make `observer` the observer of this process while the block runs."""
    token = _OBSERVER.set(observer)
    try:
        yield
    finally:
        _OBSERVER.reset(token)
