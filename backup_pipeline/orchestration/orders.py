"""A workshop's order archive in Dagster: folders and verification by year, restore, their jobs, schedules and sensor.

Years are partitions, and a backfill over any of them is one run. How orders are exported, verified and restored stands
in `operations`.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.order import Findings, VerifyResult
from backup_pipeline.orchestration.metadata import failure_of, table_of
from backup_pipeline.orchestration.names import PLAN_TAG, artefact_key
from backup_pipeline.orchestration.watching import present_watcher
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import OrdersSource

FOLDERS, VERIFICATION, RESTORED = "order_folders", "order_verification", "restored_orders"
_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
_SENSOR_SECONDS = 60
# Which findings fail which check; what is in none of them is only shown.
_CHECKS = {
    "pairs_whole": ("checksum", "missing_file", "meta", "data", "version", "unreadable", "index", "unlike_index"),
    "nothing_missing": ("missing", "not_exported"),
    "no_duplicates": ("duplicate", "duplicate_number", "same_folder"),
    "auftraege_schema": ("schema", "row"),
}


def orders_group(plan: str) -> str:
    """Return the group of the orders' folders: partitioned by year, so that it stands apart from a backup's assets."""
    return f"{plan}_orders"


def year_partitions(source: OrdersSource, timezone: str) -> dg.TimeWindowPartitionsDefinition:
    """Return the years from the source's first to the present one."""
    return dg.TimeWindowPartitionsDefinition(
        cron_schedule="0 0 1 1 *", start=str(source.first_year), fmt="%Y", timezone=timezone, end_offset=1
    )


def years_of(selected: Sequence[str], every: Sequence[str]) -> frozenset[str] | None:
    """Return which years of orders some partitions mean; None for all of them.

    The first partition also holds what is older or has no year, the last what is dated later.
    """
    if set(selected) >= set(every):
        return None
    years = set(selected)
    if every[0] in years:
        years |= {"unknown", *(str(year) for year in range(1900, int(every[0])))}
    if every[-1] in years:
        years |= {str(year) for year in range(int(every[-1]) + 1, 2200)}
    return frozenset(years)


class OrdersExportConfig(dg.Config):
    """How to export: `rewrite` every order, changed or not; `durable` waits for the disk."""

    rewrite: bool = False
    durable: bool = True


class OrdersRestoreConfig(dg.Config):
    """What to restore.

    `confirm` must be the source's name; `skip_invalid` goes on without folders that are damaged or missing;
    `skip_deleted` leaves out orders whose row was deleted; `dry_run` builds and compares, but does not swap.
    """

    confirm: str
    skip_invalid: bool = False
    skip_deleted: bool = False
    dry_run: bool = False


def findings_metadata(findings: Findings) -> dict[str, Any]:
    """Return counts by kind and the findings as a table: paths and reasons, no customer's values."""
    metadata: dict[str, Any] = {f"findings/{kind}": count for kind, count in sorted(findings.counts.items())}
    if findings.kept:
        metadata["findings"] = table_of([finding.as_dict() for finding in findings.kept])
    return metadata


def folders_asset(site: Site, plan: str, name: str) -> dg.AssetsDefinition:
    """Return the asset of the orders' folders, one partition per year."""
    source = _source(site, name)
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
    source = _source(site, name)
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
        kinds={"sqlite" if _source(site, name).database else "postgres"},
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


def job_name(plan: str, name: str, what: str) -> str:
    """Return `<plan>_<source>_orders_<what>`; what: export, verification, restore."""
    return f"{plan}_{name}_orders_{what}"


def _jobs(site: Site, plan: str, name: str) -> list[UnresolvedAssetJobDefinition]:
    partitions = year_partitions(_source(site, name), site.settings.timezone)
    made = []
    for what, asset, text in (
        ("export", FOLDERS, "Write changed orders into their folders."),
        ("verification", VERIFICATION, "Check the folders of the orders."),
        ("restore", RESTORED, "Rebuild the table from the folders and swap it in."),
    ):
        made.append(
            dg.define_asset_job(
                job_name(plan, name, what),
                selection=dg.AssetSelection.assets(artefact_key(plan, (name, asset))),
                partitions_def=None if what == "restore" else partitions,
                tags={PLAN_TAG: plan, "dagster/max_retries": "0"},
                description=f"{text} Source {name} of plan {plan}.",
            )
        )
    return made


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


def year_range_tags(site: Site, name: str) -> dict[str, str]:
    """Return the tags of a run over all years of a source."""
    years = year_partitions(_source(site, name), site.settings.timezone).get_partition_keys()
    return {_RANGE_START: years[0], _RANGE_END: years[-1]}


def changed_years(before: dict[str, list[Any]], now: dict[str, tuple[int, str]], every: Sequence[str]) -> list[str]:
    """Return the partitions whose number of rows or newest `updated_at` is another than before."""
    changed = {y for y in {*before, *now} if tuple(before.get(y, ())) != now.get(y, ())}
    return sorted({y if y in every else every[-1] if y.isdigit() and y > every[-1] else every[0] for y in changed})


def changed_sensor(site: Site, plan: str, name: str) -> dg.SensorDefinition:
    """Return the sensor that exports the years in which an order changed.

    Where the database file was not written since, it looks at nothing else; otherwise it asks one query for rows and
    newest `updated_at` by year. A change that touches neither is found by the nightly export.
    """
    partitions = year_partitions(_source(site, name), site.settings.timezone)

    @dg.sensor(
        name=f"{plan}_{name}_orders_changed",
        job_name=job_name(plan, name, "export"),
        minimum_interval_seconds=_SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Exports the years of orders that changed.",
    )
    def orders_changed(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        from backup_pipeline.operations.orders_source import database_state, orders_place, year_states

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
            run_requests=[dg.RunRequest(run_key=f"{year}-{moment}", partition_key=year) for year in changed],
            skip_reason=None if changed else dg.SkipReason("No order changed."),
            cursor=json.dumps({"state": state, "years": years}),
        )

    return orders_changed


def _source(site: Site, name: str) -> OrdersSource:
    source = site.source(name)
    assert isinstance(source, OrdersSource)
    return source


def orders_definitions(site: Site, plan: str, name: str) -> dg.Definitions:
    """Return everything that a source of kind `orders` adds to a plan."""
    settings, source = site.plan(plan), _source(site, name)
    schedules = [_schedule(site, plan, name, "verification", settings.verify or "30 4 * * 0")]
    if nightly := source.export_schedule or settings.schedule:
        schedules.append(_schedule(site, plan, name, "export", nightly))
    return dg.Definitions(
        assets=[
            folders_asset(site, plan, name),
            verification_asset(site, plan, name),
            restored_asset(site, plan, name),
        ],
        jobs=_jobs(site, plan, name),
        schedules=schedules,
        sensors=[changed_sensor(site, plan, name)],
    )
