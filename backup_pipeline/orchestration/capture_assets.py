"""Capture assets: one subsettable multi-asset per source of a plan. What a capture does stands in `artefacts`."""

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import dagster as dg

from backup_pipeline.artefacts.types import COMPARED_IN_PARQUET, artefact_type
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.operations.backup.known_tables import known_tables
from backup_pipeline.orchestration.capture_checks import (
    EXPORTED_AS,
    TABLES_KNOWN,
    TABLES_KNOWN_DESCRIPTION,
)
from backup_pipeline.orchestration.metadata import (
    check_event,
    check_result,
    data_version,
    failure_of,
    record_metadata,
    table_of,
)
from backup_pipeline.orchestration.names import PLAN_TAG, artefact_key, key_part, source_key
from backup_pipeline.orchestration.run_resource import RUNS, BackupRuns
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import SourceSettings
from backup_pipeline.sources.kind import Key
from backup_pipeline.sources.registry import kind_of

CODE_VERSION = "1"


def expected_artefacts(site: Site, plan: str, name: str) -> list[tuple[Key, str]]:
    """Return the keys that definitions are built for: the fixed ones and the tables known from the last capture."""
    kind, source = kind_of(site, name)
    tables = [(key, ArtefactKind.TABLE_EXPORT) for key in known_tables(site.store_folder(plan), name)]
    return [*kind.artefacts(source), *tables]


def _description(key: Key, artefact: str, source: SourceSettings) -> str:
    if key[-1] == "extras":
        return "The repository's `.env` and the named volumes, which the settings ask for. Holds secrets."
    what = artefact_type(artefact).description
    text = f"Table `{'.'.join(key[1:])}`. {what}" if len(key) == 3 else what
    return f"{source.description} {text}".strip()


def _checks_of(artefact: str, formats: Sequence[str]) -> Mapping[str, str]:
    described = artefact_type(artefact).checks
    if COMPARED_IN_PARQUET not in described:
        return described
    for form in formats:
        described = {**described, **EXPORTED_AS.get(form, {})}
    if formats and "parquet" not in formats:
        described = {check: text for check, text in described.items() if check != COMPARED_IN_PARQUET}
    return described


def _specs(
    site: Site, plan: str, name: str, expected: Sequence[tuple[Key, str]]
) -> tuple[list[dg.AssetSpec], list[dg.AssetCheckSpec]]:
    kind, configured = kind_of(site, name)
    source = site.source(name)
    formats = kind.export_formats(configured)
    upstream = [source_key(plan, earlier) for earlier in source.after]
    common: dict[str, Any] = {
        "group_name": plan,
        "owners": list(source.owners),
        "code_version": CODE_VERSION,
        "skippable": True,
    }
    specs, checks = [], []
    for key, artefact in expected:
        asset = artefact_key(plan, key)
        metadata = {"dagster/table_name": ".".join(key)} if len(key) == 3 else {}
        specs.append(
            dg.AssetSpec(
                asset,
                deps=upstream,
                kinds={*(kind.labels(configured, artefact) or artefact_type(artefact).labels)},
                description=_description(key, artefact, source),
                metadata=metadata,
                tags={"source": name, "kind": str(artefact)},
                **common,
            )
        )
        described = _checks_of(artefact, formats)
        checks += [dg.AssetCheckSpec(check, asset=asset, description=text) for check, text in described.items()]
    specs.append(
        dg.AssetSpec(
            source_key(plan, name),
            deps=[artefact_key(plan, key) for key, _ in expected],
            kinds={kind.name},
            description=f"{source.description} Source `{name}`, captured whole: every artefact recorded.".strip(),
            tags={"source": name},
            **common,
        )
    )
    if kind.has_tables:
        checks.append(
            dg.AssetCheckSpec(TABLES_KNOWN, asset=source_key(plan, name), description=TABLES_KNOWN_DESCRIPTION)
        )
    return specs, checks


def _tables_known(whole: dg.AssetKey, new: list[str], gone: list[str]) -> dg.AssetCheckResult:
    """Return the check that tells of tables which the definitions did not know, or know and are gone."""
    reported = [{"table": table, "change": "new: exported, reload the definitions to see it"} for table in new]
    reported += [{"table": table, "change": "gone since the last capture"} for table in gone]
    return dg.AssetCheckResult(
        passed=not reported,
        asset_key=whole,
        check_name=TABLES_KNOWN,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"new": len(new), "gone": len(gone), **({"tables": table_of(reported)} if reported else {})},
    )


