"""The emergency set: the live state, captured and sealed before a restore replaces it."""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.errors import BackupSystemError, RefusedError
from backup_pipeline.model.manifest import Purpose
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.backup.run import BackupRun, RunIdentity, RunObserver
from backup_pipeline.settings.site import Site


class _ProgressOnly(RunObserver):
    """Passes progress on."""

    def __init__(self, sink: ProgressSink) -> None:
        self._sink = sink

    def progress(self, event: Progress) -> None:
        """Work in one artefact has moved on."""
        self._sink(event)


def make_emergency_set(
    site: Site,
    plan_name: str,
    source: str,
    *,
    run_id: str = "",
    progress: ProgressSink = no_progress,
    now: datetime | None = None,
) -> SetId:
    """Capture one source as it is now into a sealed set of the plan's store; its own retention keeps it.

    Raises:
        RefusedError: it could not be captured or sealed; the restore must not go on.
        LockError: the plan's store is busy.
    """
    identity = RunIdentity(
        run_id or f"restore-{uuid4().hex}", f"emergency-{uuid4().hex}", now or utc_now(), Purpose.EMERGENCY
    )
    run = BackupRun(
        site,
        plan_name,
        identity,
        sources=(source,),
        partial=len(site.plan(plan_name).sources) > 1,
        observer=_ProgressOnly(progress),
    )
    try:
        for _ in run.capture(source):
            pass
        return run.seal().set_id
    except BackupSystemError as error:
        if not error.permanent:
            raise
        raise RefusedError(
            f"The emergency backup of what is there now failed, so nothing was changed: {error.what}",
            where=error.where or source,
            remedy=error.remedy or "Make a backup of it by other means first.",
        ) from error
    finally:
        run.close()
