"""Inspection before a database is restored: the set, the server, the live database, and what speaks
against it. Nothing is changed here, and no rows are compared one by one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass

from backup_pipeline.artefacts.restorer import Application, RestoreSource
from backup_pipeline.artefacts.targets import database_of
from backup_pipeline.model.manifest import MANIFEST_NAME
from backup_pipeline.model.progress import ProgressSink
from backup_pipeline.model.proof import ProofKind
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord, Fingerprint
from backup_pipeline.model.restore import RestoreMode, RestorePlan, RestoreResult
from backup_pipeline.postgres.compare.comparison import Expectation
from backup_pipeline.postgres.load.check import catalog_of, fingerprints_of, owner_of_schema, tables_of
from backup_pipeline.postgres.server.databases import (
    DatabaseProperties,
    ServerFacts,
    data_folder,
    read_properties,
    server_facts,
    state_of_server,
)
from backup_pipeline.postgres.server.swap import BEFORE, RESTORE
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.sources.postgres import supabase
from backup_pipeline.sources.postgres.recorded import expectation_of
from backup_pipeline.sources.postgres.restore_checks import (
    Situation,
    judge,
    missing_extensions,
    missing_roles,
)

TableName = tuple[str, str]
RESTORER_NAME = "postgres"
# Bytes of table data loaded per second where no drill has measured it.
_GUESSED_SPEED = 25_000_000
_SPACE_FACTOR = 2.5


@dataclass(frozen=True)
class TargetInspection:
    """Everything that was inspected for a plan.

    Attributes:
        properties: the target database's; None when it does not exist.
        marks: fingerprint of every table of the target, or why there is none.
        platform: the target is a database that a Supabase platform made.
        fills: it is one without a project's tables: it is filled, not swapped.
    """

    dump: ArtefactRecord
    expected: Expectation
    target: PostgresTarget
    facts: ServerFacts
    properties: DatabaseProperties | None
    marks: dict[TableName, Fingerprint | str]
    platform: bool
    fills: bool
    plan: RestorePlan


def inspect_target(selection: RestoreSource, progress: ProgressSink) -> TargetInspection:
    """Inspect set and target; the plan has no table counts yet."""
    options = selection.options
    dump = selection.record(ArtefactKind.POSTGRES_DUMP)
    assert dump is not None
    expected = expectation_of(selection.open, dump, selection.record(ArtefactKind.POSTGRES_ROLES))
    target = database_of(selection.site, selection.source)
    if options.into:
        target = target.with_database(options.into)
    facts = server_facts(target)
    properties = read_properties(target)
    there = properties is not None and not options.into
    marks = _marks_of(selection, target, expected, progress) if there else {}
    platform = there and supabase.is_platform(owner_of_schema(target, "auth"))
    if facts.superuser and options.mode is RestoreMode.REBUILD:
        # On a platform nobody but the platform is a superuser: this server is the site's own, and may be rebuilt.
        platform = False
    fills = (
        options.mode is RestoreMode.REBUILD
        and platform
        and not supabase.VERSION_TABLES.isdisjoint(marks)
        and all(schema in supabase.OWNED for schema, _ in marks)
    )
    reasons, warnings = judge(Situation(selection, dump, expected, target, facts, properties, platform, fills))
    size = sum(table.bytes for table in expected.catalog.tables) if expected.catalog else dump.size * 5
    needed = int(size * _SPACE_FACTOR) if options.mode is RestoreMode.REBUILD else size
    free = _free_bytes(target, properties)
    if free is not None and free < needed:
        text = f"about {needed / 1e6:,.0f} MB are needed where the server has its data, {free / 1e6:,.0f} MB are free"
        if free < size and options.mode is RestoreMode.REBUILD:
            # Not even the tables fit. A server whose disk runs full stops, with everything that is live on it.
            restores = f"{selection.plan_name}/{selection.source}"
            reasons.append(f"{text} (undo {restores} --drop-kept removes what restores kept)")
        else:
            warnings.append(text)
    plan = RestorePlan(
        plan_id=_plan_id(selection, target, marks, properties),
        set_id=selection.set_id,
        plan=selection.plan_name,
        source=selection.source,
        options=options,
        target=target.label,
        confirm=target.database,
        exists=properties is not None,
        server_version=facts.version,
        backup_version=dump.server_version or "",
        bytes_needed=needed,
        bytes_free=free,
        seconds=_estimate(selection, size, emergency=there and not options.skip_emergency_backup),
        missing_roles=tuple(missing_roles(expected, facts)),
        missing_extensions=tuple(missing_extensions(expected, facts)),
        steps=tuple(_steps(selection, target, properties, fills=fills)),
        warnings=tuple(warnings),
        reasons_against=tuple(reasons),
    )
    return TargetInspection(dump, expected, target, facts, properties, marks, platform, fills, plan)


def _marks_of(
    selection: RestoreSource, target: PostgresTarget, expected: Expectation, progress: ProgressSink
) -> dict[TableName, Fingerprint | str]:
    """Return the fingerprint of every table of the target, by the algorithm that the set recorded for it."""
    algorithms = dict.fromkeys(tables_of(target), "")
    algorithms |= {n: m.algorithm for n, m in expected.fingerprints.items() if n in algorithms}
    return fingerprints_of(target, algorithms, jobs=jobs_of(selection), progress=progress)


def begun_result(selection: RestoreSource, inspection: TargetInspection, application: Application) -> RestoreResult:
    """Return the result of a restore that has just begun."""
    begun = application.begun(selection, inspection.plan, RESTORER_NAME)
    return begun.model_copy(update={"restored": inspection.target.database})


def _free_bytes(target: PostgresTarget, properties: DatabaseProperties | None) -> int | None:
    """Return what is free where the server keeps its data; None where that cannot be read from here."""
    folder = data_folder(target) if properties is None or properties.tablespace == "pg_default" else None
    return shutil.disk_usage(folder).free if folder else None


def jobs_of(selection: RestoreSource) -> int:
    """Return the number of connections for loading and comparing."""
    return selection.options.jobs or max(2, min(8, os.cpu_count() or 2))


def _plan_id(
    selection: RestoreSource,
    target: PostgresTarget,
    marks: dict[TableName, Fingerprint | str],
    properties: DatabaseProperties | None,
) -> str:
    """Return a digest of the set, the options and the target as it is now: rows, objects, identity."""
    with (
        selection.open(MANIFEST_NAME)
        if selection.backup.manifest
        else selection.open(selection.records[0].files[0].path) as file
    ):
        manifest = hashlib.sha256(file.read()).hexdigest()
    objects = ""
    if properties is not None and not selection.options.into:
        # Sequences move by themselves and are no reason to plan again: what they number shows in the rows.
        objects = json.dumps(catalog_of(target).objects, sort_keys=True)
    state = {
        "manifest": manifest,
        "source": selection.source,
        "options": selection.options.model_dump(mode="json"),
        "target": [target.label, state_of_server(target)],
        "rows": sorted((list(n), m if isinstance(m, str) else [m.value, m.rows]) for n, m in marks.items()),
        "objects": hashlib.sha256(objects.encode()).hexdigest(),
    }
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]


def _estimate(selection: RestoreSource, size: int, *, emergency: bool) -> float:
    """Return about how long it takes: as the last drill did; an emergency set, as the set's own capture."""
    last = selection.backup.last_proof(ProofKind.DRILL)
    measured = (last.details.get(selection.source) if last else None) or {}
    seconds = 1 + size / _GUESSED_SPEED
    if isinstance(measured, dict) and isinstance(measured.get("restore_seconds"), int | float):
        parts = (measured["restore_seconds"], measured.get("compare_seconds"))
        seconds = sum(float(part) for part in parts if isinstance(part, int | float))
    if emergency:
        begun, ended = min(r.started_at for r in selection.records), max(r.finished_at for r in selection.records)
        seconds += (ended - begun).total_seconds()
    return round(seconds, 1)