def capture_asset(site: Site, plan: str, name: str) -> dg.AssetsDefinition:
    """Return the assets of one source of a plan, captured together so that they share one snapshot."""
    expected = expected_artefacts(site, plan, name)
    by_key = {artefact_key(plan, key): key for key, _ in expected}
    specs, check_specs = _specs(site, plan, name, expected)
    whole = source_key(plan, name)

    @dg.multi_asset(
        name=f"{plan}__{key_part(name)}",
        specs=specs,
        check_specs=check_specs,
        can_subset=True,
        required_resource_keys={RUNS},
        op_tags={PLAN_TAG: plan},
        group_name=None,
    )
    def capture(context: dg.AssetExecutionContext) -> Iterator[Any]:
        backups: BackupRuns = getattr(context.resources, RUNS)
        selected_keys = set(context.selected_asset_keys)
        if not selected_keys:
            raise _no_check_alone(context.selected_asset_check_keys)
        declared_checks = set(context.selected_asset_check_keys)
        selected = None if whole in selected_keys else frozenset(by_key[k] for k in selected_keys if k in by_key)
        done: set[dg.AssetKey] = set()
        new: list[str] = []
        size = rows = count = 0
        try:
            backup = backups.of_plan(plan)
            store = backups.site(plan).store_folder(plan)
            for record in backup.capture(name, selected):
                asset = artefact_key(plan, record.key)
                done.add(asset)
                if asset not in by_key:
                    new.append(record.name)
                size, rows, count = size + record.size, rows + (record.rows or 0), count + 1
                yield from _events(context, asset, record, str(store), asset in selected_keys, declared_checks)
        except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
            raise failure_of(error) from None
        if whole in selected_keys:
            metadata: dict[str, Any] = {
                "set": backup.set_id,
                "artefacts": count,
                "size_bytes": size,
                "dagster/row_count": rows,
            }
            gone = sorted(key.path[-1] for key in selected_keys - done - {whole})
            if gone:
                metadata["no_longer_there"] = ", ".join(gone)
                context.log.warning(f"Known from the last capture and no longer there: {', '.join(gone)}")
            yield dg.MaterializeResult(whole, metadata=metadata)
            if dg.AssetCheckKey(whole, TABLES_KNOWN) in declared_checks:
                yield _tables_known(whole, new, gone)
        elif missing := selected_keys - done:
            names = ", ".join(sorted(key.to_user_string() for key in missing))
            raise dg.Failure(f"Not there any more: {names}. Remedy: reload the definitions.", allow_retries=False)

    return capture


def _no_check_alone(checks: Set[dg.AssetCheckKey]) -> dg.Failure:
    """Return the refusal of *Execute* on a check: it compares with the run's snapshot, which only a capture has."""
    names = ", ".join(sorted(f"{key.name} of {key.asset_key.to_user_string()}" for key in checks))
    return dg.Failure(
        f"Nothing was captured, and nothing was checked: {names} is evaluated while its asset is captured. "
        "Remedy: materialise the asset, or run the backup; for a sealed set use its verification.",
        metadata={"error": "RefusedError", "what": "A check of a capture cannot be executed alone."},
        allow_retries=False,
    )


def _events(
    context: dg.AssetExecutionContext,
    asset: dg.AssetKey,
    record: ArtefactRecord,
    store: str,
    selected: bool,
    declared: set[dg.AssetCheckKey],
) -> Iterator[Any]:
    """Yield a record as Dagster's results; what the definitions do not know yet is logged as an event."""
    metadata = record_metadata(record, store=store)
    results = []
    for check in record.checks:
        if dg.AssetCheckKey(asset, check.name) in declared:
            results.append(check_result(asset, check))
        else:
            context.log_event(check_event(asset, check))
    if selected:
        yield dg.MaterializeResult(asset, metadata=metadata, check_results=results, data_version=data_version(record))
        return
    context.log.info(f"{record.name} is new since the definitions were loaded; reload them to see it in the graph.")
    context.log_event(dg.AssetMaterialization(asset, metadata=metadata))
