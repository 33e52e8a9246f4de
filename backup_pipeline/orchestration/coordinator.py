"""The queue of runs, in which every run is tagged before it waits: limits per plan hold, and it is found later.

Dagster gives a run the tags of its job. Runs from the pages of assets and groups, and backfills, have no job of ours.
"""

from __future__ import annotations

from dagster import DagsterRun
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext

from backup_pipeline.orchestration.run_subject import missing_tags


class TaggedRunCoordinator(QueuedRunCoordinator):
    """Dagster's own queue; dagster.yaml names it."""

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Tag a run with its plan, what it does and who asked, and queue it."""
        run = context.dagster_run
        if tags := missing_tags(run):
            self._instance.add_run_tags(run.run_id, tags)
        return super().submit_run(context)
