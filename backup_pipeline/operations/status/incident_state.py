"""The stored state of a site's incidents: `.alerts/incidents.json` in its store, changed under a lock.

The shell, runs and sensors share it. Where it cannot be written (a full disk is itself an incident) the process
remembers, so that an alert is still sent, and once.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError as PydanticError

from backup_pipeline.errors import BackupSystemError, StoreError
from backup_pipeline.model.incident import IncidentState
from backup_pipeline.operations.sites.shared_knowledge import share_state, state_lock
from backup_pipeline.settings.site import Site
from backup_pipeline.system.files import give_mode, make_folders, write_atomically
from backup_pipeline.system.former_files import keep_damaged
from backup_pipeline.system.locks import hold_lock

LOG = logging.getLogger("alerts")
FOLDER_NAME = ".alerts"
FILE_NAME = "incidents.json"
_LOCK_NAME = "incidents.lock"
_LOCK_SECONDS = 10.0
_Result = TypeVar("_Result")
_REMEMBERED: dict[Path, IncidentState] = {}


def state_file(site: Site) -> Path:
    """Return the path of the site's incidents."""
    return site.settings.store / FOLDER_NAME / FILE_NAME


def read_state(site: Site, *, shared: bool = True) -> IncidentState:
    """Return what is remembered; nothing when there is no file, or a damaged one, which is logged and kept aside.

    With `shared=False` what other workers without a shared disk wrote is not asked for.
    """
    file = state_file(site)
    if shared:
        share_state(site)
    if file in _REMEMBERED:
        return _REMEMBERED[file]
    try:
        return IncidentState.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return IncidentState()
    except (OSError, PydanticError) as error:
        LOG.error("%s cannot be read (%s); incidents are reported anew", file, type(error).__name__)
        return IncidentState()


def change_state(
    site: Site, change: Callable[[IncidentState], tuple[IncidentState, _Result]], *, must_be_stored: bool = False
) -> _Result:
    """Change the state in one step that no other process comes between, and return the change's result.

    What cannot be stored is remembered by this process and stored at the next chance.

    Raises:
        StoreError: it cannot be stored, and `must_be_stored`; nothing is changed then.
    """
    file = state_file(site)
    with contextlib.ExitStack() as stack:
        problem = _lock(site, file, stack)
        before = read_state(site)
        after, result = change(before)
        if after != before or file in _REMEMBERED:
            problem = problem or _write(site, file, after)
            if problem and must_be_stored:
                raise StoreError(
                    f"The incidents cannot be changed: {problem}",
                    where=str(file),
                    remedy="Make the store writable for this process, or do it in a terminal of the machine.",
                )
            if problem:
                LOG.error("incidents cannot be stored, this process remembers them: %s", problem)
                _REMEMBERED[file] = after
            else:
                _REMEMBERED.pop(file, None)
        return result


def _lock(site: Site, file: Path, stack: contextlib.ExitStack) -> str:
    """Hold the state's lock until the stack ends; return why that is not possible, or ""."""
    try:
        make_folders(file.parent, int(site.settings.folder_mode, 8))
        stack.enter_context(hold_lock(file.with_name(_LOCK_NAME), purpose="alerts", wait_seconds=_LOCK_SECONDS))
        give_mode(file.with_name(_LOCK_NAME), int(site.settings.file_mode, 8))
        stack.enter_context(state_lock(site, "incidents", purpose="alerts", wait_seconds=_LOCK_SECONDS))
    except BackupSystemError as error:
        return str(error)
    return ""


def _write(site: Site, file: Path, state: IncidentState) -> str:
    try:
        keep_damaged(file, IncidentState.model_validate_json, datetime.now(UTC))
        # Empty fields are omitted: earlier releases do not know them.
        document = state.model_dump_json(indent=1, exclude_defaults=True)
        write_atomically(file, document.encode(), mode=int(site.settings.file_mode, 8))
    except BackupSystemError as error:
        return str(error)
    return ""
