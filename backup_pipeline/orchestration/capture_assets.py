"""Capture assets: one subsettable multi-asset per source of a plan. What a capture does stands in `artefacts`."""

import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import dagster as dg

from backup_pipeline.artefacts.types import COMPARED_IN_PARQUET, artefact_type
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord, CheckResult
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.backup.known_tables import known_tables
from backup_pipeline.orchestration.capture_checks import (
    EXPORTED_AS,
    TABLES_DESCRIPTION,
    TABLES_KNOWN,
    TABLES_KNOWN_DESCRIPTION,
)
from backup_pipeline.orchestration.launcher import EXECUTOR_VARIABLE
from backup_pipeline.orchestration.metadata import (
    check_event,
    data_version,
    failure_of,
    record_metadata,
    table_of,
)
from backup_pipeline.orchestration.names import PLAN_TAG, artefact_key, capture_step, source_key
from backup_pipeline.orchestration.run_resource import BackupRuns
from backup_pipeline.orchestration.step_turns import turn_tags
from backup_pipeline.orchestration.table_group import (
    are_grouped,
    group_checks,
    group_metadata,
    group_version,
    tables_key,
)
from backup_pipeline.rules.markdown import code_span
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import SourceSettings
from backup_pipeline.sources.kind import Key
from backup_pipeline.sources.registry import kind_of

CODE_VERSION = "1"


@dataclass(frozen=True)
class _Expected:
    """What definitions are built for: the fixed artefacts, and the tables known from the last capture.

    Attributes:
        assets: key in the set and type of each artefact that is an asset of its own.
        tables: the known tables where they are one asset; none otherwise.
    """

    assets: tuple[tuple[Key, str], ...]
    tables: frozenset[Key] = frozenset()


def _expected_artefacts(site: Site, plan: str, name: str) -> _Expected:
    kind, source = kind_of(site, name)
    tables = known_tables(site.store_folder(plan), name)
    if are_grouped(site, len(tables)):
        return _Expected(tuple(kind.artefacts(source)), frozenset(tables))
    return _Expected((*kind.artefacts(source), *((key, ArtefactKind.TABLE_EXPORT) for key in tables)))


def _description(key: Key, artefact: str, source: SourceSettings) -> str:
    if key[-1] == "extras":
        return "The repository's `.env` and the named volumes, which the settings ask for. Holds secrets."
    what = artefact_type(artefact).description
    text = f"Table {code_span('.'.join(key[1:]))}. {what}" if len(key) == 3 else what
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


