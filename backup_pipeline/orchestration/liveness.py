"""Liveness of runs: a mark in Dagster's home while a run's process lives, read by run monitoring.

Dagster watches only over the runs that its own code server has started, and only while that lives. Here every run
leaves a mark for as long as it executes, wherever it was started: a file with its process (host, number, start),
refreshed every few seconds, so that a killed process is known at once on its host, and after a minute on another one.
Workers that share no disk leave it in their database, too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import dagster as dg

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.operations.sites.state import state_database
from backup_pipeline.orchestration.home import default_home
from backup_pipeline.orchestration.run_states import EXECUTING
from backup_pipeline.settings.loader import CONFIG_VARIABLE, load_site
from backup_pipeline.stores.state.database import StateDatabase
from backup_pipeline.stores.state.locks import DatabaseCoordination
from backup_pipeline.system.files import make_folders
from backup_pipeline.system.locks import HEARTBEAT_SECONDS, hold_lock, living_holder, read_holder

LOG = logging.getLogger("backup-pipeline.runs")
SILENT_SECONDS = 4 * HEARTBEAT_SECONDS
_KEPT_SECONDS = 24 * 3600
_FOLDER = "running"
_SCOPE = "/runs"


def _mark(run_id: str) -> Path:
    # In a container all of DAGSTER_HOME but its `storage` is read-only; that one the services share.
    return default_home(os.environ) / "storage" / _FOLDER / run_id


@contextlib.contextmanager
def marked_alive(run_id: str) -> Iterator[None]:
    """Say that this process executes a run while the block lasts; a mark that cannot be written ends no run."""
    path = _mark(run_id)
    with contextlib.ExitStack() as stack:
        try:
            make_folders(path.parent, 0o700)
            _sweep(path.parent)
            stack.enter_context(hold_lock(path, purpose=f"run {run_id[:8]}", wait_seconds=0))
            if (database := _database()) is not None:
                database.sweep(_SCOPE, _KEPT_SECONDS)
                mark = DatabaseCoordination(database, _SCOPE)
                stack.enter_context(mark.hold(run_id, purpose=f"run {run_id[:8]}", wait_seconds=0))
        except BackupSystemError as error:
            LOG.warning("that this run is alive cannot be shown: %s", error)
        yield


def _database() -> StateDatabase | None:
    """Return the database of a site whose workers share no disk; None also where nothing says which site this is."""
    file = Path(os.environ.get(CONFIG_VARIABLE, ""))
    return _database_of(file, file.stat().st_mtime_ns) if file.is_file() else None


@lru_cache(maxsize=1)
def _database_of(file: Path, _changed: int) -> StateDatabase | None:
    return state_database(load_site(file))


def _sweep(folder: Path) -> None:
    """Remove the marks of processes that died long ago: their runs were ended since."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _silent_seconds(path) > _KEPT_SECONDS:
                path.unlink(missing_ok=True)


def death_of(run_id: str) -> str:
    """Return which process of a run is dead, "" where it lives, has ended, or has no mark here."""
    path = _mark(run_id)
    holder = read_holder(path)
    if holder is None:
        return _death_elsewhere(run_id)
    if living_holder(path) is not None:
        silent = _silent_seconds(path)
        if holder.host == socket.gethostname() or silent < SILENT_SECONDS:
            return ""
        return f"process {holder.pid} on {holder.host}, silent for {silent:.0f} s"
    # It may have ended in this very moment, and taken its mark away.
    return f"process {holder.pid} on {holder.host}" if read_holder(path) is not None else ""


def _death_elsewhere(run_id: str) -> str:
    """Return which process of a run is dead, by the mark that it left in the database; a run without one lives."""
    try:
        database = _database()
        holder = database.silent(_SCOPE, run_id) if database is not None else None
    except BackupSystemError as error:
        LOG.warning("whether run %s lives cannot be asked: %s", run_id[:8], error)
        return ""
    return f"process {holder.pid} on {holder.host}" if holder is not None else ""


def _silent_seconds(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def forget(run_id: str) -> None:
    """Remove the mark of a run that is over."""
    with contextlib.suppress(OSError):
        _mark(run_id).unlink(missing_ok=True)


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """End every unfinished run whose process is dead, and return their ids: what the daemon does where one runs."""
    ended = []
    for run in instance.get_runs(dg.RunsFilter(statuses=list(EXECUTING))):
        if not (dead := death_of(run.run_id)):
            continue
        current = instance.get_run_by_id(run.run_id)
        if current is None or current.is_finished:
            continue
        message = f"Its process was killed or crashed: {dead}."
        if current.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(current, message)
        else:
            instance.report_run_failed(current, message)
        forget(run.run_id)
        ended.append(run.run_id)
    return ended
