"""Run launcher by Celery: each run is a task that any worker of the site's queue takes.

Dagster's own leaves a run as it is for ever when its worker is gone, takes a lost note of Celery's for the run's death,
and fails on runs that were started elsewhere. Here a run is dead when no worker has had its task for a while, as the
workers answer themselves. Nothing is read from a backend of results.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import Field
from dagster._config.config_schema import UserConfigSchema
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.storage.dagster_run import DagsterRun
from dagster._serdes import ConfigurableClassData
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from backup_pipeline.orchestration.celery_app import QUEUE, app_arguments, wait_for_broker
from backup_pipeline.orchestration.celery_held import HeldTasks
from backup_pipeline.orchestration.launcher import health_by_mark, make_again_when_lost


class WatchedCeleryRunLauncher(CeleryRunLauncher):
    """Starts runs on Celery workers and reports to Dagster's monitor those that no worker has any more.

    Args:
        silent_seconds: how long no worker may have a run's task before the run counts as dead.
        inst_data: Dagster's.
    """

    def __init__(self, silent_seconds: float = 60.0, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(default_queue=QUEUE, inst_data=inst_data, **app_arguments())
        self._patience = silent_seconds
        self._held = HeldTasks(self.celery)

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Return the schema of its configuration; the broker is named by the environment."""
        return {"silent_seconds": Field(float, is_required=False, default_value=60.0)}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> WatchedCeleryRunLauncher:
        """Return the launcher; SettingsError when no broker is named."""
        return cls(float(config_value["silent_seconds"]), inst_data)

    @property
    def supports_resume_run(self) -> bool:
        """Whether a run whose process is dead goes on as the same run: never; another run completes its set."""
        return False

    def launch_run(self, context: LaunchRunContext) -> None:
        """Send a run to the workers, once the broker can be reached."""
        run = context.dagster_run
        make_again_when_lost(self._instance, run)
        wait_for_broker(self.celery)
        super().launch_run(context)

    def terminate(self, run_id: str) -> bool:
        """Interrupt a run, as Ctrl-C would, so that it ends everything that it has begun."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or not (task := run.tags.get(DAGSTER_CELERY_TASK_ID_TAG)):
            return False
        self._instance.report_run_canceling(run)
        self.celery.control.revoke(task, terminate=True, signal="SIGINT")
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return whether a worker has a run's task; while the broker is away nothing is known against a run."""
        task = run.tags.get(DAGSTER_CELERY_TASK_ID_TAG)
        if task is None:
            return health_by_mark(run.run_id)
        silent = self._held.silent_seconds([task])[task]
        if silent <= self._patience:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        self._held.forget(task)
        return CheckRunHealthResult(
            WorkerStatus.FAILED,
            f"no Celery worker has had its task for {silent:.0f} s: its process was killed (memory?), "
            "or its machine is gone or cut off",
        )

    def get_run_worker_debug_info(self, run: DagsterRun, include_container_logs: bool | None = True) -> str | None:
        """Return nothing: what is known is in the status."""
        return None
