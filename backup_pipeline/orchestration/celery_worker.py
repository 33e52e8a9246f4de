"""Entry of the workers that execute a site's runs, each started on its own machine by

    celery -A backup_pipeline.orchestration.celery_worker worker --concurrency 1

The site is that of BACKUP_PIPELINE_CONFIG or ./backup.yaml. Where runs come from is `celery_runs`.
"""

from __future__ import annotations

import logging
import multiprocessing
from typing import Any

from celery.exceptions import WorkerLostError
from celery.signals import task_failure
from dagster_celery.tasks import create_execute_job_task, create_task

# Imported before the forks, so that no task waits for it.
import backup_pipeline.orchestration.build
import backup_pipeline.orchestration.postgres_storage  # noqa: F401
from backup_pipeline.errors import BackupSystemError
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.orchestration.celery_app import PatientTask, celery_app
from backup_pipeline.orchestration.celery_steps import UnfinishedStep
from backup_pipeline.orchestration.site_process import enter_site
from backup_pipeline.settings.loader import load_site
from backup_pipeline.stores.claims import writing

LOG = logging.getLogger("backup-pipeline.runs")
enter_site(load_site())
app = celery_app()
# A result waits for its server to come back. Given up, a step that nobody has heard of would be waited for without end.
app.conf.result_backend_always_retry = True
execute_job = create_execute_job_task(app, base=PatientTask)
execute_plan = create_task(app, base=UnfinishedStep)


def _give_back() -> None:
    """Remove the locks and claims of processes of this machine that are gone, for which others would wait."""
    site = load_site()
    for plan in site.single_plans:
        try:
            writing(open_store(site, plan))
        except BackupSystemError as error:
            LOG.warning("claims of the process that was killed end by themselves: %s", error)


@task_failure.connect(weak=False)  # type: ignore[untyped-decorator]
def _task_ended(exception: BaseException | None = None, **_: Any) -> None:
    """Give back what a task's process had, where it was killed: its worker alone knows at once that it is gone.

    In a process of its own: a thread would hold locks in the middle of the fork for the next task.
    """
    if isinstance(exception, WorkerLostError):
        multiprocessing.get_context("fork").Process(target=_give_back, name="give-back", daemon=True).start()
