"""Entry of the workers that execute a site's runs, each started on its own machine by

    celery -A backup_pipeline.orchestration.celery_worker worker --concurrency 1

The site is that of BACKUP_PIPELINE_CONFIG or ./backup.yaml. Where runs come from is `celery_runs`.
"""

from __future__ import annotations

from dagster_celery.tasks import create_execute_job_task, create_task

# Imported before the forks, so that no task waits for it.
import backup_pipeline.orchestration.build
import backup_pipeline.orchestration.postgres_storage  # noqa: F401
from backup_pipeline.orchestration.celery_app import PatientTask, celery_app
from backup_pipeline.orchestration.celery_steps import UnfinishedStep
from backup_pipeline.orchestration.site_process import enter_site
from backup_pipeline.settings.loader import load_site

enter_site(load_site())
app = celery_app()
# A result waits for its server to come back. Given up, a step that nobody has heard of would be waited for without end.
app.conf.result_backend_always_retry = True
execute_job = create_execute_job_task(app, base=PatientTask)
execute_plan = create_task(app, base=UnfinishedStep)
