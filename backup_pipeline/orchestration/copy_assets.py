"""Copies of sealed sets in vaults, partitioned by set: copied after the seal by a sensor, tried again, backfilled.

A copy is a run of its own, so that it never fails a backup. How a set is copied stands in `operations.copies`. Checks
of the copies as they are stored, and verifications and drills read from the vault, are assets beside it.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.errors import BackupSystemError, LockError
from backup_pipeline.operations.sites.copy_records import vault_record
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.orchestration.metadata import failure_of, table_of, with_readable
from backup_pipeline.orchestration.names import (
    CHECK,
    COPY,
    COPY_DRILL,
    COPY_VERIFICATION,
    PLAN_TAG,
    SET_TAG,
    copies_subject,
    manifest_key,
    sets_group,
    sets_partitions,
    stage_key,
)
from backup_pipeline.orchestration.partition_names import ensured_partition, known_partitions, partitions_of
from backup_pipeline.orchestration.proof_assets import drill_asset, verification_asset
from backup_pipeline.orchestration.run_observer import current_observer
from backup_pipeline.orchestration.selected_partition import selected_set
from backup_pipeline.settings.site import Site

RETENTION_CHECK = "retention_not_refused"
WHOLE_CHECK = "whole"
_FIRST_PAUSE = timedelta(minutes=5)
_LONGEST_PAUSE = timedelta(hours=6)
_TRIES_COUNTED = 1000
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

    key = stage_key(plan, COPY + vault)

    @dg.multi_asset(
        name=f"{plan}__{COPY}{vault}",
        specs=[
            dg.AssetSpec(
                key,
                deps=[manifest_key(plan)],
                group_name=sets_group(plan),
                kinds={"copy"},
                description=f"The set's copy in the vault {vault}, whole and listed. A backfill copies older sets.",
                partitions_def=sets_partitions(plan),
                code_version="1",
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                RETENTION_CHECK, asset=key, description="What the policy lets go was marked, old marks were cleaned."
            )
        ],
        op_tags={PLAN_TAG: copies_subject(plan, vault)},
    )
    def copied(context: dg.AssetExecutionContext) -> Iterator[Any]:
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
        retained, more = _retain(site, plan, vault)
        yield dg.MaterializeResult(
            asset_key=key, metadata=with_readable({**metadata, **more}), check_results=[retained]
        )

    return copied


def _retain(site: Site, plan: str, vault: str) -> tuple[dg.AssetCheckResult, dict[str, Any]]:
    """Clean the plan's copies; what keeps it from that is a warning, for the copy itself was made."""
    from backup_pipeline.operations.copies.retention import clean_copies

    def result(problem: str) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            asset_key=stage_key(plan, COPY + vault),
            check_name=RETENTION_CHECK,
            passed=not problem,
            severity=dg.AssetCheckSeverity.WARN,
            description=problem or None,
        )

    try:
        done = clean_copies(site, vault, utc_now(), plans=[plan], when_due=True)
    except LockError:
        return result(""), {}  # another run cleans there
    except BackupSystemError as error:
        return result(str(error)), {}
    [own] = done.plans
    rows = [
        {
            "set": one.set_id,
            "decision": "keep" if one.keep else "locked" if one.set_id in own.forbidden else "marked",
            "why": "; ".join(one.reasons),
        }
        for one in own.verdict.decisions
    ]
    metadata: dict[str, Any] = {
        "copies": table_of(rows),
        "copies_marked": len(own.marked),
        "copies_locked": len(own.forbidden),
        "removed_bytes": done.cleaned.removed_bytes,
    }
    return result(own.verdict.refusal if own.verdict.held else ""), metadata


