"""The queue of runs, in which every run is tagged before it waits: limits per plan hold, and it is found later.

Dagster gives a run the tags of its job. Runs from the pages of assets and groups, and backfills, have no job of ours.
"""

from __future__ import annotations

from typing import Any

from dagster import DagsterRun, QueuedRunCoordinator, SubmitRunContext
from dagster._core.run_coordinator.queued_run_coordinator import RunQueueConfig
from dagster._utils.tags import TagConcurrencyLimitsCounter
from dagster_shared.record import copy

from backup_pipeline.orchestration.names import PLAN_TAG, backup_job
from backup_pipeline.orchestration.run_subject import missing_tags, plans_of


class TaggedRunCoordinator(QueuedRunCoordinator):
    """Dagster's own queue; dagster.yaml names it."""

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Tag a run with its plan, what it does and who asked, and queue it."""
        run = context.dagster_run
        if tags := missing_tags(run):
            self._instance.add_run_tags(run.run_id, tags)
        if _is_whole_backup(run):
            self._forget_steps(run.run_id)
        return super().submit_run(context)

    def _forget_steps(self, run_id: str) -> None:
        """Have a run execute all steps of its job as they are when it begins.

        The webserver and the daemon name those that they knew when they loaded the definitions. The databases of a
        server come and go without a reload: one that is gone would be a step that nobody finds, and a new one would be
        a source of the plan that nobody captures.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is not None and run.remote_job_origin is not None:
            # The one way of the run storage to write a run again; where the job is found stays as it is.
            whole = copy(run, step_keys_to_execute=None)
            self._instance.run_storage.replace_job_origin(whole, run.remote_job_origin)

    def get_run_queue_config(self) -> RunQueueConfig:
        """Return the queue's limits. The daemon asks for them before each round: from then on it counts by plan."""
        import dagster._daemon.run_coordinator.queued_run_coordinator_daemon as daemon

        daemon.TagConcurrencyLimitsCounter = PlanLimitsCounter  # type: ignore[attr-defined]
        return super().get_run_queue_config()


def _is_whole_backup(run: DagsterRun) -> bool:
    """Return whether a run is a plan's backup job as a whole, and none that completes an earlier one."""
    selected = run.asset_selection or run.asset_check_selection or run.op_selection or run.parent_run_id
    return not selected and run.job_name == backup_job(run.tags.get(PLAN_TAG, ""))


class PlanLimitsCounter(TagConcurrencyLimitsCounter):
    """Counts a run over assets of several plans for each of them; Dagster's tags have one value."""

    def is_blocked(self, item: Any) -> bool:
        """Return whether a run has to wait for another one of any of its plans."""
        return super().is_blocked(item) or any(
            super(PlanLimitsCounter, self).is_blocked(item.with_tags({PLAN_TAG: plan})) for plan in _other_plans(item)
        )

    def update_counters_with_launched_item(self, item: Any) -> None:
        """Count a run that is started, or is in progress."""
        super().update_counters_with_launched_item(item)
        for plan in _other_plans(item):
            super().update_counters_with_launched_item(item.with_tags({PLAN_TAG: plan}))


def _other_plans(item: Any) -> tuple[str, ...]:
    """Return the plans of a run but the one that it is tagged with; Dagster counts steps with the same class."""
    if not isinstance(item, DagsterRun):
        return ()
    return tuple(plan for plan in plans_of(item) if plan != item.tags.get(PLAN_TAG))
