"""Restoring a PostgreSQL database: what a plan says of it, and the steps of applying it, each with its way back."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.errors import BackupSystemError, RefusedError, ToolError, ValidationError
from backup_pipeline.model.manifest import MANIFEST_NAME
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.model.proof import ProofKind
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord, Fingerprint
from backup_pipeline.model.restore import RestoreMode, RestorePlan, RestoreResult, TableChange, Undo
from backup_pipeline.operations.drill import expectation_of, written_by
from backup_pipeline.operations.emergency import make_emergency_set
from backup_pipeline.operations.restore import Chosen, check_confirmed
from backup_pipeline.operations.restore_records import write_result
from backup_pipeline.operations.targets import target_of
from backup_pipeline.restore import keycloak, supabase
from backup_pipeline.restore.comparison import Expectation, compare_database
from backup_pipeline.restore.rebuild import rebuild_database
from backup_pipeline.restore.swap import BEFORE, RESTORE, is_side_of, side_name, swap_in
from backup_pipeline.restore.upsert import UpsertRequest, matches, parse_rows, upsert_database
from backup_pipeline.settings.types import OrdersSource, PostgresSource
from backup_pipeline.tools.postgres.clients import choose_client
from backup_pipeline.tools.postgres.databases import (
    DatabaseProperties,
    ServerFacts,
    create_roles,
    drop_database,
    drop_roles,
    obstacles_to_rename,
    read_properties,
    server_facts,
    sole_restore,
    state_of_server,
)
from backup_pipeline.tools.postgres.keycloak_schema import keycloak_state
from backup_pipeline.tools.postgres.restore_check import catalog_of, fingerprints_of, tables_of
from backup_pipeline.tools.postgres.target import PostgresTarget

TableName = tuple[str, str]
# Bytes of table data loaded per second where no drill has measured it.
_GUESSED_SPEED = 25_000_000
_SPACE_FACTOR = 2.5


@dataclass(frozen=True)
class _Scene:
    """Everything that was looked at for a plan."""

    dump: ArtefactRecord
    expected: Expectation
    target: PostgresTarget
    facts: ServerFacts
    properties: DatabaseProperties | None
    marks: dict[TableName, Fingerprint | str]
    plan: RestorePlan


def plan_database(chosen: Chosen, *, progress: ProgressSink = no_progress) -> RestorePlan:
    """Return the plan of restoring a database, with what would become of each table's rows."""
    scene = _look(chosen, progress)
    plan = scene.plan
    if scene.properties is None or chosen.options.into:
        tables = [
            TableChange(table=".".join(name), backup=mark.rows, insert=mark.rows)
            for name, mark in scene.expected.fingerprints.items()
        ]
        return plan.model_copy(update={"tables": tuple(tables)})
    rebuild = chosen.options.mode is RestoreMode.REBUILD
    equal = _equal_tables(scene) if rebuild else {}
    known = set(scene.expected.fingerprints)
    request = _request(chosen, scene) if not rebuild else UpsertRequest(lambda n: n not in equal, insert_absent=True)
    try:
        outcome = upsert_database(
            lambda: chosen.open(scene.dump.files[0].path), scene.target, request, commit=False,
            written_by=written_by(scene.dump), progress=progress,
        )  # fmt: skip
        counted, reasons = outcome.tables, [] if rebuild else outcome.reasons_against
        uncounted = outcome.reasons_against if rebuild else []
    except BackupSystemError as error:
        counted, reasons, uncounted = [], [] if rebuild else [f"{error.where}: {error.what}"], [error.what]
    tables = [*counted, *equal.values()]
    tables += _uncounted(scene, {change.table for change in tables}, known) if rebuild else []
    return plan.model_copy(
        update={
            "tables": tuple(sorted(tables, key=lambda change: change.table)),
            "reasons_against": (*plan.reasons_against, *reasons),
            "warnings": (*plan.warnings, *(f"not counted: {reason}" for reason in uncounted)),
        }
    )


