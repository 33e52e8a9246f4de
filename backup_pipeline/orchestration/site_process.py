"""Pointing a process, or the processes it starts, at a site: Dagster's home, its storage, and backup.yaml.

Dagster is not imported here, so that the shell can do this before it pays for that import.
"""

from __future__ import annotations

import os

from backup_pipeline.orchestration.home import ensure_home
from backup_pipeline.settings.loader import CONFIG_VARIABLE
from backup_pipeline.settings.site import Site

# What Dagster's own processes read from the environment; a site may keep them in its `.env`.
_DAGSTER_VARIABLES = (
    "DAGSTER_HOME",
    "DAGSTER_POSTGRES_URL",
    "BACKUP_PIPELINE_COMPUTE_LOGS",
    "BACKUP_PIPELINE_COMPUTE_LOGS_CONFIG",
    "BACKUP_PIPELINE_EXECUTOR",
    "BACKUP_PIPELINE_EXECUTOR_CONFIG",
    "BACKUP_PIPELINE_RUN_LAUNCHER",
    "BACKUP_PIPELINE_RUN_LAUNCHER_CONFIG",
    "BACKUP_PIPELINE_PG_BIN",
    "CELERY_BROKER_URL",
    "CELERY_RESULT_BACKEND",
)


def enter_site(site: Site) -> dict[str, str]:
    """Make this process, and with it the processes that it starts, work for a site.

    Returns:
        The variables that were set. Secrets of sources are not among them: each process reads them from `.env`.
    """
    # A variable that the process has as X_FILE stays a file: both at once would be a fault.
    wanted = {
        name: value
        for name in _DAGSTER_VARIABLES
        if name not in os.environ and f"{name}_FILE" not in os.environ and (value := site.value(name))
    }
    wanted[CONFIG_VARIABLE] = str(site.file)
    os.environ.update(wanted)
    wanted["DAGSTER_HOME"] = str(ensure_home(site.folder, site.environment))
    return wanted
