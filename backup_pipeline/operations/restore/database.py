"""Restore of a PostgreSQL database: the plan, and the steps of applying it, each with its reverse."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from typing import Literal

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.artefacts.targets import database_of
from backup_pipeline.errors import BackupSystemError, RefusedError
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.record import ArtefactKind, Fingerprint
from backup_pipeline.model.restore import RestoreMode, RestorePlan, RestoreResult, TableChange, Undo
from backup_pipeline.operations.backup.emergency import make_emergency_set
from backup_pipeline.operations.proof.drill import written_by
from backup_pipeline.operations.restore.rebuild_and_swap import Rebuild, begun_result
from backup_pipeline.operations.restore.records import keep_result
from backup_pipeline.operations.restore.run import RestoreSource, check_confirmed
from backup_pipeline.operations.restore.target_inspection import TargetInspection, inspect_target
from backup_pipeline.postgres.merge.upsert import UpsertOutcome, UpsertRequest, matches, parse_rows, upsert_database
from backup_pipeline.postgres.server.databases import (
    create_roles,
    drop_roles,
    server_facts,
    sole_restore,
)
from backup_pipeline.postgres.server.swap import side_name
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.sources.postgres import keycloak, supabase
from backup_pipeline.sources.postgres.platform_fill import fill_platform
from backup_pipeline.sources.registry import kind_of

TableName = tuple[str, str]


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
        _request(selection, inspection) if not rebuild else UpsertRequest(lambda n: n not in equal, insert_absent=True)
    )
    try:
        outcome = upsert_database(
            lambda: selection.open(inspection.dump.files[0].path), inspection.target, request, commit=False,
            written_by=written_by(inspection.dump), progress=progress,
        )  # fmt: skip
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
        (t.schema_name, t.name) for t in (inspection.expected.catalog.tables if inspection.expected.catalog else ())
        if t.kind == "partitioned"
    }  # fmt: skip
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
                table=".".join(name), backup=wanted.rows, target=rows, insert=None, update=None, unchanged=None,
                only_in_target=None, conflicts=None, note="differs; rows could not be compared one by one",
            )  # fmt: skip
        result.append(change)
    return result


def _request(selection: RestoreSource, inspection: TargetInspection) -> UpsertRequest:
    """Return which rows an upsert is about, from the options and the settings."""
    options = selection.options
    kind, source = kind_of(selection.site, selection.source)
    master = kind.master_tables(source)
    conditions = dict(parse_rows(text) for text in options.rows)

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

    whole = not (options.tables or options.rows or options.only)
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


def apply_database(
    selection: RestoreSource, *, plan_id: str, confirm: str, run_id: str, progress: ProgressSink, now: datetime
) -> RestoreResult:
    """Apply a plan; see `restore.apply_restore`."""
    target = database_of(selection.site, selection.source)
    with sole_restore(target.with_database(selection.options.into) if selection.options.into else target):
        inspection = inspect_target(selection, progress)
        check_confirmed(inspection.plan, plan_id, confirm)
        selection.check_files(ArtefactKind.POSTGRES_DUMP, ArtefactKind.POSTGRES_ROLES)
        if selection.options.mode is RestoreMode.UPSERT:
            result = _upsert(selection, inspection, run_id, progress, now)
        elif inspection.fills:
            result = _fill(selection, inspection, run_id, progress, now)
        else:
            result = Rebuild(selection, inspection, run_id, progress, now).run()
        return keep_result(selection.site, result)


def _upsert(
    selection: RestoreSource, inspection: TargetInspection, run_id: str, progress: ProgressSink, now: datetime
) -> RestoreResult:
    began = time.monotonic()
    emergency = make_emergency_set(
        selection.site, selection.plan_name, selection.source, run_id=run_id, progress=progress
    )
    outcome = upsert_database(
        lambda: selection.open(inspection.dump.files[0].path), inspection.target,
        _request(selection, inspection), commit=True, written_by=written_by(inspection.dump), progress=progress,
    )  # fmt: skip
    written = sum((change.insert or 0) + (change.update or 0) for change in outcome.tables)
    return begun_result(selection, inspection, now).model_copy(
        update={
            "emergency_set": emergency,
            "finished_at": utc_now(),
            "tables": tuple(outcome.tables),
            "warnings": (*inspection.plan.warnings, *outcome.warnings),
            "numbers": {"seconds": round(time.monotonic() - began, 3), "rows_written": written},
            "undo": Undo(
                remedy=f"backup-pipeline restore {selection.plan_name}/{emergency} {selection.source} brings back what "
                "was there before"
            ),
        }
    )


def _filled(
    selection: RestoreSource, inspection: TargetInspection, progress: ProgressSink, *, commit: bool
) -> UpsertOutcome:
    return fill_platform(
        lambda: selection.open(inspection.dump.files[0].path), inspection.target, inspection.expected, commit=commit,
        written_by=written_by(inspection.dump), progress=progress,
    )  # fmt: skip


def _fill(
    selection: RestoreSource, inspection: TargetInspection, run_id: str, progress: ProgressSink, now: datetime
) -> RestoreResult:
    """Put the project into the platform's new database; what is there already is captured first when it holds rows."""
    began = time.monotonic()
    emergency = ""
    holds_rows = any(
        supabase.may_be_written(name) and isinstance(mark, Fingerprint) and mark.rows
        for name, mark in inspection.marks.items()
    )
    if holds_rows and not selection.options.skip_emergency_backup:
        emergency = make_emergency_set(
            selection.site, selection.plan_name, selection.source, run_id=run_id, progress=progress
        )
    with ExitStack() as way_back:
        made: tuple[str, ...] = ()
        if selection.options.create_roles:
            made = create_roles(inspection.target, inspection.plan.missing_roles)
            way_back.callback(drop_roles, inspection.target, made)
        outcome = _filled(selection, inspection, progress, commit=True)
        way_back.pop_all()
    warnings = (*inspection.plan.warnings, *(f"role {role} was made without login" for role in made), *outcome.warnings)
    return begun_result(selection, inspection, now).model_copy(
        update={
            "emergency_set": emergency,
            "finished_at": utc_now(),
            "tables": tuple(outcome.tables),
            "warnings": tuple(dict.fromkeys(warnings)),
            "numbers": {
                "seconds": round(time.monotonic() - began, 3),
                "rows_written": sum((change.insert or 0) + (change.update or 0) for change in outcome.tables),
            },
            "undo": Undo(remedy="the database was the platform's own, without a project's tables: drop the project's "
                                "schemas, or make a new project"),
        }
    )  # fmt: skip