def _equal_tables(scene: _Scene) -> dict[TableName, TableChange]:
    """Return the tables whose rows are the backup's: nothing has to be read to say what would become of them."""
    result = {}
    for name, wanted in scene.expected.fingerprints.items():
        have = scene.marks.get(name)
        if isinstance(have, Fingerprint) and (have.value, have.rows) == (wanted.value, wanted.rows):
            result[name] = TableChange(table=".".join(name), backup=wanted.rows, target=have.rows, unchanged=have.rows)
    return result


def _uncounted(scene: _Scene, told: set[str], known: set[TableName]) -> list[TableChange]:
    """Return tables that only one side has, or whose rows could not be compared one by one."""
    result = []
    partitioned = {
        (t.schema_name, t.name) for t in (scene.expected.catalog.tables if scene.expected.catalog else ())
        if t.kind == "partitioned"
    }  # fmt: skip
    for name in sorted(known | set(scene.marks)):
        if ".".join(name) in told or name in partitioned:
            continue
        wanted, have = scene.expected.fingerprints.get(name), scene.marks.get(name)
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


def _look(chosen: Chosen, progress: ProgressSink) -> _Scene:
    """Look at set and target; the plan has no table counts yet."""
    settings = chosen.site.source(chosen.source)
    assert isinstance(settings, PostgresSource | OrdersSource)
    options = chosen.options
    dump = chosen.record(ArtefactKind.POSTGRES_DUMP)
    assert dump is not None
    expected = expectation_of(chosen.open, dump, chosen.record(ArtefactKind.POSTGRES_ROLES))
    target = target_of(chosen.site, settings, chosen.source)
    if options.into:
        target = target.with_database(options.into)
    facts = server_facts(target)
    properties = read_properties(target)
    marks: dict[TableName, Fingerprint | str] = {}
    if properties is not None and not options.into:
        algorithms = dict.fromkeys(tables_of(target), "")
        algorithms |= {n: m.algorithm for n, m in expected.fingerprints.items() if n in algorithms}
        marks = fingerprints_of(target, algorithms, jobs=_jobs(chosen), progress=progress)
    reasons, warnings = _judge(chosen, dump, expected, target, facts, properties)
    size = sum(table.bytes for table in expected.catalog.tables) if expected.catalog else dump.size * 5
    plan = RestorePlan(
        plan_id=_plan_id(chosen, target, marks, properties),
        set_id=chosen.set_id,
        plan=chosen.plan_name,
        source=chosen.source,
        options=options,
        target=target.label,
        confirm=target.database,
        exists=properties is not None,
        server_version=facts.version,
        backup_version=dump.server_version or "",
        bytes_needed=int(size * _SPACE_FACTOR) if options.mode is RestoreMode.REBUILD else size,
        bytes_free=chosen.store.free_bytes() if target.host in ("localhost", "127.0.0.1", "::1") else None,
        seconds=_estimate(chosen, size),
        missing_roles=tuple(_missing_roles(expected, facts)),
        missing_extensions=tuple(_missing_extensions(expected, facts)),
        steps=tuple(_steps(chosen, target, properties)),
        warnings=tuple(warnings),
        reasons_against=tuple(reasons),
    )
    return _Scene(dump, expected, target, facts, properties, marks, plan)


def _jobs(chosen: Chosen) -> int:
    return chosen.options.jobs or max(2, min(8, os.cpu_count() or 2))


def _plan_id(
    chosen: Chosen,
    target: PostgresTarget,
    marks: dict[TableName, Fingerprint | str],
    properties: DatabaseProperties | None,
) -> str:
    """Return a digest of the set, the options and the target as it is now: rows, objects, identity."""
    with chosen.open(MANIFEST_NAME) if chosen.backup.manifest else chosen.open(chosen.records[0].files[0].path) as file:
        manifest = hashlib.sha256(file.read()).hexdigest()
    objects = ""
    if properties is not None and not chosen.options.into:
        # Sequences move by themselves and are no reason to plan again: what they number shows in the rows.
        objects = json.dumps(catalog_of(target).objects, sort_keys=True)
    seen = {
        "manifest": manifest,
        "source": chosen.source,
        "options": chosen.options.model_dump(mode="json"),
        "target": [target.label, state_of_server(target)],
        "rows": sorted((list(n), m if isinstance(m, str) else [m.value, m.rows]) for n, m in marks.items()),
        "objects": hashlib.sha256(objects.encode()).hexdigest(),
    }
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16]


