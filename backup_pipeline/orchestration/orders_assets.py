"""The assets of an order archive: folders and their verification by year, and the table restored from the folders.

How orders are exported, verified and restored stands in `operations`; jobs, schedules and the sensor in `orders`.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.order import Findings, VerifyResult
from backup_pipeline.orchestration.metadata import failure_of, table_of
from backup_pipeline.orchestration.names import PLAN_TAG, artefact_key
from backup_pipeline.orchestration.orders_years import (
    FOLDERS,
    RESTORED,
    VERIFICATION,
    orders_group,
    orders_source,
    year_partitions,
    years_of,
)
from backup_pipeline.orchestration.watching import present_watcher
from backup_pipeline.settings.site import Site

# Which findings fail which check; what is in none of them is only shown.
_CHECKS = {
    "pairs_whole": ("checksum", "missing_file", "meta", "data", "version", "unreadable", "index", "unlike_index"),
    "nothing_missing": ("missing", "not_exported"),
    "no_duplicates": ("duplicate", "duplicate_number", "same_folder"),
    "auftraege_schema": ("schema", "row"),
}


class OrdersExportConfig(dg.Config):
    """What the Launchpad asks for."""

    rewrite: bool = Field(default=False, description="Write every order, changed or not.")
    durable: bool = Field(
        default=True, description="Wait for the disk; without it a power cut can lose the last files."
    )


class OrdersRestoreConfig(dg.Config):
    """What the Launchpad asks for."""

    confirm: str = Field(description="Name of the source, as in backup.yaml: its table is replaced.")
    dry_run: bool = Field(default=False, description="Read, build and compare, but do not swap.")
    skip_invalid: bool = Field(
        default=False, description="Go on without folders that are damaged or missing, and say which."
    )
    skip_deleted: bool = Field(
        default=False, description="Leave out orders whose row was deleted before the last export."
    )


def findings_metadata(findings: Findings) -> dict[str, Any]:
    """Return counts by kind and the findings as a table: paths and reasons, no customer's values."""
    metadata: dict[str, Any] = {f"findings/{kind}": count for kind, count in sorted(findings.counts.items())}
    if findings.kept:
        metadata["findings"] = table_of([finding.as_dict() for finding in findings.kept])
    return metadata


def folders_asset(site: Site, plan: str, name: str) -> dg.AssetsDefinition:
    """Return the asset of the orders' folders, one partition per year."""
    source = orders_source(site, name)
    key = artefact_key(plan, (name, FOLDERS))
    partitions = year_partitions(source, site.settings.timezone)

    @dg.asset(
        key=key,
        group_name=orders_group(plan),
        kinds={"csv", "sqlite" if source.database else "postgres"},
        description="Every order's own backup: data.csv and meta.json in its folder, written where the row changed.",
        owners=list(source.owners),
        code_version="1",
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        op_tags={PLAN_TAG: plan},
    )
    def order_folders(context: dg.AssetExecutionContext, config: OrdersExportConfig) -> dg.MaterializeResult[None]:
        from backup_pipeline.operations.orders_export import ExportOptions, export_orders
        from backup_pipeline.operations.orders_source import open_orders, orders_place

        try:
            place = orders_place(site, name)
            options = ExportOptions(
                years=years_of(context.partition_keys, partitions.get_partition_keys()),
                rewrite=config.rewrite,
                durable=config.durable,
                lock_wait_seconds=place.lock_wait_seconds,
            )
            with open_orders(place) as snapshot:
                result = export_orders(snapshot, place.archive, options, progress=present_watcher().progress)
        except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
            raise failure_of(error) from None
        metadata: dict[str, Any] = {
            "exported": result.exported,
            "unchanged": result.unchanged,
            "failed": result.failed,
            "folders without a row": result.row_deleted,
            "seconds": round(result.seconds, 3),
            "sync_seconds": round(result.sync_seconds, 3),
            "dagster/uri": place.archive.absolute().as_uri(),
            "by year": table_of([{"year": year, "exported": n} for year, n in sorted(result.per_year.items())]),
            **findings_metadata(result.findings),
        }
        try:
            result.raise_for_failure(str(place.archive))
        except BackupSystemError as error:
            raise dg.Failure(str(error), metadata=metadata, allow_retries=False) from None
        return dg.MaterializeResult(metadata=metadata)

    return order_folders


