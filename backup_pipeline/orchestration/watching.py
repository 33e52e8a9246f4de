"""Who looks on while a run happens in this process: the shell's progress, or nobody.

The one piece of process-wide state in orchestration: Dagster builds resources itself, so that a command which runs a
job in its own process has no other way to hand its watcher in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from backup_pipeline.operations.backup.run import Watcher

_WATCHER: ContextVar[Watcher | None] = ContextVar("backup_pipeline_watcher", default=None)


def present_watcher() -> Watcher:
    """Return who looks on in this process."""
    return _WATCHER.get() or Watcher()


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Let `watcher` look on while the block runs."""
    token = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(token)
