"""Dagster's daemon, which reports a lost history in one line and ends at once when asked: its own command and options.

python -m backup_pipeline.web.daemon run -w WORKSPACE
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.orchestration.storage import require_history
from backup_pipeline.system.process_end import run_and_leave

LOG = logging.getLogger("backup-pipeline")
SECONDS = 30.0


def watch_history(
    environment: Mapping[str, str], stopped: threading.Event, report: Callable[[str], None], seconds: float = SECONDS
) -> None:
    """Report when the database of Dagster's history goes away and when it is back, until `stopped` is set.

    Args:
        environment: variables with the history's address.
        stopped: ends the watch.
        report: takes one line.
        seconds: between two attempts.
    """
    away = ""
    while not stopped.wait(seconds):
        try:
            require_history(environment)
        except BackupSystemError as error:
            if not away:
                report(f"{error.what} No schedule, sensor or alert runs until it is back. {error.remedy}")
            away = error.what
        else:
            if away:
                report("The database with Dagster's history is back: schedules, sensors and alerts run again.")
            away = ""


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s - %(name)s - %(levelname)s - %(message)s")
    threading.Thread(
        target=watch_history, args=(os.environ, threading.Event(), LOG.error), name="history", daemon=True
    ).start()
    (daemon,) = entry_points(group="console_scripts", name="dagster-daemon")
    run_and_leave(daemon.load())
