"""Restore in the UI: `<plan>_restore` with the set picked from the partitions, and `<plan>_undo`.

Three steps, as in the shell: a run without configuration, or with `step: plan`, shows what would happen, a plan id and
a link; a run with `step: apply`, that id and the target's name does it; `<plan>_undo` takes it back. Each source is an
op of its own, named by what it does. Never retried automatically.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import dagster as dg

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.errors import BackupSystemError, ChangedPlanError
from backup_pipeline.model.restore import RestorePlan, RestoreResult
from backup_pipeline.model.set_id import SetId
from backup_pipeline.orchestration.metadata import failure_of
from backup_pipeline.orchestration.names import (
    PLAN_TAG,
    RESTORE_TAG,
    SET_TAG,
    SOURCE_TAG,
    STEP_TAG,
    UNDONE_TAG,
    fleet_restored_key,
    manifest_key,
    restore_job_name,
    restore_op,
    restored_key,
    sets_group,
    sets_partitions,
    undo_job_name,
    undo_op,
)
from backup_pipeline.orchestration.restore_config import RestoreConfig, UndoConfig
from backup_pipeline.orchestration.restore_metadata import PLAN_AS_READ, plan_metadata, result_metadata
from backup_pipeline.orchestration.run_progress import reported_progress
from backup_pipeline.orchestration.selected_partition import selected_set
from backup_pipeline.orchestration.ui_links import apply_link
from backup_pipeline.settings.server_databases import GONE_FOR, absent_since
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.registry import kind_of

Context = dg.AssetExecutionContext | dg.OpExecutionContext
# A restore that failed is inspected by a person, never tried again by a machine.
NEVER_AGAIN = {"dagster/max_retries": "0"}


def restorable(site: Site, plan: str) -> list[str]:
    """Return the sources of a plan that this job restores; order archives have their own, a server its databases.

    A database that was dropped is what somebody wants back: it stays here for as long as its last set is kept for it.
    """
    names = (*site.plan(plan).sources, *absent_since(site, plan, utc_now() - GONE_FOR))
    return [name for name in names if kind_of(site, name)[0].restored_with_its_plan and not site.is_server(name)]


def report_plan(context: Context, found: RestorePlan, key: dg.AssetKey, partition: str, link: str) -> None:
    """Report what a restore would do, as an observation of a partition of an asset.

    Args:
        context: of the run.
        found: the plan.
        key: of the asset.
        partition: the set, or the member of a fleet.
        link: where it is applied.
    """
    context.log.info(f"To apply it, run again with step: apply, plan_id: {found.plan_id}, confirm: {found.confirm}")
    context.log_event(
        dg.AssetObservation(
            key,
            partition=partition,
            description="What a restore would do. Nothing was changed.",
            metadata=plan_metadata(found, link) | {PLAN_AS_READ: dg.MetadataValue.json(found.model_dump(mode="json"))},
        )
    )


def _is_asked_for(run_config: Mapping[str, Any], op: str) -> bool:
    """Return whether a run is about this op's source: what is applied, else what is configured, else every one."""
    ops = {name: (given or {}).get("config") or {} for name, given in (run_config.get("ops") or {}).items()}
    applied = [name for name, config in ops.items() if str(config.get("step", "")).lower() == "apply"]
    return op in (applied or ops or [op])


def restore_asset(site: Site, plan: str, source: str) -> dg.AssetsDefinition:
    """Return a restored source of a plan, partitioned by set."""
    key, op = restored_key(plan, source), restore_op(plan, source)

    @dg.multi_asset(
        name=op,
        specs=[
            dg.AssetSpec(
                key,
                deps=[manifest_key(plan)],
                group_name=sets_group(plan),
                kinds={site.source(source).kind_name},
                description=f"Source `{source}` rebuilt from a set beside what is live, compared, and swapped in. "
                "Materialising it without a configuration only shows the plan.",
                partitions_def=sets_partitions(plan),
                # A plan restores nothing.
                skippable=True,
                code_version="1",
            )
        ],
        op_tags={PLAN_TAG: plan},
    )
    def restored(context: dg.AssetExecutionContext, config: RestoreConfig) -> Iterator[Any]:
        set_id = selected_set(context, plan)
        if not _is_asked_for(context.run.run_config, op):
            context.log.info(f"This run is not about {source}: nothing to do.")
            return
        place = f"{config.vault}:{plan}" if config.vault else plan
        context.instance.add_run_tags(
            context.run_id, {SET_TAG: f"{place}/{set_id}", SOURCE_TAG: source, STEP_TAG: config.step}
        )

        def report(found: RestorePlan) -> None:
            link = apply_link(site, found, context.partition_key, config.vault)
            report_plan(context, found, key, context.partition_key, link)

        try:
            result = plan_or_apply(context, site, RestoreSubject(place, set_id, source), config, report)
        except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
            raise failure_of(error) from None
        if result is not None:
            context.instance.add_run_tags(context.run_id, {RESTORE_TAG: result.restore_id})
            yield dg.MaterializeResult(asset_key=key, metadata=result_metadata(result))

    return restored


