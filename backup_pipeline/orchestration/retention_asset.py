"""The retention asset: after a set was sealed, what the plan's policy lets go is removed, each with its reason."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.operations.retention.cleanup import CleanupResult, cleanup
from backup_pipeline.orchestration.metadata import failure_of, table_of, with_readable
from backup_pipeline.orchestration.names import PLAN_TAG, manifest_key, stage_key
from backup_pipeline.orchestration.run_resource import BackupRuns
from backup_pipeline.orchestration.set_partitions import synchronise_partitions
from backup_pipeline.settings.site import Site

RETENTION = "retention"
CHECK = "retention_not_refused"


def retention_metadata(result: CleanupResult) -> dict[str, Any]:
    """Return what the UI shows: counts, and for every set whether it stays and why."""
    metadata: dict[str, Any] = dict(result.counts)
    if result.verdict.refusal:
        metadata["refusal"] = result.verdict.refusal
    gone = set(result.removed)
    metadata["sets"] = table_of(
        [
            {
                "set": decision.set_id,
                "decision": "keep" if decision.keep else "removed" if decision.set_id in gone else "remove",
                "why": "; ".join(decision.reasons),
                "bytes": result.sizes.get(decision.set_id, 0),
            }
            for decision in result.verdict.decisions
        ]
    )
    return with_readable(metadata)


def retention_asset(site: Site, plan: str) -> dg.AssetsDefinition:
    """Return the retention of a plan, downstream of its manifest."""
    key = stage_key(plan, RETENTION)

    @dg.multi_asset(
        name=f"{plan}__{RETENTION}",
        specs=[
            dg.AssetSpec(
                key,
                deps=[manifest_key(plan)],
                group_name=plan,
                kinds={"retention"},
                description="Removes what the plan lets go, and gives a reason for every set it keeps and removes.",
                code_version="1",
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                CHECK, asset=key, description="Nothing had to be held back because the newest set or the clock is bad."
            )
        ],
        op_tags={PLAN_TAG: plan},
    )
    def retention(context: dg.AssetExecutionContext, backup_runs: BackupRuns) -> Iterator[Any]:
        try:
            result = cleanup(backup_runs.site(plan), plan, now=utc_now())
        except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
            raise failure_of(error) from None
        synchronise_partitions(site, plan, context.instance)
        yield dg.AssetCheckResult(
            asset_key=key,
            check_name=CHECK,
            passed=not result.refused,
            severity=dg.AssetCheckSeverity.WARN,
            description=result.verdict.refusal or None,
            metadata=result.counts,
        )
        if result.failed:
            names = "; ".join(f"{set_id}: {reason}" for set_id, reason in result.failed)
            raise dg.Failure(f"Not removed: {names}", metadata=retention_metadata(result), allow_retries=False)
        yield dg.MaterializeResult(key, metadata=retention_metadata(result))

    return retention
