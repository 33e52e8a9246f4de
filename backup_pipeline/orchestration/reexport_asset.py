"""Tables of sealed sets in another format: a backfill over the sets that are wanted. The sets themselves stay."""

from typing import Annotated, cast

import dagster as dg
from pydantic import Field

from backup_pipeline.orchestration.choices import any_case
from backup_pipeline.orchestration.metadata import failure_of, table_of
from backup_pipeline.orchestration.names import (
    PLAN_TAG,
    SET_TAG,
    manifest_key,
    sets_group,
    sets_partitions,
    stage_key,
)
from backup_pipeline.orchestration.run_observer import current_observer
from backup_pipeline.orchestration.selected_partition import selected_set
from backup_pipeline.settings.site import Site

REEXPORT = "reexport"


Format = Annotated[str, any_case("jsonl", "json", "csv")]


class ReexportConfig(dg.Config):
    """What the Launchpad asks for."""

    format: Format = Field(
        default="jsonl",
        description="jsonl: one JSON object per line, gzip. csv: with a header, gzip. json: one plain array.",
    )
    source: str = Field(default="", description="Only this source's tables; all by default.")


def reexport_asset(site: Site, plan: str) -> dg.AssetsDefinition:
    """Return the re-export of a plan's sets, partitioned by set."""

    @dg.asset(
        key=stage_key(plan, REEXPORT),
        deps=[manifest_key(plan)],
        group_name=sets_group(plan),
        kinds={"json"},
        description="The set's tables as JSON lines or CSV, written beside the sets; a backfill does several sets.",
        partitions_def=sets_partitions(plan),
        code_version="1",
        op_tags={PLAN_TAG: plan},
    )
    def reexport(context: dg.AssetExecutionContext, config: ReexportConfig) -> dg.MaterializeResult[None]:
        from backup_pipeline.operations.data.reexport import ExportFormat, reexport_set

        set_id = selected_set(context, plan)
        context.instance.add_run_tags(context.run_id, {SET_TAG: f"{plan}/{set_id}"})
        try:
            written = reexport_set(
                site,
                plan,
                set_id,
                cast(ExportFormat, config.format),
                source=config.source,
                progress=current_observer().progress,
            )
        except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
            raise failure_of(error) from None
        return dg.MaterializeResult(
            metadata={
                "set": set_id,
                "tables": len(written),
                "dagster/row_count": sum(item.rows for item in written),
                "files": table_of(
                    [{"file": str(item.path), "rows": item.rows, "bytes": item.size} for item in written]
                ),
            }
        )

    return reexport


def reexport_job(plan: str) -> dg.Definitions:
    """Return the job `<plan>_reexport`."""
    job = dg.define_asset_job(
        f"{plan}_{REEXPORT}",
        selection=dg.AssetSelection.assets(stage_key(plan, REEXPORT)),
        partitions_def=sets_partitions(plan),
        tags={PLAN_TAG: plan},
        description=f"The tables of sets of plan {plan} in another format.",
    )
    return dg.Definitions(jobs=[job])
