"""Capture assets: one subsettable multi-asset per source of a plan. What a capture does stands in `artefacts`."""

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import dagster as dg

from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.operations.backup.known_tables import known_tables
from backup_pipeline.orchestration.capture_checks import (
    CHECKS,
    COMPARED_IN_PARQUET,
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
from backup_pipeline.settings.types import (
    FolderSource,
    OrdersSource,
    PostgresSource,
    RepositorySource,
    Source,
    SqliteSource,
)
from backup_pipeline.sources.orders.format.order import PAIRS

CODE_VERSION = "1"

_KINDS: Mapping[ArtefactKind, set[str]] = {
    ArtefactKind.POSTGRES_DUMP: {"postgres", "gzip"},
    ArtefactKind.POSTGRES_ROLES: {"postgres", "json"},
    ArtefactKind.TABLE_EXPORT: {"table", "parquet"},
    ArtefactKind.SQLITE_COPY: {"sqlite", "gzip"},
    ArtefactKind.FOLDER_TARBALL: {"folder", "gzip"},
    ArtefactKind.REPOSITORY_ARCHIVE: {"git", "zip"},
    ArtefactKind.REPOSITORY_BUNDLE: {"git"},
    ArtefactKind.ORDER_PAIRS: {"csv", "json"},
}

_WHAT: Mapping[ArtefactKind, str] = {
    ArtefactKind.POSTGRES_DUMP: "pg_dump of the whole database, from the run's one snapshot.",
    ArtefactKind.POSTGRES_ROLES: "Roles, memberships, grants and extensions, without passwords.",
    ArtefactKind.TABLE_EXPORT: "The table as Parquet with exact types, from the same snapshot as the dump.",
    ArtefactKind.SQLITE_COPY: "A consistent copy of the SQLite file, compressed.",
    ArtefactKind.FOLDER_TARBALL: "Every file of the tree with size, time and SHA-256.",
    ArtefactKind.REPOSITORY_ARCHIVE: "The files of HEAD as a ZIP.",
    ArtefactKind.REPOSITORY_BUNDLE: "All branches and tags with their whole history.",
    ArtefactKind.ORDER_PAIRS: "data.csv and meta.json in every order's folder, beside the order's own file.",
}


def fixed_artefacts(name: str, source: Source) -> list[tuple[tuple[str, ...], ArtefactKind]]:
    """Return the keys that a source always gives, with their kinds; tables come on top."""
    match source:
        case PostgresSource():
            return [
                ((name, "dump"), ArtefactKind.POSTGRES_DUMP),
                ((name, "roles"), ArtefactKind.POSTGRES_ROLES),
            ]
        case OrdersSource(database=None):
            return [
                ((name, "dump"), ArtefactKind.POSTGRES_DUMP),
                ((name, "roles"), ArtefactKind.POSTGRES_ROLES),
                ((name, PAIRS), ArtefactKind.ORDER_PAIRS),
            ]
        case OrdersSource():
            return [((name, "copy"), ArtefactKind.SQLITE_COPY), ((name, PAIRS), ArtefactKind.ORDER_PAIRS)]
        case SqliteSource():
            return [((name, "copy"), ArtefactKind.SQLITE_COPY)]
        case FolderSource():
            return [((name, "tarball"), ArtefactKind.FOLDER_TARBALL)]
        case RepositorySource(include_env=extras, captured_volumes=volumes, captured_docker_volumes=named):
            keys: list[tuple[tuple[str, ...], ArtefactKind]] = [
                ((name, "archive"), ArtefactKind.REPOSITORY_ARCHIVE),
                ((name, "bundle"), ArtefactKind.REPOSITORY_BUNDLE),
            ]
            if extras or volumes:
                keys.append(((name, "extras"), ArtefactKind.FOLDER_TARBALL))
            return [*keys, *(((name, f"volume_{each}"), ArtefactKind.FOLDER_TARBALL) for each in named)]


def expected_artefacts(site: Site, plan: str, name: str) -> list[tuple[tuple[str, ...], ArtefactKind]]:
    """Return the keys that definitions are built for: the fixed ones and the tables known from the last capture."""
    tables = [(key, ArtefactKind.TABLE_EXPORT) for key in known_tables(site.store_folder(plan), name)]
    return [*fixed_artefacts(name, site.source(name)), *tables]


def _kinds(kind: ArtefactKind, source: Source) -> set[str]:
    if kind is ArtefactKind.POSTGRES_DUMP and isinstance(source, PostgresSource) and source.dump_compression == "none":
        return {"postgres", "sql"}
    return _KINDS[kind]


def _description(key: tuple[str, ...], kind: ArtefactKind, source: Source) -> str:
    if key[-1] == "extras":
        return "The repository's `.env` and the named volumes, which the settings ask for. Holds secrets."
    what = f"Table `{'.'.join(key[1:])}`. {_WHAT[kind]}" if len(key) == 3 else _WHAT[kind]
    return f"{source.description} {what}".strip()


def _specs(
    plan: str, name: str, source: Source, expected: Sequence[tuple[tuple[str, ...], ArtefactKind]]
) -> tuple[list[dg.AssetSpec], list[dg.AssetCheckSpec]]:
    upstream = [source_key(plan, earlier) for earlier in source.after]
    common: dict[str, Any] = {
        "group_name": plan,
        "owners": list(source.owners),
        "code_version": CODE_VERSION,
        "skippable": True,
    }
    specs, checks = [], []
    for key, kind in expected:
        asset = artefact_key(plan, key)
        metadata = {"dagster/table_name": ".".join(key)} if len(key) == 3 else {}
        specs.append(
            dg.AssetSpec(
                asset,
                deps=upstream,
                kinds=_kinds(kind, source),
                description=_description(key, kind, source),
                metadata=metadata,
                tags={"source": name, "kind": kind.value},
                **common,
            )
        )
        described = CHECKS[kind]
        if kind is ArtefactKind.TABLE_EXPORT:
            formats = _formats(source)
            for form in formats:
                described = {**described, **EXPORTED_AS.get(form, {})}
            if formats and "parquet" not in formats:
                described = {check: text for check, text in described.items() if check != COMPARED_IN_PARQUET}
        checks += [dg.AssetCheckSpec(check, asset=asset, description=text) for check, text in described.items()]
    specs.append(
        dg.AssetSpec(
            source_key(plan, name),
            deps=[artefact_key(plan, key) for key, _ in expected],
            kinds={source.kind},
            description=f"{source.description} Source `{name}`, captured whole: every artefact recorded.".strip(),
            tags={"source": name},
            **common,
        )
    )
    if isinstance(source, (PostgresSource, SqliteSource, OrdersSource)):
        checks.append(
            dg.AssetCheckSpec(TABLES_KNOWN, asset=source_key(plan, name), description=TABLES_KNOWN_DESCRIPTION)
        )
    return specs, checks


def _formats(source: Source) -> tuple[str, ...]:
    return source.tables.formats if isinstance(source, (PostgresSource, SqliteSource)) else ()


def _tables_known(whole: dg.AssetKey, new: list[str], gone: list[str]) -> dg.AssetCheckResult:
    """Return the check that tells of tables which the definitions did not know, or know and are gone."""
    told = [{"table": table, "change": "new: exported, reload the definitions to see it"} for table in new]
    told += [{"table": table, "change": "gone since the last capture"} for table in gone]
    return dg.AssetCheckResult(
        passed=not told,
        asset_key=whole,
        check_name=TABLES_KNOWN,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"new": len(new), "gone": len(gone), **({"tables": table_of(told)} if told else {})},
    )


def capture_asset(site: Site, plan: str, name: str) -> dg.AssetsDefinition:
    """Return the assets of one source of a plan, captured together so that they share one snapshot."""
    source = site.source(name)
    expected = expected_artefacts(site, plan, name)
    by_key = {artefact_key(plan, key): key for key, _ in expected}
    specs, check_specs = _specs(plan, name, source, expected)
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
