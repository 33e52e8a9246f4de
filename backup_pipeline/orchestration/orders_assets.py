"""The assets of an order archive: folders and their verification by year, and the table restored from the folders.

How orders are exported, verified and restored stands in `operations`; jobs, schedules and the sensor in `orders`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.orchestration.backfill_share import done_by, years_to_do
from backup_pipeline.orchestration.metadata import failure_of, table_of, with_readable
from backup_pipeline.orchestration.names import PLAN_TAG, artefact_key, key_part
from backup_pipeline.orchestration.orders_years import (
    FOLDERS,
    NEVER_AGAIN,
    RESTORED,
    VERIFICATION,
    job_name,
    orders_group,
    year_partitions,
    years_of,
)
from backup_pipeline.orchestration.run_observer import current_observer
from backup_pipeline.orchestration.selected_partition import selected_years
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.orders.format.order import ExportResult, Findings, VerifyResult
from backup_pipeline.sources.orders.source import orders_settings

# Which findings fail which check, and what it inspects; findings that are in none of them are only shown.
_CHECKS = {
    "pairs_whole": (
        ("checksum", "missing_file", "meta", "data", "version", "unreadable", "index", "unlike_index"),
        "Every data.csv is the one that its meta.json and the archive's index name, and can be read.",
    ),
    "beside_their_files": (
        ("misplaced",),
        "No pair lies in another folder than the order's own file.",
    ),
    "nothing_missing": (
        ("missing", "not_exported"),
        "Every order of the index has its folder, and every row of the database is in one.",
    ),
    "no_duplicates": (
        ("duplicate", "duplicate_number", "same_folder"),
        "No record is in two folders, no number belongs to two records, no two records claim one folder.",
    ),
    "auftraege_schema": (
        ("schema", "row"),
        "Every value is what the table allows: six digits, dates, times, JSON, 0 or 1.",
    ),
}
_ADVICE = "For a person to check: plates and VINs, folders without a row, traces of a broken-off export."


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
    skip_deleted: bool = Field(default=False, description="Skip orders whose row was deleted before the last export.")


class OrdersUndoConfig(dg.Config):
    """What the Launchpad asks for."""

    confirm: str = Field(description="Name of the source, as in backup.yaml: its restored table is put aside again.")


def findings_metadata(findings: Findings) -> dict[str, Any]:
    """Return counts by kind and the findings as a table: paths and reasons, no customer's values."""
    metadata: dict[str, Any] = {f"findings/{kind}": count for kind, count in sorted(findings.counts.items())}
    if findings.kept:
        metadata["findings"] = table_of([finding.as_dict() for finding in findings.worst_first()])
    return metadata


def folders_asset(site: Site, plan: str, name: str) -> dg.AssetsDefinition:
    """Return the asset of the orders' folders, one partition per year."""
    source = orders_settings(site, name)
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
        from backup_pipeline.sources.orders.export import ExportOptions, export_orders
        from backup_pipeline.sources.orders.source import open_orders, orders_log, orders_place

        selection = selected_years(context, partitions.get_partition_keys())
        if run := done_by(context, selection[0]):
            return dg.MaterializeResult(metadata={"exported in run": run})
        years = years_to_do(context, selection)
        try:
            place = orders_place(site, name)
            options = ExportOptions(
                years=years_of(years, partitions.get_partition_keys()),
                rewrite=config.rewrite,
                durable=config.durable,
                lock_wait_seconds=place.lock_wait_seconds,
            )
            progress = current_observer().progress
            with orders_log(place) as log, open_orders(place) as snapshot:
                result = export_orders(snapshot, place.archive, options, progress=progress, log=log)
        except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
            raise failure_of(error) from None
        every = partitions.get_partition_keys()
        for year in years:
            mine = years_of([year], every)
            exported = sum(n for y, n in result.per_year.items() if mine is None or y in mine)
            if year in selection:
                context.add_asset_metadata({"exported of this year": exported}, partition_key=year)
        metadata = _export_metadata(result, place.archive)
        try:
            result.raise_for_failure(str(place.archive))
        except BackupSystemError as error:
            raise dg.Failure(str(error), metadata=metadata, allow_retries=False) from None
        return dg.MaterializeResult(metadata=metadata)

    return order_folders