def _check_results(key: dg.AssetKey, result: VerifyResult) -> Iterator[dg.AssetCheckResult]:
    years = table_of([{"year": y, "folders": n, "errors": bad} for y, (n, bad) in sorted(result.per_year.items())])
    for check, kinds in _CHECKS.items():
        errors = [f for f in result.findings.kept if f.kind in kinds and f.level == "error"]
        yield dg.AssetCheckResult(
            asset_key=key,
            check_name=check,
            passed=not errors,
            description=f"{len(errors)} findings in {result.folders} folders",
            metadata={
                "by year": years,
                **({"findings": table_of([f.as_dict() for f in errors])} if errors else {}),
            },
        )
    advice = [f for f in result.findings.kept if f.level == "warning"]
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name="advice",
        passed=not advice,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(advice)} warnings",
        metadata={"findings": table_of([f.as_dict() for f in advice])} if advice else {},
    )


def verification_asset(site: Site, plan: str, name: str) -> dg.AssetsDefinition:
    """Return the verification of the folders, one partition per year, with its checks."""
    source = orders_source(site, name)
    key = artefact_key(plan, (name, VERIFICATION))
    partitions = year_partitions(source, site.settings.timezone)
    description = "Every order's pair is read and checked, and compared with the index and the database."

    @dg.multi_asset(
        name=f"{plan}__{name}__{VERIFICATION}",
        specs=[
            dg.AssetSpec(
                key,
                deps=[artefact_key(plan, (name, FOLDERS))],
                group_name=orders_group(plan),
                kinds={"check"},
                description=description,
                partitions_def=partitions,
                code_version="1",
            )
        ],
        check_specs=[dg.AssetCheckSpec(check, asset=key, description=description) for check in (*_CHECKS, "advice")],
        backfill_policy=dg.BackfillPolicy.single_run(),
        op_tags={PLAN_TAG: plan},
    )
    def verify_years(context: dg.AssetExecutionContext) -> Iterator[Any]:
        from backup_pipeline.operations.orders_source import open_orders, orders_place
        from backup_pipeline.operations.orders_verify import VerifyOptions, verify_orders

        try:
            place = orders_place(site, name)
            options = VerifyOptions(
                years=years_of(context.partition_keys, partitions.get_partition_keys()),
                lock_wait_seconds=place.lock_wait_seconds,
            )
            with open_orders(place) as snapshot:
                result = verify_orders(place.archive, snapshot, options, progress=present_watcher().progress)
        except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
            raise failure_of(error) from None
        yield from _check_results(key, result)
        metadata = {
            "folders": result.folders,
            "valid": result.valid,
            "errors": result.findings.errors,
            "warnings": result.findings.warnings,
            "rolled_forward": result.rolled_forward,
            "seconds": round(result.seconds, 3),
            **findings_metadata(result.findings),
        }
        if not result.ok:
            raise dg.Failure(
                f"The archive of {name} did not pass: {result.summary()}.", metadata=metadata, allow_retries=False
            )
        yield dg.MaterializeResult(asset_key=key, metadata=metadata)

    return verify_years


def restored_asset(site: Site, plan: str, name: str) -> dg.AssetsDefinition:
    """Return the table as restored from its folders; materialising it swaps the restored database in."""

    @dg.asset(
        key=artefact_key(plan, (name, RESTORED)),
        deps=[artefact_key(plan, (name, FOLDERS))],
        group_name=orders_group(plan),
        kinds={"sqlite" if orders_source(site, name).database else "postgres"},
        description="The table auftraege rebuilt from the folders beside the old one, compared, and swapped in. "
        "`orders undo` swaps back.",
        code_version="1",
        op_tags={PLAN_TAG: plan},
    )
    def restored_orders(context: dg.AssetExecutionContext, config: OrdersRestoreConfig) -> dg.MaterializeResult[None]:
        from backup_pipeline.operations.orders_restore import RestoreOptions, restore_orders
        from backup_pipeline.operations.orders_source import orders_place

        if config.confirm != name:
            raise dg.Failure(f"Not confirmed: set `confirm` to the source's name, {name}.", allow_retries=False)
        try:
            place = orders_place(site, name)
            options = RestoreOptions(
                skip_invalid=config.skip_invalid,
                skip_deleted=config.skip_deleted,
                dry_run=config.dry_run,
                lock_wait_seconds=place.lock_wait_seconds,
            )
            progress = present_watcher().progress
            result = restore_orders(place.archive, place.need_database(), options, progress=progress)
        except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
            raise failure_of(error) from None
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": result.restored,
                "folders": result.folders,
                "invalid": result.invalid,
                "missing": result.missing,
                "duplicates": result.duplicates,
                "target": result.target,
                "kept": result.kept,
                "dry_run": result.dry_run,
                "notes": "\n".join(result.notes),
                "seconds": round(result.seconds, 3),
                **findings_metadata(result.findings),
            }
        )

    return restored_orders
