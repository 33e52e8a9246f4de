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


def history_of(
    instance: dg.DagsterInstance, plan: str, begin: datetime, end: datetime, vaults: Iterable[str] = ()
) -> History:
    """Return the runs of a plan, and of its copies in some vaults, that may have ended within a period."""
    wanted = dg.RunsFilter(
        tags={PLAN_TAG: [plan, *(copies_subject(plan, vault) for vault in vaults)]},
        statuses=[dg.DagsterRunStatus.SUCCESS, *_FAILED],
        created_after=begin - _LONGEST_RUN,
        created_before=end,
    )
    found: list[HistoryRun] = []
    cursor: str | None = None
    while records := instance.get_run_records(wanted, limit=_AT_ONCE, cursor=cursor):
        found += [_run(instance, record) for record in records]
        cursor = records[-1].dagster_run.run_id
        if len(records) < _AT_ONCE:
            break
    return History(found, known=True)


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
