"""Restores and undos in the shell: a failure is evidence and an incident, as that of a run in Dagster is."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Literal

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.errors import INTERRUPTED, BackupSystemError, RefusedError
from backup_pipeline.model.restore import RestoreFailure
from backup_pipeline.operations.alerts.send import FinishedRun, notify_run_finished
from backup_pipeline.operations.restore.records import write_failure
from backup_pipeline.operations.sites.stores import split_place
from backup_pipeline.settings.site import Site
from backup_pipeline.system.files import user_name

LOG = logging.getLogger("restore")
_WORK = {"apply": "restore", "undo": "undo"}


@contextlib.contextmanager
def reported(site: Site, place: str, source: str, step: Literal["apply", "undo"], set_id: str = "") -> Iterator[None]:
    """Report the end of the block, a restore or an undo in the shell, as that of a run.

    A failure is kept for the evidence and opens an incident; what was only refused is evidence and no incident, for
    whoever asked has been answered. A success ends the incident. What cannot be kept or sent is logged: the failure
    itself is what the person must learn.

    Args:
        site: the site.
        place: the plan, or `VAULT:PLAN`.
        source: the source.
        step: which of both.
        set_id: the set that is restored.
    """
    began = utc_now()
    vault, plan = split_place(place)
    work = f"{_WORK[step]} of {source}"
    try:
        yield
    except BaseException as error:
        failure = RestoreFailure(
            step=step,
            plan=plan,
            source=source,
            set_id=set_id,
            vault=vault,
            who=f"shell ({user_name()})",
            began=began,
            ended=utc_now(),
            reason=_reason(error),
        )
        try:
            write_failure(site, failure)
        except (BackupSystemError, OSError) as problem:
            LOG.warning("that it failed cannot be kept as evidence: %s", problem)
        if not isinstance(error, RefusedError):
            remedy = error.remedy if isinstance(error, BackupSystemError) else "Start it again."
            failed = FinishedRun(
                succeeded=False, work=work, set_id=set_id, artefact=source, reason=failure.reason, remedy=remedy
            )
            notify_run_finished(site, plan, failed)
        raise
    notify_run_finished(site, plan, FinishedRun(succeeded=True, work=work))


def _reason(error: BaseException) -> str:
    """Return why something failed; of what is no error of ours only its kind, for its text may hold rows."""
    if isinstance(error, BackupSystemError):
        return f"{error.where}: {error.what}".removeprefix(": ")
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else type(error).__name__
