"""The manifest asset: seals the set that this run wrote and adds it to the plan's partitions."""

import dagster as dg

from backup_pipeline.orchestration.freshness import freshness_of
from backup_pipeline.orchestration.metadata import failure_of, manifest_metadata
from backup_pipeline.orchestration.names import (
    PLAN_TAG,
    SET_TAG,
    manifest_key,
    source_key,
)
from backup_pipeline.orchestration.partition_names import ensured_partition
from backup_pipeline.orchestration.run_resource import BackupRuns
from backup_pipeline.orchestration.run_states import require_not_ended
from backup_pipeline.orchestration.sets_table import sets_metadata, start_restore
from backup_pipeline.settings.site import Site


def manifest_asset(site: Site, plan: str) -> dg.AssetsDefinition:
    """Return the manifest of a plan, downstream of every source."""
    settings = site.plan(plan)

    @dg.asset(
        key=manifest_key(plan),
        deps=[source_key(plan, name) for name in settings.sources],
        group_name=plan,
        kinds={"json"},
        description="Re-reads every file of the set, refuses what is not whole, and seals the set. "
        "Its presence is what makes a folder a backup.",
        owners=sorted({owner for name in settings.sources for owner in site.source(name).owners}),
        code_version="1",
        freshness_policy=freshness_of(settings, site.settings.timezone),
        op_tags={PLAN_TAG: plan},
    )
    def manifest(context: dg.AssetExecutionContext, backup_runs: BackupRuns) -> dg.MaterializeResult[None]:
        try:
            backup = backup_runs.of_plan(plan)
            require_not_ended(context.instance, context.run_id)
            sealed = backup.seal()
            # A sealed set needs no lock any more; what comes after it (retention) takes its own.
            backup.close()
        except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
            raise failure_of(error) from None
        store = backup_runs.site(plan).store_folder(plan)
        metadata = manifest_metadata(sealed, store=str(store))
        if store == site.store_folder(plan):
            partition = ensured_partition(site, plan, sealed.set_id, context.instance)
            # First what a person needs, then what the set holds.
            metadata = start_restore(site, sealed, partition) | sets_metadata(site, plan) | metadata
        context.instance.add_run_tags(context.run_id, {SET_TAG: f"{plan}/{sealed.set_id}"})
        return dg.MaterializeResult(
            metadata=metadata,
            data_version=dg.DataVersion(sealed.set_id),
        )

    return manifest
