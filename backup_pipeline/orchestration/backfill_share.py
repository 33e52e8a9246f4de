"""Backfills over years in one pass, also where Dagster made one run for each.

The UI and the daemon give a backfill of yearly orders one run; `dagster job backfill` makes one for each year, which
would each read the whole table and wait for the others at the archive's lock. The first of them does the years of all
that have not begun; the others find their year done and end at once.
"""

from __future__ import annotations

import dagster as dg

_BACKFILL_TAG = "dagster/backfill"
_PARTITION_TAG = "dagster/partition"
_YEARS_TAG = "backup_pipeline/years"
_WAITING = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING)


def _siblings(context: dg.AssetExecutionContext) -> list[dg.DagsterRun]:
    backfill = context.run.tags.get(_BACKFILL_TAG)
    if not backfill or not context.has_partition_key or context.has_partition_key_range:
        return []
    runs = context.instance.get_runs(dg.RunsFilter(tags={_BACKFILL_TAG: backfill}, job_name=context.run.job_name))
    return [run for run in runs if run.run_id != context.run_id]


def done_by(context: dg.AssetExecutionContext, year: str) -> str:
    """Return the run of the same backfill that has done this year, "" when none has."""
    for run in _siblings(context):
        if run.status is dg.DagsterRunStatus.SUCCESS and year in run.tags.get(_YEARS_TAG, "").split(","):
            return run.run_id
    return ""


def years_to_do(context: dg.AssetExecutionContext, years: list[str]) -> list[str]:
    """Return the years that this run does: its own, and those of runs of the same backfill that have not begun."""
    waiting = [run.tags.get(_PARTITION_TAG, "") for run in _siblings(context) if run.status in _WAITING]
    more = sorted({year for year in waiting if year} - set(years))
    if more:
        context.instance.add_run_tags(context.run_id, {_YEARS_TAG: ",".join([*years, *more])})
    return [*years, *more]
