"""Restore of a PostgreSQL database: the plan, applying it by rebuild, upsert or filling, its undo, its drills."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from typing import ClassVar, Literal

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.artefacts.drilling import DrillArea, Drills, SealedPart
from backup_pipeline.artefacts.restorer import Application, PlannedDrill, Restorer, RestoreSource
from backup_pipeline.artefacts.targets import database_of
from backup_pipeline.errors import BackupSystemError, MissingFileError, RefusedError, ValidationError
from backup_pipeline.model.changed_rows import ChangedRows, RowsView
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord, Fingerprint
from backup_pipeline.model.restore import RestoreMode, RestorePlan, RestoreResult, TableChange, Undo
from backup_pipeline.postgres.merge.conditions import all_conditions
from backup_pipeline.postgres.merge.take_back import WrittenBefore, take_back
from backup_pipeline.postgres.merge.upsert import UpsertOutcome, UpsertRequest, matches, rows_to_write, upsert_database
from backup_pipeline.postgres.server.databases import (
    create_roles,
    drop_database,
    drop_roles,
    server_facts,
    sole_restore,
)
from backup_pipeline.postgres.server.swap import UNDONE, is_side_of, side_name, swap_back
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.rules.environment import EnvironmentFault
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.postgres import keycloak, supabase
from backup_pipeline.sources.postgres.inspect import is_archive
from backup_pipeline.sources.postgres.platform_fill import fill_platform
from backup_pipeline.sources.postgres.rebuild_and_swap import Rebuild
from backup_pipeline.sources.postgres.recorded import catalog_if_recorded, progress_of_dump, written_by
from backup_pipeline.sources.postgres.target_inspection import (
    RESTORER_NAME,
    TargetInspection,
    begun_result,
    inspect_target,
)
from backup_pipeline.sources.registry import kind_of

TableName = tuple[str, str]

# Restored tables with their indexes, against the bytes of the tables in the live database.
_SPACE_FACTOR = 2.5


class PostgresRestorer(Restorer):
    """Restores databases of PostgreSQL, whichever kind of source they belong to: compared, swapped in, kept."""

    name: ClassVar[str] = RESTORER_NAME

    def plan(self, selection: RestoreSource, progress: ProgressSink) -> RestorePlan:
        """Find out what would become of each table's rows."""
        return plan_database(selection, progress=progress)

    def apply(self, selection: RestoreSource, application: Application) -> RestoreResult:
        """Apply a plan under the lock of the target's name on its server."""
        target = database_of(selection.site, selection.source)
        with sole_restore(target.with_database(selection.options.into) if selection.options.into else target):
            inspection = inspect_target(selection, application.progress)
            application.check(inspection.plan)
            selection.check_files(ArtefactKind.POSTGRES_DUMP, ArtefactKind.POSTGRES_ROLES)
            if selection.options.mode is RestoreMode.UPSERT:
                result = _upsert(selection, inspection, application)
            elif inspection.fills:
                result = _fill(selection, inspection, application)
            else:
                result = Rebuild(selection, inspection, application).run()
            return application.journal.keep(result)

    def changed_rows(self, selection: RestoreSource, table: str, view: RowsView) -> ChangedRows:
        """Compare one table with the dump once more, in a transaction that is rolled back."""
        options, dump = selection.options, selection.record(ArtefactKind.POSTGRES_DUMP)
        if dump is None or options.into:
            return super().changed_rows(selection, table, view)
        rebuild = options.mode is RestoreMode.REBUILD
        request = UpsertRequest(
            lambda name: ".".join(name) == table,
            conditions={
                name: condition
                for name, condition in all_conditions(options.rows, options.where).items()
                if ".".join(name) == table
            },
            on_conflict=options.on_conflict,
            newer_column=options.newer_column,
            insert_absent=rebuild or options.insert_absent,
        )
        target = database_of(selection.site, selection.source)
        return rows_to_write(
            lambda: selection.open(dump.files[0].path), target, request, view, written_by=written_by(dump)
        )

    def state_of_swap(self, site: Site, result: RestoreResult) -> Literal["swapped", "absent"]:
        """Return what became of a swap. Both names change in one transaction, so one of them shows it."""
        target = _live(site, result.source).with_database(result.undo.live)
        with sole_restore(target):
            names = server_facts(target).databases
        kept, begun = result.undo.kept, result.undo.begun
        if begun:
            return "absent" if begun in names and kept not in names else "swapped"
        return "absent" if result.restored in names or (kept and kept not in names) else "swapped"

    def undo(self, site: Site, result: RestoreResult, now: datetime, begin: Callable[[str], None]) -> None:
        """Swap the database from before the restore back in."""
        live = _live(site, result.source).with_database(result.undo.live)
        with sole_restore(live):
            facts = server_facts(live)
            aside = side_name(live.database, UNDONE, now, facts.databases)
            if not result.undo.kept and live.database not in facts.databases:
                raise RefusedError(
                    "The restored database is not there any more.", where=live.label, remedy="Nothing to undo."
                )
            begin(aside)
            swap_back(live, result.undo.kept, aside)

    def undo_rows(
        self, restored: RestoreSource, before: RestoreSource, result: RestoreResult, progress: ProgressSink
    ) -> RestoreResult:
        """Take an upsert back, by the set that it brought in and the set that was made just before it."""
        dumps = [_sealed_dump(restored), _sealed_dump(before)]
        target = _live(restored.site, result.source).with_database(result.undo.live)
        options = result.options
        written = WrittenBefore(
            tables=frozenset(change.table for change in result.tables if change.insert or change.update),
            conditions=all_conditions(options.rows, options.where),
            on_conflict=options.on_conflict,
            newer_column=options.newer_column,
            without_triggers=options.without_triggers,
            written_by=max(map(written_by, dumps)),
            transaction=result.undo.transaction,
        )
        with sole_restore(target):
            found = take_back(
                lambda: restored.open(dumps[0].files[0].path),
                lambda: before.open(dumps[1].files[0].path),
                target,
                written,
                progress=progress,
            )
        numbers = {
            "rows_put_back": sum(one.put_back for one in found),
            "rows_removed": sum(one.removed for one in found),
            "rows_changed_since": sum(one.changed_since for one in found),
        }
        notes = tuple(
            f"{one.changed_since} rows of {one.table} were written again since: they stay as they are"
            for one in found
            if one.changed_since
        )
        notes += tuple(
            f"{one.rewritten} rows of {one.table} were changed by a trigger as they were put back"
            for one in found
            if one.rewritten
        )
        skipped = sorted(written.tables - {one.table for one in found})
        notes += tuple(f"{table} has no key: rows that were added stay" for table in skipped)
        return result.model_copy(
            update={"numbers": {**result.numbers, **numbers}, "warnings": (*result.warnings, *notes)}
        )

    def drop_kept(self, site: Site, source: str, confirm: str) -> tuple[str, ...]:
        """Drop the databases that restores and undos left beside the live one."""
        target = _live(site, source)
        if confirm != target.database:
            raise RefusedError(
                "The name given as confirmation is not the live database's.",
                where=target.label,
                remedy=f"Confirm with --confirm {target.database}",
            )
        with sole_restore(target):
            names = sorted(name for name in server_facts(target).databases if is_side_of(name, target.database))
            for name in names:
                drop_database(target.with_database(name))
        return tuple(names)

    def drills(self, area: DrillArea) -> Drills:
        """Return drills that share their scratch servers."""
        from backup_pipeline.sources.postgres.drill import DatabaseDrills

        return DatabaseDrills(area)

    def inspected_by_drill(self, record: ArtefactRecord) -> bool:
        """Return True for what is loaded, or compared row by row: plain dumps and table exports."""
        dump = record.kind == ArtefactKind.POSTGRES_DUMP and not is_archive(record)
        return dump or record.kind == ArtefactKind.TABLE_EXPORT

    def scratch_bytes(self, part: SealedPart) -> int:
        """Return what the restored tables and their indexes take, and the files of the rest."""
        needed = 0
        for record in part.records:
            if record.kind == ArtefactKind.POSTGRES_DUMP:
                # A catalog that is damaged or missing is found by the drill itself.
                with suppress(ValidationError, MissingFileError):
                    catalog = catalog_if_recorded(part.open_file, record)
                    size = sum(table.bytes for table in catalog.tables) if catalog else _unpacked_size(record)
                    needed += int(_SPACE_FACTOR * size)
            else:
                needed += super().scratch_bytes(SealedPart(part.open_file, (record,)))
        return needed

    def drill_faults(self, site: Site, planned: Sequence[PlannedDrill]) -> Iterable[EnvironmentFault]:
        """Yield what a scratch server lacks for them."""
        from backup_pipeline.sources.postgres.drill_environment import drill_faults

        return drill_faults(site, planned)