class RestoreSubject(NamedTuple):
    """A source of a set, which is in the plan's own store or, at `VAULT:PLAN`, in a vault."""

    place: str
    set_id: SetId
    source: str


def plan_or_apply(
    context: Context, site: Site, subject: RestoreSubject, config: RestoreConfig, report: Callable[[RestorePlan], None]
) -> RestoreResult | None:
    """Report what a restore would do, or do it and return what was done; errors as of the operations."""
    from backup_pipeline.operations.restore.run import Confirmation, apply_restore, plan_restore

    progress, options = reported_progress(context.log.info), config.options()
    if config.step == "plan":
        report(plan_restore(site, *subject, options, progress=progress))
        return None
    confirmation = Confirmation(config.plan_id, config.confirm, context.run_id)
    try:
        return apply_restore(site, *subject, options, confirmation=confirmation, progress=progress)
    except ChangedPlanError:
        # The person who asked reads the new plan at once; nothing is changed by making it.
        with suppress(BackupSystemError):
            report(plan_restore(site, *subject, options, progress=progress))
        raise


def restore_job(site: Site, plan: str) -> dg.Definitions:
    """Return the job `<plan>_restore`: pick the set as the partition, fill in the Launchpad's form."""
    job = dg.define_asset_job(
        restore_job_name(plan),
        selection=dg.AssetSelection.assets(*(restored_key(plan, name) for name in restorable(site, plan))),
        partitions_def=sets_partitions(plan),
        tags={PLAN_TAG: plan, **NEVER_AGAIN},
        description=f"Restore a source of a set of plan {plan}: a run as it is shows what would happen and has a link "
        "that applies it.",
    )
    return dg.Definitions(jobs=[job])


def undo_job(site: Site, plan: str) -> dg.JobDefinition:
    """Return the job `<plan>_undo`, which takes the newest restore of a source back."""

    @dg.op(
        name=undo_op(plan),
        tags={PLAN_TAG: plan},
        description="Makes live again what was live before the newest restore of a source.",
    )
    def undo(context: dg.OpExecutionContext, config: UndoConfig) -> None:
        take_back(context, site, plan, config)

    @dg.job(
        name=undo_job_name(plan),
        tags={PLAN_TAG: plan, **NEVER_AGAIN},
        description=f"Take back the newest restore of a source of plan {plan}.",
    )
    def job() -> None:
        undo()

    return job


def take_back(context: dg.OpExecutionContext, site: Site, plan: str, config: UndoConfig, fleet: str = "") -> None:
    """Take back the newest restore of a source of a plan, which may be a member of a fleet; dg.Failure where not."""
    from backup_pipeline.operations.restore.undo import undo_restore

    try:
        progress = reported_progress(context.log.info)
        result = undo_restore(site, plan, config.source, confirm=config.confirm, progress=progress)
    except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
        raise failure_of(error) from None
    context.log.info(f"{config.source}: what was live before {result.started_at:%Y-%m-%d %H:%M} UTC is live again.")
    _mark_undone(context, result, fleet)


def _mark_undone(context: dg.OpExecutionContext, result: RestoreResult, fleet: str) -> None:
    """Let the undone restore's run and its asset's history show that it does not hold any more."""
    instance = context.instance
    # A run that our pages started names the set with its vault already.
    named = {SET_TAG: f"{result.plan}/{result.set_id}"} if SET_TAG not in context.run.tags else {}
    instance.add_run_tags(context.run_id, {SOURCE_TAG: result.source, **named})
    wanted = dg.RunsFilter(job_name=restore_job_name(fleet or result.plan), tags={RESTORE_TAG: result.restore_id})
    runs = instance.get_runs(wanted, limit=1)
    metadata: dict[str, Any] = {
        "undone": f"What {result.source} was before this restore is live again.",
        "undone by": dg.MetadataValue.dagster_run(context.run_id),
    }
    for run in runs:
        instance.add_run_tags(run.run_id, {UNDONE_TAG: context.run_id})
        metadata["restore"] = dg.MetadataValue.dagster_run(run.run_id)
    context.log_event(
        dg.AssetObservation(
            fleet_restored_key(fleet) if fleet else restored_key(result.plan, result.source),
            partition=result.plan if fleet else _partition_of(runs, result),
            description="This restore was undone.",
            metadata=metadata,
        )
    )


def _partition_of(runs: Sequence[dg.DagsterRun], result: RestoreResult) -> str:
    return runs[0].tags.get("dagster/partition", result.set_id) if runs else result.set_id
