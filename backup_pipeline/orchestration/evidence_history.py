"""Dagster's history of a plan's runs, as evidence takes it: who asked for what, and how it ended."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import dagster as dg

from backup_pipeline.operations.evidence.history import History, HistoryRun
from backup_pipeline.orchestration.activity import created_at
from backup_pipeline.orchestration.names import OPERATION_TAG, PLAN_TAG, SET_TAG, STARTED_BY_TAG, copies_subject
from backup_pipeline.orchestration.partition_names import set_of_partition
from backup_pipeline.orchestration.restore_runs import error_of
from backup_pipeline.orchestration.run_subject import RESTORE, UNDO, restore_step, source_of

_AT_ONCE = 500
_LONGEST_RUN = timedelta(days=7)
"""A run that ended within a period may have begun so long before it."""
_FAILED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_MOST_KEPT = 50_000
_KEPT: dict[str, HistoryRun] = {}
"""Runs that have ended, by id: they do not change, and reading a year of them again takes most of a page's time."""


def history_of(
    instance: dg.DagsterInstance,
    plan: str,
    begin: datetime,
    end: datetime,
    vaults: Iterable[str] = (),
    *,
    anew: bool = True,
) -> History:
    """Return the runs of a plan, and of its copies in some vaults, that may have ended within a period.

    Args:
        instance: Dagster's.
        plan: the plan.
        begin: the first moment of the period.
        end: the first moment after it.
        vaults: where its copies are.
        anew: read every run, as for what is signed; False takes those that this process has read before, for pages.
    """
    wanted = dg.RunsFilter(
        tags={PLAN_TAG: [plan, *(copies_subject(plan, vault) for vault in vaults)]},
        statuses=[dg.DagsterRunStatus.SUCCESS, *_FAILED],
        created_after=begin - _LONGEST_RUN,
        created_before=end,
    )
    ids = instance.get_run_ids(wanted)
    known = {} if anew else {run_id: _KEPT[run_id] for run_id in ids if run_id in _KEPT}
    missing = [run_id for run_id in ids if run_id not in known]
    for first in range(0, len(missing), _AT_ONCE):
        records = instance.get_run_records(dg.RunsFilter(run_ids=missing[first : first + _AT_ONCE]))
        known |= {record.dagster_run.run_id: _run(instance, record) for record in records}
    if len(_KEPT) + len(missing) > _MOST_KEPT:
        _KEPT.clear()
    _KEPT.update(known)
    # A run may have been removed meanwhile.
    return History([known[run_id] for run_id in ids if run_id in known], known=True)


def _run(instance: dg.DagsterInstance, record: dg.RunRecord) -> HistoryRun:
    run, tags = record.dagster_run, record.dagster_run.tags
    began = datetime.fromtimestamp(record.start_time, UTC) if record.start_time else created_at(record)
    operation, failed = tags.get(OPERATION_TAG, "") or run.job_name, run.status in _FAILED
    restores = operation in (RESTORE, UNDO)
    return HistoryRun(
        run_id=run.run_id,
        operation=operation,
        set_name=tags.get(SET_TAG, "") or set_of_partition(tags.get("dagster/partition", "")),
        who=tags.get(STARTED_BY_TAG, ""),
        began=began,
        ended=datetime.fromtimestamp(record.end_time, UTC) if record.end_time else began,
        failed=failed,
        step=restore_step(run) if restores else "",
        source=source_of(run) if restores else "",
        reason=error_of(instance, run.run_id)["what"] if restores and failed else "",
    )


def history_of_site(plan: str, begin: datetime, end: datetime, vaults: Iterable[str] = ()) -> History:
    """Return the same from the instance of DAGSTER_HOME."""
    with dg.DagsterInstance.get() as instance:
        return history_of(instance, plan, begin, end, vaults)
