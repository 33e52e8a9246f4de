"""Gathers the definitions of a site: every plan's assets, jobs and schedules. Reads settings, asks no database."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from datetime import timedelta

import dagster as dg

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.operations.sites.shared_knowledge import with_shared_knowledge
from backup_pipeline.orchestration.alerts import alert_sensors
from backup_pipeline.orchestration.capture_assets import capture_asset, capture_assets
from backup_pipeline.orchestration.copy_assets import copy_definitions
from backup_pipeline.orchestration.fleet_assets import fleet_definitions
from backup_pipeline.orchestration.housekeeping import housekeeping_definitions
from backup_pipeline.orchestration.launcher import executor_from_environment
from backup_pipeline.orchestration.manifest_asset import manifest_asset
from backup_pipeline.orchestration.names import PLAN_TAG, backup_job, manifest_key, source_key, stage_key
from backup_pipeline.orchestration.orders import orders_definitions
from backup_pipeline.orchestration.proof_assets import (
    DRILL,
    VERIFICATION,
    drill_asset,
    stage_job,
    stage_schedule,
    verification_asset,
)
from backup_pipeline.orchestration.reexport_asset import reexport_asset, reexport_job
from backup_pipeline.orchestration.restore_assets import restorable, restore_asset, restore_job, undo_job
from backup_pipeline.orchestration.retention_asset import RETENTION, retention_asset
from backup_pipeline.orchestration.run_resource import RUNS, BackupRuns
from backup_pipeline.orchestration.safety_asset import safety_asset, safety_sensor
from backup_pipeline.orchestration.schema_sensor import has_databases, schema_sensor
from backup_pipeline.orchestration.set_partitions import partitions_sensor
from backup_pipeline.settings.server_databases import absent_since
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.orders.source import order_sources

_STILL_ASKED_FOR = timedelta(days=1)
"""For how long the assets of a database that is gone stay defined."""


def backup_definitions(site: Site, plan: str) -> dg.Definitions:
    """Return what a backup of one plan consists of: its captures, manifest and retention, its job and schedule."""
    settings = site.plan(plan)
    captures = capture_assets(site, plan, settings.sources)
    # *Materialize all* on a page that was loaded before a database was dropped names its assets. They are found, and
    # the run goes on without it, as the plan's own job does.
    gone = [capture_asset(site, plan, name) for name in absent_since(site, plan, utc_now() - _STILL_ASKED_FOR)]
    keys = [key for asset in captures for key in asset.keys]
    job = dg.define_asset_job(
        backup_job(plan),
        selection=dg.AssetSelection.assets(*keys, manifest_key(plan), stage_key(plan, RETENTION)),
        tags={PLAN_TAG: plan},
        description=f"Capture {', '.join(settings.sources)} into one sealed set of plan {plan}.",
    )
    schedules: list[dg.ScheduleDefinition] = []
    if settings.schedule:
        schedules.append(
            dg.ScheduleDefinition(
                name=f"{backup_job(plan)}_schedule",
                job=job,
                cron_schedule=settings.schedule,
                execution_timezone=site.settings.timezone,
                default_status=dg.DefaultScheduleStatus.RUNNING,
                description=f"The backup of plan {plan}: {', '.join(settings.sources)} into one sealed set.",
                tags={PLAN_TAG: plan},
            )
        )
    return dg.Definitions(
        assets=[*captures, *gone, manifest_asset(site, plan), retention_asset(site, plan)],
        jobs=[job],
        schedules=schedules,
    )


def plan_definitions(site: Site, plan: str) -> dg.Definitions:
    """Return the assets, jobs and schedules of one plan."""
    settings = site.plan(plan)
    restored = [restore_asset(site, plan, name) for name in restorable(site, plan)]
    schedules: list[dg.ScheduleDefinition] = []
    if settings.verify:
        schedules.append(stage_schedule(site, plan, VERIFICATION, settings.verify, newest_only=False))
    if settings.drill:
        schedules.append(stage_schedule(site, plan, DRILL, settings.drill, newest_only=True))
    own = dg.Definitions(
        assets=[
            verification_asset(site, plan),
            drill_asset(site, plan),
            reexport_asset(site, plan),
            *restored,
        ],
        jobs=[undo_job(site, plan)] if restored else [],
        schedules=schedules,
        sensors=[
            partitions_sensor(site, plan),
            *([schema_sensor(site, plan)] if has_databases(site, plan) else []),
        ],
    )
    stages = [stage_job(plan, VERIFICATION), stage_job(plan, DRILL), reexport_job(plan)]
    if restored:
        stages.append(restore_job(site, plan))
    orders = (orders_definitions(site, plan, name) for name in order_sources(site, plan))
    return dg.Definitions.merge(backup_definitions(site, plan), own, *stages, *orders, *copy_definitions(site, plan))


def selection_of(site: Site, plan: str, sources: tuple[str, ...]) -> list[dg.AssetKey]:
    """Return the asset keys of some sources of a plan and its manifest, for a run of part of the plan."""
    keys = [key for name in sources for key in capture_asset(site, plan, name).keys]
    assert all(source_key(plan, name) in keys for name in sources)
    return [*keys, manifest_key(plan)]


def build_definitions(site: Site) -> dg.Definitions:
    """Return everything of a site for Dagster."""
    site = with_shared_knowledge(site)
    prune_job, prune_schedule = housekeeping_definitions(site.settings.timezone, site.environment)
    common = dg.Definitions(
        assets=[safety_asset(site)],
        jobs=[prune_job],
        schedules=[prune_schedule],
        sensors=[*alert_sensors(site), safety_sensor(site)],
    )
    return dg.Definitions.merge(common, _of_plans(site, [*site.single_plans, *site.settings.fleets]))


def build_job(site: Site, job: str) -> dg.JobDefinition:
    """Return one job of a site; definitions that it cannot consist of are not built."""
    if own := [name for name in site.single_plans if job == backup_job(name)]:
        return _of_plans(with_shared_knowledge(site), own, backup_definitions).resolve_job_def(job)
    # The names of a plan's jobs begin with the plan's; that of `a_b_drill` may be of `a` or of `a_b`.
    if near := [name for name in (*site.single_plans, *site.settings.fleets) if job.startswith(f"{name}_")]:
        narrow = _of_plans(with_shared_knowledge(site), near)
        if any(each.name == job for each in narrow.jobs or ()):
            return narrow.resolve_job_def(job)
    return build_definitions(site).resolve_job_def(job)


def _of_plans(
    site: Site, plans: Iterable[str], of_plan: Callable[[Site, str], dg.Definitions] = plan_definitions
) -> dg.Definitions:
    with warnings.catch_warnings():
        # Backfill policies are marked beta; the release of Dagster is pinned.
        warnings.simplefilter("ignore", dg.BetaWarning)
        built = [
            fleet_definitions(site, name) if name in site.settings.fleets else of_plan(site, name) for name in plans
        ]
    means = dg.Definitions(resources={RUNS: BackupRuns(settings=site)}, executor=executor_from_environment())
    return dg.Definitions.merge(means, *built)
