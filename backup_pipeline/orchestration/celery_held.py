"""Which Celery tasks the workers have, as they answer themselves, and since when nobody has one."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping

from celery import Celery
from celery.exceptions import CeleryError
from kombu.exceptions import KombuError

LOG = logging.getLogger("backup-pipeline.runs")
_ANSWER_SECONDS = 1.5


class HeldTasks:
    """Counts for how long no worker has had a task that one has taken; while the broker is away nothing is counted.

    Args:
        app: the site's application.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._silent_since: dict[str, float] = {}
        # What the broker's own client raises is neither Celery's nor the system's.
        connection = app.connection_for_write()
        self.away: tuple[type[Exception], ...] = (
            *(CeleryError, KombuError, OSError),
            *(*connection.connection_errors, *connection.channel_errors),
        )

    def silent_seconds(self, tasks: Collection[str]) -> dict[str, float]:
        """Return for how long nobody has had each of these tasks; 0 for one that a worker has, or that is new here."""
        try:
            answers = self._app.control.inspect(timeout=_ANSWER_SECONDS).query_task(*tasks) or {}
        except self.away as error:
            LOG.warning("the broker does not answer, so nothing is known of what the workers do: %s", error)
            self._silent_since.clear()
            return dict.fromkeys(tasks, 0.0)
        held = {task for each in answers.values() if isinstance(each, Mapping) for task in each}
        now, known = time.monotonic(), dict(self._silent_since)
        self._silent_since = {task: since for task, since in known.items() if task not in held}
        return {task: 0.0 if task in held else now - self._silent_since.setdefault(task, now) for task in tasks}

    def forget(self, task: str) -> None:
        """Count no more for a task that is over."""
        self._silent_since.pop(task, None)