def check_asset(site: Site, plan: str, vault: str) -> dg.AssetsDefinition:
    """Return the check of a plan's copies as they are stored; it needs no identity."""
    key = stage_key(plan, CHECK + vault)

    @dg.multi_asset(
        name=f"{plan}__{CHECK}{vault}",
        specs=[
            dg.AssetSpec(
                key,
                deps=[stage_key(plan, COPY + vault)],
                group_name=sets_group(plan),
                kinds={"check"},
                description=f"Every copy of the plan in {vault} is signed and whole; each chunk is read as stored.",
                code_version="1",
            )
        ],
        check_specs=[dg.AssetCheckSpec(WHOLE_CHECK, asset=key, description="Nothing is missing, changed or unlocked.")],
        op_tags={PLAN_TAG: copies_subject(plan, vault)},
    )
    def checked(context: dg.AssetExecutionContext) -> Iterator[Any]:
        from backup_pipeline.operations.copies.checking import check_plan_copies

        try:
            found = check_plan_copies(site, vault, plan, utc_now(), current_observer().progress)
        except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
            raise failure_of(error) from None
        metadata: dict[str, Any] = {
            "copies": found.copies,
            "chunks": found.chunks,
            "read_bytes": found.read_bytes,
            "bad_copies": len(found.bad_copies),
            "findings": len(found.findings),
            "lock": found.lock,
        }
        if found.findings:
            metadata["what was found"] = table_of(
                [{"subject": one.subject, "problem": one.problem, "remedy": one.remedy} for one in found.findings]
            )
        first = f"{found.findings[0].subject}: {found.findings[0].problem}" if found.findings else ""
        yield dg.AssetCheckResult(
            asset_key=key,
            check_name=WHOLE_CHECK,
            passed=not found.findings,
            description=first or None,
            metadata=metadata,
        )
        if found.findings:
            raise dg.Failure(f"Copies in {vault} are not whole. First: {first}", metadata=metadata, allow_retries=False)
        yield dg.MaterializeResult(asset_key=key, metadata=metadata)

    return checked


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
    set_id, job = missing[0], copy_job_name(plan, vault)
    if instance.get_runs_count(dg.RunsFilter(job_name=job, statuses=_UNFINISHED)):
        return dg.SkipReason("A copy is under way.")
    subject = f"{plan}/{set_id}"
    # A run that was killed has recorded no failure; Dagster's history has it.
    tries = instance.get_run_records(dg.RunsFilter(job_name=job, tags={SET_TAG: subject}), limit=_TRIES_COUNTED)
    ended = [next_try(datetime.fromtimestamp(run.end_time, UTC), len(tries)) for run in tries if run.end_time]
    failure = vault_record(site, vault).failures.get(plan)
    if failure is not None:
        ended.append(next_try(failure.at, failure.attempts))
    if ended and (again := max(ended)) > now:
        why = f" ({failure.what})" if failure else ""
        return dg.SkipReason(f"The last copy failed{why}; it is tried again at {again:%H:%M} UTC.")
    known = known_partitions(instance, plan)
    partition = partitions_of(site, plan, [set_id], known)[set_id]
    request = dg.RunRequest(
        run_key=f"{vault}-{set_id}-{len(tries)}",
        partition_key=partition,
        tags={PLAN_TAG: copies_subject(plan, vault), SET_TAG: subject},
    )
    add = [] if set_id in known else [sets_partitions(plan).build_add_request([partition])]
    return dg.SensorResult(run_requests=[request], dynamic_partitions_requests=add)


def _job(plan: str, vault: str, stage: str, what: str) -> dg.Definitions:
    """Return the job of a stage; one run per set, but of checks, which are of all copies at once."""
    job = dg.define_asset_job(
        f"{plan}_{stage}{vault}",
        selection=dg.AssetSelection.assets(stage_key(plan, stage + vault)),
        partitions_def=None if stage == CHECK else sets_partitions(plan),
        # A copy is tried again by its sensor, with pauses that grow; what was sent is not sent again.
        tags={PLAN_TAG: copies_subject(plan, vault), "dagster/max_retries": "0"},
        description=what,
    )
    return dg.Definitions(jobs=[job])


def _schedule(site: Site, plan: str, vault: str, stage: str, cron: str) -> dg.ScheduleDefinition:
    """Return the schedule of checks, or of drills: of the newest copy whose set is here still."""

    @dg.schedule(
        name=f"{plan}_{stage}{vault}_schedule",
        job_name=f"{plan}_{stage}{vault}",
        cron_schedule=cron,
        execution_timezone=site.settings.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"The check of all copies of plan {plan} in {vault}, as they are stored."
        if stage == CHECK
        else f"The drill of the newest set of plan {plan}, read from {vault}.",
        tags={PLAN_TAG: copies_subject(plan, vault)},
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        copies = vault_record(site, vault).of_plan(plan)
        if not copies:
            return dg.SkipReason(f"No set of plan {plan} has a copy in {vault} yet.")
        tags = {PLAN_TAG: copies_subject(plan, vault)}
        moment = f"{context.scheduled_execution_time:%Y%m%dT%H%M}"
        if stage == CHECK:
            return dg.RunRequest(run_key=f"check-{vault}-{moment}", tags=tags)
        here = set(open_store(site, plan).sealed_ids())
        newest = next((one.set_id for one in reversed(copies) if one.set_id in here and not one.partial), None)
        if newest is None:
            return dg.SkipReason("No set with a copy is in the store any more.")
        partition = ensured_partition(site, plan, newest, context.instance)
        tags[SET_TAG] = f"{vault}:{plan}/{newest}"
        return dg.RunRequest(run_key=f"drill-{vault}-{newest}-{moment}", partition_key=partition, tags=tags)

    return schedule


def copy_definitions(site: Site, plan: str) -> Iterator[dg.Definitions]:
    """Yield the copies of a plan: for each vault copies, checks and drills, with their jobs, sensor and schedules."""
    for entry in site.plan(plan).copies:
        vault = entry.to
        times = ((CHECK, entry.check), (COPY_DRILL, entry.drill))
        yield dg.Definitions.merge(
            _job(plan, vault, COPY, f"The copy of one set of plan {plan} in {vault}; a backfill copies older sets."),
            _job(plan, vault, CHECK, f"The check of plan {plan}'s copies in {vault} as they are stored."),
            _job(plan, vault, COPY_VERIFICATION, f"The verification of one set of plan {plan}, read from {vault}."),
            _job(plan, vault, COPY_DRILL, f"The drill of one set of plan {plan}, read from {vault}."),
            dg.Definitions(
                assets=[
                    copy_asset(site, plan, vault),
                    check_asset(site, plan, vault),
                    verification_asset(site, plan, vault),
                    drill_asset(site, plan, vault),
                ],
                schedules=[_schedule(site, plan, vault, stage, cron) for stage, cron in times if cron],
                sensors=[copies_sensor(site, plan, vault)],
            ),
        )