def undo_database(
    selected_target: PostgresTarget, result: RestoreResult, now: datetime, *, begin: Callable[[str], None]
) -> str:
    """Swap the database from before the restore back in; return the name that the restored one has now.

    Args:
        chosen_target: the live database.
        result: the restore.
        now: the present moment, for names.
        begin: receives the name before anything is changed.
    """
    from backup_pipeline.postgres.server.swap import UNDONE, swap_back

    with sole_restore(selected_target):
        facts = server_facts(selected_target)
        aside = side_name(selected_target.database, UNDONE, now, facts.databases)
        if not result.undo.kept and selected_target.database not in facts.databases:
            raise RefusedError(
                "The restored database is not there any more.", where=selected_target.label, remedy="Nothing to undo."
            )
        begin(aside)
        swap_back(selected_target, result.undo.kept, aside)
        return aside


def state_of_swap(target: PostgresTarget, result: RestoreResult) -> Literal["swapped", "absent"]:
    """Return what became of a restore, or of its undo, whose process was killed while names were swapped.

    Both names change in one transaction, so one of them tells.

    Raises:
        LockError: a restore into this database is running.
    """
    with sole_restore(target):
        names = server_facts(target).databases
    if result.undo.begun:
        return "absent" if result.undo.begun in names and result.undo.kept not in names else "swapped"
    return "absent" if result.restored in names or (result.undo.kept and result.undo.kept not in names) else "swapped"
