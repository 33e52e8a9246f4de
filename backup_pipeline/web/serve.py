"""Our pages and Dagster's webserver behind the guard, in one process: its own command with its own options.

    python -m backup_pipeline.web -h ADDRESS -p PORT -w WORKSPACE

Dagster's command makes its application and serves it in one function; that one is replaced here. The release of Dagster
is pinned for that reason too.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import dagster_webserver.cli as webserver
import uvicorn
from dagster_webserver.app import create_app_from_workspace_process_context

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.web.access import process_environment, ui_access
from backup_pipeline.web.front.app import FrontDoor
from backup_pipeline.web.front.context import Front
from backup_pipeline.web.guard import Guard

_DEFAULT_PORT = 3000
LOG = logging.getLogger(webserver.WEBSERVER_LOGGER_NAME)


def serve(
    workspace: Any,
    host: str | None,
    port: int | None,
    path_prefix: str,
    log_level: str,
    live_data_poll_rate: int | None = None,
) -> None:
    """Serve the UI of a workspace behind the guard until it is interrupted.

    Raises:
        SettingsError: other machines reach `host` and no password is set.
    """
    host, port = host or "127.0.0.1", port or _DEFAULT_PORT
    access = ui_access(process_environment(), host)
    inner = create_app_from_workspace_process_context(
        workspace, path_prefix, live_data_poll_rate, lifespan=webserver._lifespan
    )
    front = Front(path_prefix, workspace=workspace)
    front.warm_up()
    door = FrontDoor(inner, front)
    LOG.info("Serving the UI on http://%s:%s%s in process %s", host, port, path_prefix, os.getpid())
    uvicorn.run(Guard(door, access, path_prefix), host=host, port=port, log_level=log_level, server_header=False)


def main() -> None:
    """Run Dagster's own command `dagster-webserver` with the guard in place."""
    webserver.host_dagster_ui_with_workspace_process_context = serve  # type: ignore[assignment]
    try:
        webserver.cli(auto_envvar_prefix="DAGSTER_WEBSERVER")
    except BackupSystemError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(int(error.exit_code))