def _specs(site: Site, plan: str, name: str, expected: _Expected) -> tuple[list[dg.AssetSpec], list[dg.AssetCheckSpec]]:
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
    for key, artefact in expected.assets:
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
    if expected.tables:
        group = tables_key(plan, name)
        described = _checks_of(ArtefactKind.TABLE_EXPORT, formats)
        checks += [dg.AssetCheckSpec(check, asset=group, description=text) for check, text in described.items()]
        specs.append(
            dg.AssetSpec(
                group,
                deps=upstream,
                kinds={*artefact_type(ArtefactKind.TABLE_EXPORT).labels},
                description=f"{source.description} {TABLES_DESCRIPTION}".strip(),
                tags={"source": name, "kind": str(ArtefactKind.TABLE_EXPORT)},
                **common,
            )
        )
    specs.append(
        dg.AssetSpec(
            source_key(plan, name),
            deps=[spec.key for spec in specs],
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


def _tables_known(whole: dg.AssetKey, new: list[str], gone: list[str]) -> dg.AssetCheckEvaluation:
    """Return the check that fails for tables that are gone, and lists new ones that the definitions did not know."""
    reported = [{"table": table, "change": "new: exported, reload the definitions to see it"} for table in new]
    reported += [{"table": table, "change": "gone since the last capture"} for table in gone]
    return dg.AssetCheckEvaluation(
        # A new table is exported like every other: nothing is wrong with it.
        passed=not gone,
        asset_key=whole,
        check_name=TABLES_KNOWN,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(new)} new, {len(gone)} gone" if reported else None,
        metadata={"new": len(new), "gone": len(gone), **({"tables": table_of(reported)} if reported else {})},
    )


def capture_assets(site: Site, plan: str, sources: Sequence[str]) -> list[dg.AssetsDefinition]:
    """Return the assets of sources of a plan; on Celery workers those that begin together are of different servers."""
    turns: dict[str, dict[str, str]] = {}
    if site.value(EXECUTOR_VARIABLE).strip() == "celery":
        turns = turn_tags(site, sources)
    return [capture_asset(site, plan, name, turns.get(name)) for name in sources]


def capture_asset(site: Site, plan: str, name: str, tags: Mapping[str, str] | None = None) -> dg.AssetsDefinition:
    """Return the assets of one source of a plan, captured together so that they share one snapshot."""
    expected = _expected_artefacts(site, plan, name)
    specs, check_specs = _specs(site, plan, name, expected)

    @dg.multi_asset(
        name=capture_step(plan, name),
        specs=specs,
        check_specs=check_specs,
        can_subset=True,
        op_tags={PLAN_TAG: plan, **(tags or {})},
        group_name=None,
    )
    def capture(context: dg.AssetExecutionContext, backup_runs: BackupRuns) -> Iterator[Any]:
        if not context.selected_asset_keys:
            raise _no_check_alone(context.selected_asset_check_keys)
        context.log.addFilter(_not_of_omitted_outputs)
        shown = _CaptureEvents(context, plan, name, expected, backup_runs)
        try:
            backup = backup_runs.of_plan(plan)
            for record in backup.captured(name, shown.selected(), ahead=backup_runs.ahead(plan)):
                yield from shown.events(record)
        except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
            shown.log_new()
            raise failure_of(error) from None
        yield from shown.ended(backup.set_id)

    return capture


def _not_of_omitted_outputs(record: logging.LogRecord) -> bool:
    """Leave out that checks are no outputs of the step: their evaluations are events of their own."""
    return "did not yield or return expected outputs" not in record.getMessage()


def _no_check_alone(checks: Set[dg.AssetCheckKey]) -> dg.Failure:
    """Return the refusal of *Execute* on a check: it compares with the run's snapshot, which only a capture has."""
    names = ", ".join(sorted(f"{key.name} of {key.asset_key.to_user_string()}" for key in checks))
    return dg.Failure(
        f"Nothing was captured, and nothing was checked: {names} is evaluated while its asset is captured. "
        "Remedy: materialise the asset, or run the backup; for a sealed set use its verification.",
        metadata={"error": "RefusedError", "what": "A check of a capture cannot be executed alone."},
        allow_retries=False,
    )


class _CaptureEvents:
    """What one capture of a source becomes in Dagster; what the definitions do not know yet is logged as events."""

    def __init__(
        self, context: dg.AssetExecutionContext, plan: str, source: str, expected: _Expected, backups: BackupRuns
    ) -> None:
        self._context = context
        self._plan = plan
        self._site = backups.site(plan)
        self._store = str(self._site.store_folder(plan))
        self._expected = expected
        self._whole = source_key(plan, source)
        self._group = tables_key(plan, source)
        self._by_key = {artefact_key(plan, key): key for key, _ in expected.assets}
        self._selected = set(context.selected_asset_keys)
        self._checks = set(context.selected_asset_check_keys)
        self._done: set[dg.AssetKey] = set()
        self._tables: list[ArtefactRecord] = []
        self._new: list[ArtefactRecord] = []
        self._size = self._rows = self._count = 0

    def selected(self) -> frozenset[Key] | None:
        """Return the artefacts to capture; None for all."""
        if self._whole in self._selected:
            return None
        tables = self._expected.tables if self._group in self._selected else frozenset()
        return tables | {self._by_key[key] for key in self._selected if key in self._by_key}

    def events(self, record: ArtefactRecord) -> Iterator[Any]:
        """Take a record; yield its results where it is an asset of its own that the definitions know."""
        self._size, self._rows, self._count = self._size + record.size, self._rows + (record.rows or 0), self._count + 1
        asset = artefact_key(self._plan, record.key)
        if self._expected.tables and record.kind == ArtefactKind.TABLE_EXPORT:
            self._tables.append(record)
        elif asset in self._done:
            # Captured anew, after the server had no room for its first try.
            self._log(asset, record_metadata(record, store=self._store), record.checks)
        elif asset in self._selected:
            self._done.add(asset)
            metadata = record_metadata(record, store=self._store)
            yield dg.MaterializeResult(asset, metadata=metadata, data_version=data_version(record))
            yield from (check_event(asset, check) for check in record.checks)
        else:
            self._new.append(record)

    def log_new(self) -> None:
        """Log what is new since the definitions were loaded: each artefact, or all tables together."""
        known = sum(len(key) == 3 for key in self._by_key.values())
        tables = [record for record in self._new if record.kind == ArtefactKind.TABLE_EXPORT]
        alone = self._new
        if are_grouped(self._site, known + len(tables)):
            alone = [record for record in self._new if record.kind != ArtefactKind.TABLE_EXPORT]
            self._context.log.info(f"{len(tables)} tables are new since the definitions were loaded; reload them.")
            self._log(self._group, group_metadata(tables), group_checks(tables, ()))
        for record in alone:
            self._context.log.info(
                f"{record.name} is new since the definitions were loaded; reload them to see it in the graph."
            )
            asset = artefact_key(self._plan, record.key)
            self._log(asset, record_metadata(record, store=self._store), record.checks)

    def _log(self, asset: dg.AssetKey, metadata: Mapping[str, Any], checks: Sequence[CheckResult]) -> None:
        for check in checks:
            self._context.log_event(check_event(asset, check))
        self._context.log_event(dg.AssetMaterialization(asset, metadata=metadata))

    def ended(self, set_id: SetId) -> Iterator[Any]:
        """Yield what can be said when all is captured.

        Raises:
            dg.Failure: an asset was asked for that is no longer there.
        """
        self.log_new()
        captured = {record.key for record in self._tables}
        absent = sorted(".".join(key[1:]) for key in self._expected.tables - captured)
        if self._group in self._selected:
            yield from self._group_results(absent)
            self._done.add(self._group)
        missing = self._selected - self._done - {self._whole}
        if self._whole in self._selected:
            new = [r.name for r in self._new] + [r.name for r in self._tables if r.key not in self._expected.tables]
            yield from self._whole_results(set_id, new, sorted([*(key.path[-1] for key in missing), *absent]))
        elif missing:
            names = ", ".join(sorted(key.to_user_string() for key in missing))
            raise dg.Failure(f"Not there any more: {names}. Remedy: reload the definitions.", allow_retries=False)

    def _group_results(self, absent: Sequence[str]) -> Iterator[Any]:
        metadata = group_metadata(self._tables, absent)
        yield dg.MaterializeResult(self._group, metadata=metadata, data_version=group_version(self._tables))
        declared = [check.name for check in self._checks if check.asset_key == self._group]
        yield from (check_event(self._group, check) for check in group_checks(self._tables, declared))

    def _whole_results(self, set_id: SetId, new: list[str], gone: list[str]) -> Iterator[Any]:
        metadata: dict[str, Any] = {
            "set": set_id,
            "artefacts": self._count,
            "size_bytes": self._size,
            "dagster/row_count": self._rows,
        }
        if gone:
            metadata["no_longer_there"] = ", ".join(gone)
            self._context.log.warning(f"Known from the last capture and no longer there: {', '.join(gone)}")
        # What it is made of is known here, where Dagster would have all events written and ask for each artefact's.
        versions = self._context.get_step_execution_context()._data_version_cache
        for key in self._done - {self._whole}:
            known: Any = SimpleNamespace(data_version=versions.get_data_version(key), storage_id=None)
            versions.input_asset_version_info[key] = known
        yield dg.MaterializeResult(self._whole, metadata=metadata)
        if dg.AssetCheckKey(self._whole, TABLES_KNOWN) in self._checks:
            yield _tables_known(self._whole, new, gone)
