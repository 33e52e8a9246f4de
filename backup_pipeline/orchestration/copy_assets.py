"""Copies of sealed sets in vaults, partitioned by set: copied after the seal by a sensor, tried again, backfilled.

A copy is a run of its own, so that it never fails a backup. How a set is copied stands in `operations.copies`.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.operations.sites.copy_records import vault_record
from backup_pipeline.orchestration.metadata import failure_of
from backup_pipeline.orchestration.names import (
    COPY,
    PLAN_TAG,
    SET_TAG,
    copies_subject,
    manifest_key,
    sets_group,
    sets_partitions,
    stage_key,
)
from backup_pipeline.orchestration.run_observer import current_observer
from backup_pipeline.orchestration.selected_partition import selected_set
from backup_pipeline.settings.site import Site

_FIRST_PAUSE = timedelta(minutes=5)
_LONGEST_PAUSE = timedelta(hours=6)
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def copy_job_name(plan: str, vault: str) -> str:
    """Return the name of the job that copies one set of a plan into a vault."""
    return f"{plan}_{COPY}{vault}"


def copy_asset(site: Site, plan: str, vault: str) -> dg.AssetsDefinition:
    """Return the copies of a plan's sets in a vault, one partition per set."""

    @dg.asset(
        key=stage_key(plan, COPY + vault),
        deps=[manifest_key(plan)],
        group_name=sets_group(plan),
        kinds={"copy"},
        description=f"The set's copy in the vault {vault}, whole and seen there. A backfill copies older sets.",
        partitions_def=sets_partitions(plan),
        code_version="1",
        op_tags={PLAN_TAG: copies_subject(plan, vault)},
    )
    def copied(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        from backup_pipeline.operations.copies.copying import copy_into

        set_id = selected_set(context, plan)
        context.instance.add_run_tags(context.run_id, {SET_TAG: f"{plan}/{set_id}"})
        try:
            done = copy_into(site, vault, plan, set_id, progress=current_observer().progress)
        except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
            raise failure_of(error) from None
        known = vault_record(site, vault).copy_of(plan, set_id)
        metadata: dict[str, Any] = {
            "set": set_id,
            "copy": done.copy,
            "already_there": done.already_there,
            "size_bytes": done.size,
            "sent_bytes": done.sent_bytes,
            "chunks": done.chunks,
            "sent_chunks": done.sent,
        }
        if known is not None and known.locked_until is not None:
            metadata["locked_until"] = dg.MetadataValue.timestamp(known.locked_until)
        return dg.MaterializeResult(metadata=metadata)

    return copied


def copy_job(plan: str, vault: str) -> UnresolvedAssetJobDefinition:
    """Return the job that copies one set; a backfill of it copies several."""
    return dg.define_asset_job(
        copy_job_name(plan, vault),
        selection=dg.AssetSelection.assets(stage_key(plan, COPY + vault)),
        partitions_def=sets_partitions(plan),
        # The sensor tries again, with pauses that grow; what was sent is not sent again.
        tags={PLAN_TAG: copies_subject(plan, vault), "dagster/max_retries": "0"},
        description=f"The copy of one set of plan {plan} in the vault {vault}; a backfill copies older sets.",
    )


def next_try(failed_at: datetime, attempts: int) -> datetime:
    """Return when a copy that failed is tried again: after 5, 10, 20, … minutes, at most 6 hours."""
    pause: timedelta = _FIRST_PAUSE * (1 << min(attempts - 1, 10))
    return failed_at + min(pause, _LONGEST_PAUSE)


def copies_sensor(site: Site, plan: str, vault: str) -> dg.SensorDefinition:
    """Return the sensor that has each sealed set copied, and a failed copy tried again."""

    @dg.sensor(
        name=f"{copy_job_name(plan, vault)}_sensor",
        job_name=copy_job_name(plan, vault),
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Has each sealed set of {plan} copied into {vault}, and tries again what failed.",
        tags={PLAN_TAG: copies_subject(plan, vault)},
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return due_copies(site, plan, vault, context.instance, utc_now())

    return sensor


def due_copies(
    site: Site, plan: str, vault: str, instance: dg.DagsterInstance, now: datetime
) -> dg.SensorResult | dg.SkipReason:
    """Return the request for the next copy, or why there is none now."""
    from backup_pipeline.operations.copies.copying import missing_copies

    missing = missing_copies(site, plan, vault)
    if not missing:
        return dg.SkipReason("Every set that was sealed since the newest copy has one.")
    failure = vault_record(site, vault).failures.get(plan)
    attempts = failure.attempts if failure else 0
    if failure and (again := next_try(failure.at, failure.attempts)) > now:
        return dg.SkipReason(f"The last copy failed ({failure.what}); it is tried again at {again:%H:%M} UTC.")
    if instance.get_runs_count(dg.RunsFilter(job_name=copy_job_name(plan, vault), statuses=_UNFINISHED)):
        return dg.SkipReason("A copy is under way.")
    partitions = sets_partitions(plan)
    assert partitions.name is not None
    known = set(instance.get_dynamic_partitions(partitions.name))
    set_id = missing[0]
    # A run that was killed has recorded nothing: after the longest pause it is asked for once more.
    window = int(now.timestamp() // _LONGEST_PAUSE.total_seconds())
    request = dg.RunRequest(
        run_key=f"{vault}-{set_id}-{attempts}-{window}",
        partition_key=set_id,
        tags={PLAN_TAG: copies_subject(plan, vault), SET_TAG: f"{plan}/{set_id}"},
    )
    add = [] if set_id in known else [partitions.build_add_request([set_id])]
    return dg.SensorResult(run_requests=[request], dynamic_partitions_requests=add)


def copy_definitions(site: Site, plan: str) -> Iterator[dg.Definitions]:
    """Yield the copies of a plan: an asset, a job and a sensor for each vault."""
    for entry in site.plan(plan).copies:
        yield dg.Definitions(
            assets=[copy_asset(site, plan, entry.to)],
            jobs=[copy_job(plan, entry.to)],
            sensors=[copies_sensor(site, plan, entry.to)],
        )
