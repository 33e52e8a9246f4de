"""A workshop's order archive in Dagster: what a source of kind `orders` adds to a plan, its jobs, schedules and sensor.

Years are partitions, and a backfill over any of them is one run. The assets stand in `orders_assets`.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.orchestration.names import PLAN_TAG, artefact_key
from backup_pipeline.orchestration.orders_assets import folders_asset, restored_asset, undo_job, verification_asset
from backup_pipeline.orchestration.orders_years import (
    FOLDERS,
    NEVER_AGAIN,
    RESTORED,
    VERIFICATION,
    job_name,
    range_tags,
    year_partitions,
    year_range_tags,
)
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.orders.source import orders_settings

_SENSOR_SECONDS = 60


def _jobs(site: Site, plan: str, name: str) -> dg.Definitions:
    partitions = year_partitions(orders_settings(site, name), site.settings.timezone)
    return dg.Definitions(
        jobs=[
            dg.define_asset_job(
                job_name(plan, name, what),
                selection=dg.AssetSelection.assets(artefact_key(plan, (name, asset))),
                partitions_def=None if what == "restore" else partitions,
                tags={PLAN_TAG: plan, **NEVER_AGAIN},
                description=f"{text} Source {name} of plan {plan}.",
            )
            for what, asset, text in (
                ("export", FOLDERS, "Write changed orders into their folders."),
                ("verification", VERIFICATION, "Check the folders of the orders."),
                ("restore", RESTORED, "Rebuild the table from the folders and swap it in."),
            )
        ]
    )


def _schedule(site: Site, plan: str, name: str, what: str, cron: str) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{job_name(plan, name, what)}_schedule",
        job_name=job_name(plan, name, what),
        cron_schedule=cron,
        execution_timezone=site.settings.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="All years in one run.",
    )
    def every_year(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(tags=year_range_tags(site, name))

    return every_year


def changed_years(before: dict[str, list[Any]], now: dict[str, tuple[int, str]], every: Sequence[str]) -> list[str]:
    """Return the partitions whose number of rows or newest `updated_at` is another than before."""
    changed = {y for y in {*before, *now} if tuple(before.get(y, ())) != now.get(y, ())}
    return sorted({y if y in every else every[-1] if y.isdigit() and y > every[-1] else every[0] for y in changed})


def changed_sensor(site: Site, plan: str, name: str) -> dg.SensorDefinition:
    """Return the sensor that exports, in one run, the years from the first to the last in which an order changed.

    Where the database file was not written since, it reads nothing else; otherwise it asks one query for rows and
    newest `updated_at` by year. A change that touches neither is found by the nightly export.
    """
    partitions = year_partitions(orders_settings(site, name), site.settings.timezone)

    @dg.sensor(
        name=job_name(plan, name, "changed"),
        job_name=job_name(plan, name, "export"),
        minimum_interval_seconds=_SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Exports the years of orders that changed.",
    )
    def orders_changed(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        from backup_pipeline.sources.orders.source import database_state, orders_place, year_states

        known: dict[str, Any] = json.loads(context.cursor) if context.cursor else {"state": "", "years": {}}
        try:
            place = orders_place(site, name)
            state = database_state(place)
            if state and state == known["state"]:
                return dg.SkipReason("The database was not written.")
            years = year_states(place)
        except BackupSystemError as error:
            return dg.SkipReason(str(error))
        changed = changed_years(known["years"], years, partitions.get_partition_keys())
        moment = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
        return dg.SensorResult(
            # One run: several would read the whole table each, and wait for each other at the archive's lock.
            run_requests=[dg.RunRequest(run_key=moment, tags=range_tags(changed))] if changed else [],
            skip_reason=None if changed else dg.SkipReason("No order changed."),
            cursor=json.dumps({"state": state, "years": years}),
        )

    return orders_changed


def orders_definitions(site: Site, plan: str, name: str) -> dg.Definitions:
    """Return everything that a source of kind `orders` adds to a plan."""
    settings, source = site.plan(plan), orders_settings(site, name)
    schedules = [_schedule(site, plan, name, "verification", settings.verify or "30 4 * * 0")]
    if source.export_schedule:
        # The plan's own backup writes the pairs too; this is for sites that want them more often.
        schedules.append(_schedule(site, plan, name, "export", source.export_schedule))
    own = dg.Definitions(
        assets=[
            folders_asset(site, plan, name),
            verification_asset(site, plan, name),
            restored_asset(site, plan, name),
        ],
        jobs=[undo_job(site, plan, name)],
        schedules=schedules,
        sensors=[changed_sensor(site, plan, name)],
    )
    return dg.Definitions.merge(own, _jobs(site, plan, name))