def _missing_roles(expected: Expectation, facts: ServerFacts) -> list[str]:
    needed = {*(expected.roles.needed if expected.roles else ()), *(expected.catalog.roles if expected.catalog else ())}
    return sorted(needed - facts.roles)


def _missing_extensions(expected: Expectation, facts: ServerFacts) -> list[str]:
    return sorted(set(expected.roles.extensions if expected.roles else ()) - facts.extensions)


def _estimate(chosen: Chosen, size: int) -> float:
    last = chosen.backup.last_proof(ProofKind.DRILL)
    measured = (last.details.get(chosen.source) if last else None) or {}
    if isinstance(measured, dict) and isinstance(measured.get("restore_seconds"), int | float):
        seconds, comparing = measured["restore_seconds"], measured.get("compare_seconds")
        return round(float(seconds) + float(comparing if isinstance(comparing, int | float) else 0), 1)  # type: ignore[arg-type]
    return round(1 + size / _GUESSED_SPEED, 1)


def _judge(
    chosen: Chosen,
    dump: ArtefactRecord,
    expected: Expectation,
    target: PostgresTarget,
    facts: ServerFacts,
    properties: DatabaseProperties | None,
) -> tuple[list[str], list[str]]:
    """Return what speaks against the restore, and what a person should know."""
    options, reasons, warnings = chosen.options, [], []
    wrote = written_by(dump)
    try:
        choose_client(facts.major, safe_restore=True, at_least=wrote)
    except ToolError as error:
        reasons.append(error.what)
    if chosen.backup.manifest is None:
        warnings.append("the set was never sealed; what it holds is restored as far as it goes")
    elif not chosen.backup.proven:
        warnings.append("this set has not been proven by a drill")
    if options.mode is RestoreMode.UPSERT:
        if properties is None:
            reasons.append("the database does not exist; rebuild it")
        if supabase.is_platform(facts.roles):
            warnings.append("Supabase: rows of auth and storage go into the platform's own tables; the rest of the "
                            "platform's schemas is left alone")  # fmt: skip
        return reasons, warnings
    if facts.major < wrote:
        reasons.append(f"the server is of version {facts.major}, the dump was written by pg_dump {wrote}")
    if not facts.may_create_databases:
        reasons.append(f"role {facts.user} may not create databases (use --upsert)")
    if (missing := _missing_roles(expected, facts)) and not options.create_roles:
        reasons.append(f"roles are missing: {', '.join(missing)} (--create-roles makes them, without login)")
    if missing := _missing_extensions(expected, facts):
        reasons.append(f"extensions are not available on the server: {', '.join(missing)}")
    if "pg_cron" in (expected.roles.extensions if expected.roles else {}):
        reasons.append("pg_cron can live in one database of a server only, so no copy can be built beside it "
                       "(use --upsert)")  # fmt: skip
    if options.into:
        if properties is not None:
            reasons.append(f"database {options.into} exists already")
    elif properties is not None:
        if not facts.superuser and properties.owner != facts.user:
            reasons.append(f"role {facts.user} does not own {target.database}, so it cannot be renamed (use --upsert, "
                           "or --into for a new database)")  # fmt: skip
        if supabase.is_platform(facts.roles):
            reasons.append("a Supabase platform's database cannot be swapped (use --upsert, or --into)")
        for text in obstacles_to_rename(target):
            (reasons if "prepared" in text else warnings).append(text)
        warnings.append(
            "the application's connections are ended for the swap; what it writes after the emergency backup stays "
            "in the old database only"
        )
    return reasons, warnings


