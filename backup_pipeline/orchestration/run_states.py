"""States of runs that have not ended, and the refusal of what a run does that has been ended from outside."""

from __future__ import annotations

import dagster as dg

from backup_pipeline.errors import RefusedError

EXECUTING = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)
UNDER_WAY = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, *EXECUTING)


def require_not_ended(instance: dg.DagsterInstance, run_id: str) -> None:
    """Make sure that a run's process may still make a set: that nobody has ended the run meanwhile.

    Raises:
        RefusedError: it was ended, as one whose machine was cut off; another run may have made the set since.
    """
    run = instance.get_run_by_id(run_id)
    if run is not None and run.is_finished:
        raise RefusedError(
            f"This run was ended meanwhile ({run.status.value.lower()}), as its machine could not be reached.",
            where=f"run {run_id}",
            remedy="Nothing is to be done where the backup was made again by another run; else make a new one.",
        )
