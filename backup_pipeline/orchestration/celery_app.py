"""Celery application of a site: broker, queue and how workers take tasks. Which tasks there are is dagster-celery's.

The broker is read from `CELERY_BROKER_URL`, Celery's own variable: no secret stands in Dagster's settings.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from celery import Celery, Task
from dagster_celery.make_app import make_app

from backup_pipeline.errors import SettingsError, SourceError
from backup_pipeline.orchestration.lasting_engine import PATIENCE_SECONDS
from backup_pipeline.orchestration.storage import require_history

BROKER_VARIABLE = "CELERY_BROKER_URL"
BACKEND_VARIABLE = "CELERY_RESULT_BACKEND"
QUEUE = "dagster"
_BROKER_SECONDS = 180
_LONGEST_SECONDS = 7 * 24 * 3600


def app_arguments(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the arguments of a site's Celery application.

    Raises:
        SettingsError: no broker is named.
    """
    environment = os.environ if environment is None else environment
    broker = environment.get(BROKER_VARIABLE, "").strip()
    if not broker:
        raise SettingsError(
            "No broker is named.",
            where=BROKER_VARIABLE,
            remedy="Write its URL, as in redis://HOST:6379/0 or amqp://USER:PASSWORD@HOST:5672/VHOST.",
        )
    backend = environment.get(BACKEND_VARIABLE, "").strip()
    return {"broker": broker, "backend": backend or "disabled://", "config_source": _settings(stored=bool(backend))}


def _settings(*, stored: bool) -> dict[str, Any]:
    return {
        "task_ignore_result": not stored,
        "task_track_started": True,
        "task_default_queue": QUEUE,
        # A worker that is busy holds no second task that an idle one could begin; a task whose worker died is given
        # to another, where Dagster ignores a run that has begun already.
        "worker_prefetch_multiplier": 1,
        "task_acks_late": True,
        # Each task in a process of its own, forked from one that has imported everything: the definitions are those of
        # the moment, and memory is given back.
        "worker_max_tasks_per_child": 1,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_connection_timeout": 5.0,
        # Redis gives a task that is not acknowledged for so long to another worker; dead ones are found otherwise.
        "broker_transport_options": {"visibility_timeout": _LONGEST_SECONDS},
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


def celery_app(environment: Mapping[str, str] | None = None) -> Celery:
    """Return a site's Celery application; SettingsError as of `app_arguments`."""
    return make_app(app_arguments(environment))


def wait_for_broker(app: Celery) -> None:
    """Wait until the broker answers, for at most three minutes; then as Celery raises."""
    with app.connection_for_write() as connection:
        connection.ensure_connection(
            max_retries=_BROKER_SECONDS,
            interval_start=1,
            interval_step=0,
            interval_max=1,
            reraise_as_library_errors=True,
        )


class PatientTask(Task):  # type: ignore[misc]
    """A task whose new process waits for Dagster's history where that is away, as when its server restarts."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Wait until the history answers, for at most a minute; SourceError when it does not."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return require_history(os.environ)
            except SourceError:
                if time.monotonic() >= end:
                    raise
            time.sleep(1)
