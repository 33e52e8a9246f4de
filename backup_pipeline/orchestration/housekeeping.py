"""Keeping Dagster's own database small: old runs with their events and logs, and ticks. Opt-in; sets are not touched.

A run stays, however old, while it is the latest materialisation of an asset or of a partition that still exists: the
UI would otherwise show a verified set as never verified.
"""

# Annotations are not postponed here: Dagster reads an op's configuration class from them.
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field

from backup_pipeline.errors import SettingsError
from backup_pipeline.model.set_id import is_set_id
from backup_pipeline.orchestration.names import sets_partitions
from backup_pipeline.orchestration.partition_names import set_of_partition

DAYS_VARIABLE = "BACKUP_PIPELINE_KEEP_RUNS_DAYS"
DEFAULT_DAYS = 180
_BATCH = 500


class HousekeepingConfig(dg.Config):
    """The job's configuration."""

    keep_days: int = Field(default=DEFAULT_DAYS, ge=7, description="Finished runs younger than this stay.")
    dry_run: bool = Field(default=False, description="Only count what would be removed.")


def latest_runs(instance: dg.DagsterInstance) -> set[str]:
    """Return the ids of runs that hold the latest materialisation of an asset or of one of its partitions.

    Sets that are gone do not count: storage remembers every partition that there ever was, so that their runs would
    pile up for ever.
    """
    keep: set[str] = set()
    for key in instance.get_asset_keys():
        latest = instance.get_latest_materialization_event(key)
        if latest is not None:
            keep.add(latest.run_id)
        ids = instance.event_log_storage.get_latest_storage_id_by_partition(
            key, dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        sets = set(instance.get_dynamic_partitions(str(sets_partitions(key.path[0]).name)))
        ids = {name: number for name, number in ids.items() if name in sets or not is_set_id(set_of_partition(name))}
        if ids:
            records = instance.event_log_storage.get_event_records(
                dg.EventRecordsFilter(
                    dg.DagsterEventType.ASSET_MATERIALIZATION, asset_key=key, storage_ids=list(ids.values())
                )
            )
            keep.update(record.event_log_entry.run_id for record in records)
    return keep


def old_runs(instance: dg.DagsterInstance, before: datetime) -> list[str]:
    """Return the ids of finished runs that ended before a moment and that nothing depends on, oldest first."""
    keep = latest_runs(instance)
    finished = [
        dg.DagsterRunStatus.SUCCESS,
        dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.CANCELED,
    ]
    records = instance.get_run_records(dg.RunsFilter(statuses=finished, updated_before=before), ascending=True)
    return [record.dagster_run.run_id for record in records if record.dagster_run.run_id not in keep]


def remove_runs(instance: dg.DagsterInstance, run_ids: list[str]) -> None:
    """Remove runs with their events and the captured output of their steps."""
    for run_id in run_ids:
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        instance.delete_run(run_id)


def remove_ticks(instance: dg.DagsterInstance, before: datetime) -> int:
    """Remove the ticks of all schedules and sensors before a moment; return of how many schedules and sensors."""
    states = list(instance.all_instigator_state())
    for state in states:
        instance.purge_ticks(state.instigator_origin_id, state.selector_id, before.timestamp())
    return len(states)


@dg.op(description="Removes old runs, events, step logs and ticks from Dagster's own database.")
def prune_history(context: dg.OpExecutionContext, config: HousekeepingConfig) -> None:
    """Remove what is older than `keep_days`."""
    before = datetime.now(UTC) - timedelta(days=config.keep_days)
    found = [run_id for run_id in old_runs(context.instance, before) if run_id != context.run_id]
    if config.dry_run:
        context.log.info(f"{len(found)} runs would be removed.")
        return
    for start in range(0, len(found), _BATCH):
        remove_runs(context.instance, found[start : start + _BATCH])
        context.log.info(f"{min(start + _BATCH, len(found))} of {len(found)} runs removed.")
    instigators = remove_ticks(context.instance, before)
    context.log.info(f"Ticks before {before:%Y-%m-%d} removed of {instigators} schedules and sensors.")


@dg.job(
    name="dagster_housekeeping",
    description="Removes old runs, events and ticks from Dagster's own database. Backup sets are not touched.",
    tags={"dagster/max_retries": "0"},
)
def housekeeping_job() -> None:
    """Prune Dagster's own database."""
    prune_history()


def housekeeping_definitions(
    timezone: str = "UTC", environment: Mapping[str, str] | None = None
) -> tuple[dg.JobDefinition, dg.ScheduleDefinition]:
    """Return the job and its weekly schedule, which runs by itself only where BACKUP_PIPELINE_KEEP_RUNS_DAYS is set.

    Raises:
        SettingsError: the variable is no number of at least 7.
    """
    text = (os.environ if environment is None else environment).get(DAYS_VARIABLE, "").strip()
    if text and (not text.isdecimal() or int(text) < 7):
        raise SettingsError(
            f"{text!r} is not a number of days of at least 7.", where=DAYS_VARIABLE, remedy="Write 180, or remove it."
        )
    schedule = dg.ScheduleDefinition(
        name="dagster_housekeeping_schedule",
        job=housekeeping_job,
        description=f"Once a week; runs by itself only where {DAYS_VARIABLE} is set.",
        cron_schedule="30 6 * * 0",
        execution_timezone=timezone,
        run_config={"ops": {"prune_history": {"config": {"keep_days": int(text or DEFAULT_DAYS)}}}},
        default_status=dg.DefaultScheduleStatus.RUNNING if text else dg.DefaultScheduleStatus.STOPPED,
    )
    return housekeeping_job, schedule