def _sealed_dump(selection: RestoreSource) -> ArtefactRecord:
    selection.check_files(ArtefactKind.POSTGRES_DUMP)
    dump = selection.record(ArtefactKind.POSTGRES_DUMP)
    if dump is None:
        raise RefusedError("The set has no dump of this source.", where=f"{selection.plan_name}/{selection.set_id}")
    return dump


def _unpacked_size(record: ArtefactRecord) -> int:
    """Return the bytes of an imported dump's text, or an estimate: compressed to a fifth."""
    return sum(file.content_size or file.size * 5 for file in record.files)


def _live(site: Site, source: str) -> PostgresTarget:
    if site.source(source).connection is None:
        raise RefusedError("Not a database.", where=source, remedy="Only databases leave others beside them.")
    return database_of(site, source)


def plan_database(selection: RestoreSource, *, progress: ProgressSink = no_progress) -> RestorePlan:
    """Return the plan of restoring a database, with what would become of each table's rows."""
    inspection = inspect_target(selection, progress)
    plan = inspection.plan
    if inspection.properties is None or selection.options.into:
        tables = [
            TableChange(table=".".join(name), backup=mark.rows, insert=mark.rows)
            for name, mark in inspection.expected.fingerprints.items()
        ]
        return plan.model_copy(update={"tables": tuple(tables)})
    if inspection.fills:
        filled, reasons = UpsertOutcome(), []
        try:
            filled = _filled(selection, inspection, progress, commit=False)
        except BackupSystemError as error:
            reasons = [f"{error.where}: {error.what}"]
        return plan.model_copy(
            update={
                "tables": tuple(sorted(filled.tables, key=lambda change: change.table)),
                "reasons_against": (*plan.reasons_against, *filled.reasons_against, *reasons),
                "warnings": tuple(dict.fromkeys((*plan.warnings, *filled.warnings))),
            }
        )
    rebuild = selection.options.mode is RestoreMode.REBUILD
    equal = _equal_tables(inspection) if rebuild else {}
    known = set(inspection.expected.fingerprints)
    request = (
        _request(selection, inspection)
        if not rebuild
        else UpsertRequest(lambda n: n not in equal, insert_absent=True, check_references=False)
    )
    try:
        outcome = upsert_database(
            lambda: selection.open(inspection.dump.files[0].path),
            inspection.target,
            request,
            commit=False,
            written_by=written_by(inspection.dump),
            progress=progress_of_dump(progress, inspection.dump, inspection.expected),
        )
        counted, reasons = outcome.tables, [] if rebuild else outcome.reasons_against
        uncounted = outcome.reasons_against if rebuild else []
        skipped = [] if rebuild else outcome.warnings
    except BackupSystemError as error:
        counted, reasons, uncounted = [], [] if rebuild else [f"{error.where}: {error.what}"], [error.what]
        skipped = []
    tables = [*counted, *equal.values()]
    tables += _uncounted(inspection, {change.table for change in tables}, known) if rebuild else []
    return plan.model_copy(
        update={
            "tables": tuple(sorted(tables, key=lambda change: change.table)),
            "reasons_against": (*plan.reasons_against, *reasons),
            "warnings": (*plan.warnings, *skipped, *(f"not counted: {reason}" for reason in uncounted)),
        }
    )