def _export_metadata(result: ExportResult, archive: Path) -> dict[str, Any]:
    metadata = {
        "exported": result.exported,
        "unchanged": result.unchanged,
        "failed": result.failed,
        "folders without a row": result.row_deleted,
        "seconds": round(result.seconds, 3),
        "sync_seconds": round(result.sync_seconds, 3),
        "dagster/uri": archive.absolute().as_uri(),
        "by year": table_of([{"year": year, "exported": n} for year, n in sorted(result.per_year.items())]),
        **findings_metadata(result.findings),
    }
    return with_readable(metadata)


def year_check(year: str) -> str:
    """Return the name of the check of one year's folders."""
    return f"year_{year}"


def _year_results(
    key: dg.AssetKey, result: VerifyResult, selected: Sequence[str], every: Sequence[str]
) -> Iterator[dg.AssetCheckResult]:
    """Yield each year's own check, so that a good year never covers a bad one."""
    for partition in selected:
        mine = years_of([partition], every)
        counts = [each for year, each in result.per_year.items() if mine is None or year in mine]
        folders, errors = sum(n for n, _ in counts), sum(bad for _, bad in counts)
        yield dg.AssetCheckResult(
            asset_key=key,
            check_name=year_check(partition),
            passed=not errors,
            description=f"{folders} folders, {errors} errors",
            metadata={"folders": folders, "errors": errors},
        )


def _check_results(key: dg.AssetKey, result: VerifyResult, selected: Sequence[str]) -> Iterator[dg.AssetCheckResult]:
    # These are not per year: what a result speaks of is said with it.
    of = selected[0] if len(selected) == 1 else f"{selected[0]} to {selected[-1]}"
    years = table_of([{"year": y, "folders": n, "errors": bad} for y, (n, bad) in sorted(result.per_year.items())])
    for check, (kinds, _) in _CHECKS.items():
        found = result.findings.errors_of(*kinds)
        errors = [f for f in result.findings.kept if f.kind in kinds and f.level == "error"]
        yield dg.AssetCheckResult(
            asset_key=key,
            check_name=check,
            passed=not found,
            description=f"{of}: {found} findings in {result.folders} folders",
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
        description=f"{of}: {result.findings.warnings} warnings",
        metadata={"findings": table_of([f.as_dict() for f in advice])} if advice else {},
    )


def _check_specs(key: dg.AssetKey, years: Sequence[str]) -> list[dg.AssetCheckSpec]:
    texts = {check: text for check, (_, text) in _CHECKS.items()} | {"advice": _ADVICE}
    texts |= {year_check(year): f"Every folder of {year} is whole and valid." for year in years}
    return [dg.AssetCheckSpec(check, asset=key, description=text) for check, text in texts.items()]


def _verification_metadata(result: VerifyResult) -> dict[str, Any]:
    return {
        "folders": result.folders,
        "valid": result.valid,
        "errors": result.findings.errors,
        "warnings": result.findings.warnings,
        "rolled_forward": result.rolled_forward,
        "seconds": round(result.seconds, 3),
        **findings_metadata(result.findings),
    }