def _steps(chosen: Chosen, target: PostgresTarget, properties: DatabaseProperties | None) -> list[str]:
    options = chosen.options
    check = "read the files of the set again and compare their checksums"
    if options.mode is RestoreMode.UPSERT:
        return [
            check,
            f"make an emergency backup set of {target.database}",
            "in one transaction: load the backup's rows into temporary tables, insert and update by primary key in "
            "foreign-key order, move sequences forward, check every constraint",
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


def _request(chosen: Chosen, scene: _Scene) -> UpsertRequest:
    """Return which rows an upsert is about, from the options and the settings."""
    options = chosen.options
    settings = chosen.site.source(chosen.source)
    master = settings.master_tables if isinstance(settings, PostgresSource) else ()
    conditions = dict(parse_rows(text) for text in options.rows)
    platform = supabase.is_platform(scene.facts.roles)

    def wanted(name: TableName) -> bool:
        if keycloak.is_lock(name) or (platform and not supabase.may_be_written(name)):
            return False
        if conditions and not options.tables and name not in conditions:
            return False
        if options.tables and not (matches(name, options.tables) or name in conditions):
            return False
        return options.only is None or matches(name, master) == (options.only == "master")

    def versions(name: TableName) -> bool:
        return (platform and name in supabase.VERSION_TABLES) or keycloak.is_version(name)

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
    )


def apply_database(
    chosen: Chosen, *, plan_id: str, confirm: str, run_id: str, progress: ProgressSink, now: datetime
) -> RestoreResult:
    """Apply a plan; see `restore.apply_restore`."""
    settings = chosen.site.source(chosen.source)
    assert isinstance(settings, PostgresSource | OrdersSource)
    with sole_restore(target_of(chosen.site, settings, chosen.source)):
        scene = _look(chosen, progress)
        check_confirmed(scene.plan, plan_id, confirm)
        chosen.check_files(ArtefactKind.POSTGRES_DUMP, ArtefactKind.POSTGRES_ROLES)
        if chosen.options.mode is RestoreMode.UPSERT:
            result = _upsert(chosen, scene, run_id, progress, now)
        else:
            result = _rebuild(chosen, scene, run_id, progress, now)
        write_result(chosen.site, result)
        return result


def _result(chosen: Chosen, scene: _Scene, now: datetime) -> RestoreResult:
    return RestoreResult(
        restore_id=f"{now:%Y-%m-%dT%H%M%SZ}-{chosen.source}",
        plan_id=scene.plan.plan_id,
        set_id=chosen.set_id,
        plan=chosen.plan_name,
        source=chosen.source,
        kind="postgres",
        options=chosen.options,
        target=scene.target.label,
        restored=scene.target.database,
        started_at=now,
        finished_at=now,
        warnings=scene.plan.warnings,
    )


def _upsert(chosen: Chosen, scene: _Scene, run_id: str, progress: ProgressSink, now: datetime) -> RestoreResult:
    began = time.monotonic()
    emergency = make_emergency_set(chosen.site, chosen.plan_name, chosen.source, run_id=run_id, progress=progress)
    outcome = upsert_database(
        lambda: chosen.open(scene.dump.files[0].path), scene.target, _request(chosen, scene), commit=True,
        written_by=written_by(scene.dump), progress=progress,
    )  # fmt: skip
    written = sum((change.insert or 0) + (change.update or 0) for change in outcome.tables)
    return _result(chosen, scene, now).model_copy(
        update={
            "emergency_set": emergency,
            "finished_at": utc_now(),
            "tables": tuple(outcome.tables),
            "warnings": (*scene.plan.warnings, *outcome.warnings),
            "numbers": {"seconds": round(time.monotonic() - began, 3), "rows_written": written},
            "undo": Undo(
                remedy=f"backup-pipeline restore {chosen.plan_name}/{emergency} {chosen.source} brings back what was "
                "there before"
            ),
        }
    )