def _equal_tables(inspection: TargetInspection) -> dict[TableName, TableChange]:
    """Return the tables whose rows are the backup's: nothing has to be read to say what would become of them."""
    result = {}
    for name, wanted in inspection.expected.fingerprints.items():
        have = inspection.marks.get(name)
        if isinstance(have, Fingerprint) and (have.value, have.rows) == (wanted.value, wanted.rows):
            result[name] = TableChange(table=".".join(name), backup=wanted.rows, target=have.rows, unchanged=have.rows)
    return result


def _uncounted(inspection: TargetInspection, reported: set[str], known: set[TableName]) -> list[TableChange]:
    """Return tables that only one side has, or whose rows could not be compared one by one."""
    result = []
    partitioned = {
        (t.schema_name, t.name)
        for t in (inspection.expected.catalog.tables if inspection.expected.catalog else ())
        if t.kind == "partitioned"
    }
    for name in sorted(known | set(inspection.marks)):
        if ".".join(name) in reported or name in partitioned:
            continue
        wanted, have = inspection.expected.fingerprints.get(name), inspection.marks.get(name)
        rows = have.rows if isinstance(have, Fingerprint) else 0
        if wanted is None:
            note = "not in the backup: stays in the old database"
            change = TableChange(table=".".join(name), target=rows, only_in_target=rows, note=note)
        elif have is None:
            change = TableChange(table=".".join(name), backup=wanted.rows, insert=wanted.rows, note="not in the target")
        else:
            change = TableChange(
                table=".".join(name),
                backup=wanted.rows,
                target=rows,
                insert=None,
                update=None,
                unchanged=None,
                only_in_target=None,
                conflicts=None,
                note="differs; rows could not be compared one by one",
            )
        result.append(change)
    return result