def _steps(
    selection: RestoreSource, target: PostgresTarget, properties: DatabaseProperties | None, *, fills: bool
) -> list[str]:
    options = selection.options
    check = "read the files of the set again and compare their checksums"
    if options.mode is RestoreMode.UPSERT:
        return [
            check,
            f"make an emergency backup set of {target.database}",
            "in one transaction: load the backup's rows into temporary tables, insert and update by primary key in "
            "foreign-key order, move sequences forward, check every constraint",
        ]
    if fills:
        return [
            check,
            f"make an emergency backup set of {target.database}, when its auth or storage tables hold rows",
            f"in one transaction, into {target.database} as the platform made it: rows of auth and storage into the "
            "platform's tables, then the project's own schemas with their rows; compare every row and object",
        ]
    if options.into:
        return [check, f"make database {target.database} and load the dump", "compare every row and object"]
    steps = [
        check,
        f"make database {target.database}__{RESTORE}_<time> beside it and load the dump",
        "compare every row and object with what was recorded; anything different ends it here",
    ]
    if properties is None:
        return [*steps, f"rename it to {target.database}"]
    if not options.skip_emergency_backup:
        steps.append(f"make an emergency backup set of {target.database}")
    return [
        *steps,
        f"in one transaction: end connections, rename {target.database} to {target.database}__{BEFORE}_<time> and the "
        f"new one to {target.database}",
        "keep the old database for undo",
    ]