def verification_asset(site: Site, plan: str, name: str) -> dg.AssetsDefinition:
    """Return the verification of the folders, one partition per year, with its checks."""
    source = orders_settings(site, name)
    key = artefact_key(plan, (name, VERIFICATION))
    partitions = year_partitions(source, site.settings.timezone)

    @dg.multi_asset(
        name=f"{plan}__{key_part(name)}__{VERIFICATION}",
        specs=[
            dg.AssetSpec(
                key,
                deps=[artefact_key(plan, (name, FOLDERS))],
                group_name=orders_group(plan),
                kinds={"check"},
                description="Every order's pair is read and checked, and compared with the index and the database.",
                partitions_def=partitions,
                code_version="1",
            )
        ],
        check_specs=_check_specs(key, partitions.get_partition_keys()),
        # A run over some years gives the checks of those years only.
        can_subset=True,
        backfill_policy=dg.BackfillPolicy.single_run(),
        op_tags={PLAN_TAG: plan},
    )
    def verify_years(context: dg.AssetExecutionContext) -> Iterator[Any]:
        from backup_pipeline.sources.orders.source import log_findings, open_orders, orders_log, orders_place
        from backup_pipeline.sources.orders.verify import VerifyOptions, verify_orders

        every = partitions.get_partition_keys()
        # Checks that are run alone name no partition.
        named = context.has_partition_key or context.has_partition_key_range
        selected = list(context.partition_keys) if named else list(every)
        try:
            place = orders_place(site, name)
            options = VerifyOptions(
                years=years_of(selected, every),
                lock_wait_seconds=place.lock_wait_seconds,
            )
            with open_orders(place) as snapshot, orders_log(place) as log:
                result = verify_orders(place.archive, snapshot, options, progress=current_observer().progress)
                log_findings(log, result)
        except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
            raise failure_of(error) from None
        wanted = {check.name for check in context.selected_asset_check_keys}
        for check in (*_check_results(key, result, selected), *_year_results(key, result, selected, every)):
            if check.check_name in wanted:
                yield check
        metadata = _verification_metadata(result)
        if not result.ok:
            raise dg.Failure(
                f"The archive of {name} did not pass: {result.summary()}.", metadata=metadata, allow_retries=False
            )
        if key in context.selected_asset_keys:
            yield dg.MaterializeResult(asset_key=key, metadata=metadata)

    return verify_years


def restored_asset(site: Site, plan: str, name: str) -> dg.AssetsDefinition:
    """Return the table as restored from its folders; materialising it swaps the restored database in."""

    @dg.asset(
        key=artefact_key(plan, (name, RESTORED)),
        deps=[artefact_key(plan, (name, FOLDERS))],
        group_name=orders_group(plan),
        kinds={"sqlite" if orders_settings(site, name).database else "postgres"},
        description="The table auftraege rebuilt from the folders beside the old one, compared, and swapped in. "
        "The undo job, or `orders undo`, swaps back.",
        code_version="1",
        op_tags={PLAN_TAG: plan},
    )
    def restored_orders(context: dg.AssetExecutionContext, config: OrdersRestoreConfig) -> dg.MaterializeResult[None]:
        from backup_pipeline.sources.orders.restore import OrdersRestoreOptions, restore_orders
        from backup_pipeline.sources.orders.source import orders_place, time_limit

        _need_confirmation(config.confirm, name)
        try:
            place = orders_place(site, name)
            options = OrdersRestoreOptions(
                skip_invalid=config.skip_invalid,
                skip_deleted=config.skip_deleted,
                dry_run=config.dry_run,
                lock_wait_seconds=place.lock_wait_seconds,
            )
            progress = current_observer().progress
            with time_limit(place, "The restore of the orders"):
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


def undo_job(site: Site, plan: str, name: str) -> dg.JobDefinition:
    """Return the job that takes the newest restore of a source back."""

    @dg.op(name=job_name(plan, name, "undo") + "_op", tags={PLAN_TAG: plan})
    def undo(context: dg.OpExecutionContext, config: OrdersUndoConfig) -> None:
        from backup_pipeline.sources.orders.restore import undo_restore
        from backup_pipeline.sources.orders.source import orders_place

        _need_confirmation(config.confirm, name)
        try:
            place = orders_place(site, name)
            reported = undo_restore(place.need_database(), lock_wait_seconds=place.lock_wait_seconds)
        except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
            raise failure_of(error) from None
        context.log.info(reported)

    @dg.job(
        name=job_name(plan, name, "undo"),
        tags={PLAN_TAG: plan, **NEVER_AGAIN},
        description=f"Take back the newest restore from the folders. Source {name} of plan {plan}.",
    )
    def job() -> None:
        undo()

    return job


def _need_confirmation(confirm: str, name: str) -> None:
    if confirm != name:
        raise dg.Failure(f"Not confirmed: set `confirm` to the source's name, {name}.", allow_retries=False)