def _request(selection: RestoreSource, inspection: TargetInspection) -> UpsertRequest:
    """Return which rows an upsert is about, from the options and the settings."""
    options = selection.options
    kind, source = kind_of(selection.site, selection.source)
    master = kind.master_tables(source)
    conditions = all_conditions(options.rows, options.where)

    def wanted(name: TableName) -> bool:
        if keycloak.is_lock(name) or (inspection.platform and not supabase.may_be_written(name)):
            return False
        if conditions and not options.tables and name not in conditions:
            return False
        if options.tables and not (matches(name, options.tables) or name in conditions):
            return False
        return options.only is None or matches(name, master) == (options.only == "master")

    def versions(name: TableName) -> bool:
        return (inspection.platform and name in supabase.VERSION_TABLES) or keycloak.is_version(name)

    whole = not (options.tables or conditions or options.only)
    return UpsertRequest(
        wanted=wanted,
        everything=whole,
        versions=versions,
        conditions=conditions,
        on_conflict=options.on_conflict,
        newer_column=options.newer_column,
        insert_absent=options.insert_absent,
        without_triggers=options.without_triggers,
        skip_refused=options.skip_refused,
    )


def _upsert(selection: RestoreSource, inspection: TargetInspection, application: Application) -> RestoreResult:
    began = time.monotonic()
    emergency = application.journal.emergency_set()
    outcome = upsert_database(
        lambda: selection.open(inspection.dump.files[0].path),
        inspection.target,
        _request(selection, inspection),
        commit=True,
        written_by=written_by(inspection.dump),
        progress=progress_of_dump(application.progress, inspection.dump, inspection.expected),
    )
    written = sum((change.insert or 0) + (change.update or 0) for change in outcome.tables)
    return begun_result(selection, inspection, application).model_copy(
        update={
            "emergency_set": emergency,
            "finished_at": utc_now(),
            "tables": tuple(outcome.tables),
            "warnings": (*inspection.plan.warnings, *outcome.warnings),
            "numbers": {"seconds": round(time.monotonic() - began, 3), "rows_written": written},
            "undo": Undo(
                kind="rows",
                live=inspection.target.database,
                transaction=outcome.transaction,
                remedy=f"backup-pipeline restore {selection.plan_name}/{emergency} {selection.source} brings back what "
                "was there before",
            ),
        }
    )


def _filled(
    selection: RestoreSource, inspection: TargetInspection, progress: ProgressSink, *, commit: bool
) -> UpsertOutcome:
    return fill_platform(
        lambda: selection.open(inspection.dump.files[0].path),
        inspection.target,
        inspection.expected,
        commit=commit,
        written_by=written_by(inspection.dump),
        progress=progress_of_dump(progress, inspection.dump, inspection.expected),
    )


def _fill(selection: RestoreSource, inspection: TargetInspection, application: Application) -> RestoreResult:
    """Put the project into the platform's new database; what is there already is captured first when it holds rows."""
    began = time.monotonic()
    emergency = ""
    holds_rows = any(
        supabase.may_be_written(name) and isinstance(mark, Fingerprint) and mark.rows
        for name, mark in inspection.marks.items()
    )
    if holds_rows and not selection.options.skip_emergency_backup:
        emergency = application.journal.emergency_set()
    with ExitStack() as way_back:
        made: tuple[str, ...] = ()
        if selection.options.create_roles:
            made = create_roles(inspection.target, inspection.plan.missing_roles)
            way_back.callback(drop_roles, inspection.target, made)
        outcome = _filled(selection, inspection, application.progress, commit=True)
        way_back.pop_all()
    warnings = (*inspection.plan.warnings, *(f"role {role} was made without login" for role in made), *outcome.warnings)
    return begun_result(selection, inspection, application).model_copy(
        update={
            "emergency_set": emergency,
            "finished_at": utc_now(),
            "tables": tuple(outcome.tables),
            "warnings": tuple(dict.fromkeys(warnings)),
            "numbers": {
                "seconds": round(time.monotonic() - began, 3),
                "rows_written": sum((change.insert or 0) + (change.update or 0) for change in outcome.tables),
            },
            "undo": Undo(
                remedy="the database was the platform's own, without a project's tables: drop the project's "
                "schemas, or make a new project"
            ),
        }
    )
