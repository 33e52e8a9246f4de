"""Fleets in Dagster: one job and one schedule per fleet, and one asset with a partition for each member.

A thousand plans as assets, jobs and sensors of their own would be some twenty thousand definitions; a member is a
partition instead. The job takes the whole fleet within its window. Selected partitions (those that failed, say) are one
run outside of it, as a backfill or a single one. In both a member's partition is materialised by its sealed set alone.
"""

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any

import dagster as dg

from backup_pipeline.model.fleet_run import MemberOutcome
from backup_pipeline.operations.fleets.run import FleetOutcome, FleetRequest, run_fleet
from backup_pipeline.operations.fleets.send import notify_fleet
from backup_pipeline.orchestration.fleet_restore import restores_of_members
from backup_pipeline.orchestration.metadata import failure_of, table_of, with_readable
from backup_pipeline.orchestration.names import PLAN_TAG, backup_job
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.site import Site

_SCHEDULED_AT = "dagster/scheduled_execution_time"
_SYNC_SECONDS = 300
_SHOWN = 100


class FleetConfig(dg.Config):
    """What a run of a fleet is about.

    Attributes:
        unfinished: only the members that failed or were postponed the last time.
    """

    unfinished: bool = False


def member_partitions(fleet: str) -> dg.DynamicPartitionsDefinition:
    """Return the partitions of a fleet: the plan of each member that is in its list."""
    return dg.DynamicPartitionsDefinition(name=f"{fleet}_members")


def fleet_key(fleet: str) -> dg.AssetKey:
    """Return the key of the asset whose partitions are a fleet's members."""
    return dg.AssetKey([fleet, "backup"])


def fleet_definitions(site: Site, fleet: str) -> dg.Definitions:
    """Return the asset, the jobs, the schedule and the sensor of a fleet."""
    settings = site.settings.fleets[fleet]
    job = _whole_fleet(site, fleet)
    schedules = []
    if settings.schedule:
        schedules.append(
            dg.ScheduleDefinition(
                name=f"{backup_job(fleet)}_schedule",
                job=job,
                cron_schedule=settings.schedule,
                execution_timezone=site.settings.timezone,
                default_status=dg.DefaultScheduleStatus.RUNNING,
                description=f"Opens the window of fleet {fleet}.",
                tags={PLAN_TAG: fleet},
            )
        )
    return dg.Definitions(
        assets=[_members_asset(site, fleet)],
        jobs=[job, *restores_of_members(site, fleet)],
        schedules=schedules,
        sensors=[_members_sensor(site, fleet)],
    )


def _members_asset(site: Site, fleet: str) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name=f"{fleet}__backup",
        specs=[
            dg.AssetSpec(
                fleet_key(fleet),
                group_name=fleet,
                kinds={"backup"},
                description=f"The newest sealed set of each member of fleet {fleet}. Materialise partitions to back up "
                "these members now, one run for all of them, within the limits per server and network.",
                partitions_def=member_partitions(fleet),
                # A member whose backup failed has no new set: its partition stays as it was.
                skippable=True,
            )
        ],
        backfill_policy=dg.BackfillPolicy.single_run(),
        op_tags={PLAN_TAG: fleet},
    )
    def members(context: dg.AssetExecutionContext) -> Any:
        _run(context, site, FleetRequest(fleet, only=context.partition_keys, run_id=context.run_id))
        yield from ()

    return members


def _whole_fleet(site: Site, fleet: str) -> dg.JobDefinition:
    @dg.op(name=f"{fleet}__window", tags={PLAN_TAG: fleet})
    def window(context: dg.OpExecutionContext, config: FleetConfig) -> None:
        opened = context.run.tags.get(_SCHEDULED_AT)
        request = FleetRequest(
            fleet,
            unfinished=config.unfinished,
            opened=datetime.fromisoformat(opened) if opened else None,
            run_id=context.run_id,
        )
        _run(context, site, request)

    @dg.job(
        name=backup_job(fleet),
        tags={PLAN_TAG: fleet},
        description=f"Back up the members of fleet {fleet} within its window: what was postponed last time first.",
    )
    def backup() -> None:
        window()

    return backup


def _run(context: Any, site: Site, request: FleetRequest) -> None:
    """Run a fleet, with a materialisation for each member whose set is sealed.

    Raises:
        Failure: members failed or were postponed; they are named.
    """
    site = load_site(site.file)

    def ended(outcome: MemberOutcome, done: int, count: int) -> None:
        if outcome.state == "sealed":
            context.log.info(f"{outcome.plan}: sealed {outcome.set_id} ({done} of {count})")
        else:
            context.log.error(f"{outcome.plan}: {outcome.what} {outcome.remedy} ({done} of {count})")

    try:
        synchronise_members(site, request.fleet, context.instance)
        done = run_fleet(site, request, ended)
    except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
        raise failure_of(error) from None
    for one in done.of_state("sealed"):
        metadata = with_readable({"set": f"{one.plan}/{one.set_id}", "bytes": one.size, "seconds": one.seconds})
        context.log_event(dg.AssetMaterialization(fleet_key(request.fleet), partition=one.plan, metadata=metadata))
    notify_fleet(site, request.fleet, done, context.run_id)
    if done.exit_code:
        raise _not_all(request.fleet, done)


def _not_all(fleet: str, done: FleetOutcome) -> dg.Failure:
    failed, postponed = done.of_state("failed"), done.of_state("postponed")
    rows = [{"member": one.plan, "state": one.state, "what": one.what} for one in (*failed, *postponed)]
    rows += [{"member": one.plan, "state": "drilled", "what": one.what} for one in done.drilled if one.exit_code]
    rows += [{"member": where, "state": "in the list", "what": what} for where, what in done.faults]
    return dg.Failure(
        f"{len(done.of_state('sealed'))} members of {fleet} are sealed, {len(failed)} failed, {len(postponed)} are "
        f"postponed; {len(done.faults)} rows of its list are wrong.",
        metadata={"members": table_of(rows[:_SHOWN])} if rows else {},
        allow_retries=False,
    )


def synchronise_members(site: Site, fleet: str, instance: dg.DagsterInstance) -> None:
    """Make a fleet's partitions equal to its members, at once."""
    name = str(member_partitions(fleet).name)
    added, gone = _changes(site, fleet, instance.get_dynamic_partitions(name))
    if added:
        instance.add_dynamic_partitions(name, added)
    for key in gone:
        instance.delete_dynamic_partition(name, key)


def _changes(site: Site, fleet: str, known: Collection[str]) -> tuple[list[str], list[str]]:
    present = {one.plan for one in site.fleets[fleet].present}
    return sorted(present - set(known)), sorted(set(known) - present)


def _members_sensor(site: Site, fleet: str) -> dg.SensorDefinition:
    partitions = member_partitions(fleet)

    @dg.sensor(
        name=f"{fleet}_members_sensor",
        minimum_interval_seconds=_SYNC_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Members that are new in the list of fleet {fleet} appear here, those that left it disappear.",
        tags={PLAN_TAG: fleet},
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        known = context.instance.get_dynamic_partitions(str(partitions.name))
        added, gone = _changes(load_site(site.file), fleet, known)
        if not added and not gone:
            return dg.SkipReason("The list and the partitions are equal.")
        build: list[tuple[list[str], Callable[[list[str]], Any]]] = [
            (added, partitions.build_add_request),
            (gone, partitions.build_delete_request),
        ]
        return dg.SensorResult(dynamic_partitions_requests=[make(keys) for keys, make in build if keys])

    return sensor
