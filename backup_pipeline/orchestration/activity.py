"""Runs that wait or execute now, as Dagster's history has them, and how the last ones of a plan ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from backup_pipeline.orchestration.names import OPERATION_TAG, PLAN_TAG, SET_TAG, SOURCE_TAG, STARTED_BY_TAG, STEP_TAG
from backup_pipeline.orchestration.partition_names import set_of_partition
from backup_pipeline.orchestration.run_states import EXECUTING

_QUEUED = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED)
_MOST = 50


@dataclass(frozen=True, slots=True)
class ActiveRun:
    """A run: its id and job, the plan and set it is about ("" for none), who asked, and its times in UTC.

    `source` and `step` (`plan`, `apply`, `undo`) are of a restore or an undo, "" for other runs.
    """

    run_id: str
    job: str
    plan: str
    operation: str
    set_name: str
    asked_by: str
    waiting: bool
    created_at: datetime
    started_at: datetime | None
    source: str = ""
    step: str = ""


def active_runs(instance: dg.DagsterInstance) -> list[ActiveRun]:
    """Return the runs that wait or execute, oldest first; at most fifty."""
    records = instance.get_run_records(dg.RunsFilter(statuses=[*_QUEUED, *EXECUTING]), limit=_MOST, ascending=True)
    return [_active(record) for record in records]


def _active(record: dg.RunRecord) -> ActiveRun:
    run = record.dagster_run
    tags = run.tags
    started = datetime.fromtimestamp(record.start_time, UTC) if record.start_time else None
    return ActiveRun(
        run_id=run.run_id,
        job=run.job_name,
        plan=tags.get(PLAN_TAG, ""),
        operation=tags.get(OPERATION_TAG, "") or run.job_name,
        set_name=tags.get(SET_TAG, "") or set_of_partition(tags.get("dagster/partition", "")),
        asked_by=tags.get(STARTED_BY_TAG, ""),
        waiting=run.status in _QUEUED,
        created_at=created_at(record),
        started_at=started,
        source=tags.get(SOURCE_TAG, ""),
        step=tags.get(STEP_TAG, ""),
    )


def created_at(record: dg.RunRecord) -> datetime:
    """Return when a run was created, in UTC; some storages give that time without its zone."""
    moment = record.create_timestamp
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def run_origin(instance: dg.DagsterInstance, run_id: str) -> str:
    """Return who asked for a run, "" where the history does not have it."""
    run = instance.get_run_by_id(run_id)
    return run.tags.get(STARTED_BY_TAG, "") if run else ""


def run_state(instance: dg.DagsterInstance, run_id: str) -> str:
    """Return whether a run is `active` (waits or executes, or is not known), `done` or `failed` (also when ended)."""
    run = instance.get_run_by_id(run_id)
    if run is None or not run.is_finished:
        return "active"
    return "done" if run.is_success else "failed"