def _rebuild(chosen: Chosen, scene: _Scene, run_id: str, progress: ProgressSink, now: datetime) -> RestoreResult:
    """Build beside, compare, capture what is there, swap. Each step has its way back until the swap has happened."""
    began = time.monotonic()
    target, options, facts = scene.target, chosen.options, scene.facts
    swapping = not options.into
    for left in sorted(facts.databases):
        # Of a restore that was killed while it built; the lock says that nobody builds here now.
        if is_side_of(left, target.database, RESTORE):
            drop_database(target.with_database(left))
    name = side_name(target.database, RESTORE, now, facts.databases) if swapping else target.database
    rebuilt = target.with_database(name)
    numbers: dict[str, float | int] = {}
    warnings: list[str] = []
    with ExitStack() as way_back:
        if options.create_roles:
            made = create_roles(target, scene.plan.missing_roles)
            way_back.callback(drop_roles, target, made)
            warnings += [f"role {role} was made without login" for role in made]
        done = rebuild_database(
            lambda: chosen.open(scene.dump.files[0].path), rebuilt, written_by=written_by(scene.dump),
            like=scene.properties, jobs=_jobs(chosen), careful=options.careful, progress=progress,
        )  # fmt: skip
        way_back.callback(drop_database, rebuilt)
        numbers["restore_seconds"] = round(done.seconds, 3)
        comparison = compare_database(rebuilt, scene.expected, jobs=_jobs(chosen), progress=progress)
        numbers |= {"compare_seconds": round(comparison.seconds, 3), "rows": comparison.rows}
        if comparison.findings:
            first = "; ".join(f"{f.subject} {f.problem}" for f in comparison.findings[:5])
            raise ValidationError(
                f"The rebuilt database differs from the backup in {len(comparison.findings)} things: {first}.",
                where=f"{chosen.plan_name}/{chosen.set_id} {chosen.source}",
                remedy="What was live is untouched and the copy was removed. Drill the set; use another one.",
            )
        state, told = keycloak.settle(rebuilt)
        warnings += told
        emergency, kept = "", ""
        if swapping and scene.properties is not None:
            if state is not None and (told_version := keycloak.version_warning(state, keycloak_state(target))):
                warnings.append(told_version)
            if not options.skip_emergency_backup:
                emergency = make_emergency_set(
                    chosen.site, chosen.plan_name, chosen.source, run_id=run_id, progress=progress
                )
            kept = side_name(target.database, BEFORE, now, facts.databases)
        if swapping:
            swap_began = time.monotonic()
            swap_in(target, name, kept)
            numbers["swap_seconds"] = round(time.monotonic() - swap_began, 3)
        way_back.pop_all()
    numbers["seconds"] = round(time.monotonic() - began, 3)
    progress(Progress("restore", done.data_bytes, done.data_bytes, finished=True))
    return _result(chosen, scene, now).model_copy(
        update={
            "emergency_set": emergency,
            "finished_at": utc_now(),
            "warnings": (*scene.plan.warnings, *warnings),
            "numbers": numbers,
            "undo": Undo(kind="database", live=target.database, kept=kept)
            if swapping
            else Undo(remedy=f"drop database {target.database} when it is not needed any more"),
        }
    )


def undo_database(chosen_target: PostgresTarget, result: RestoreResult, now: datetime) -> str:
    """Swap the database from before the restore back in; return the name that the restored one has now."""
    from backup_pipeline.restore.swap import UNDONE, swap_back

    with sole_restore(chosen_target):
        facts = server_facts(chosen_target)
        aside = side_name(chosen_target.database, UNDONE, now, facts.databases)
        if not result.undo.kept and chosen_target.database not in facts.databases:
            raise RefusedError(
                "The restored database is not there any more.", where=chosen_target.label, remedy="Nothing to undo."
            )
        swap_back(chosen_target, result.undo.kept, aside)
        return aside
