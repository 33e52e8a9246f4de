"""SQLite databases: a consistent copy under a writing application, and its tables.

Writes `<source>_db.sqlite.gz` and `tables/<source>/main.<table>.parquet` (`.jsonl.gz`, `.csv.gz` where asked for). The
tables are read from the copy, so that all artefacts show one moment. Virtual tables are in the copy and not exported.
What only the application can read (its own collations and functions in indexes and generated columns) is in the copy,
not checked, and named.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.artefacts.required_tables import required_check
from backup_pipeline.artefacts.sqlite_copy import inspect_sqlite
from backup_pipeline.errors import SourceError
from backup_pipeline.model.base import JsonValue
from backup_pipeline.model.progress import Progress
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord, CheckResult, FileRecord, Severity, ToolRecord
from backup_pipeline.rules.collapse import size_check
from backup_pipeline.rules.drift import keys_kept, object_drift
from backup_pipeline.settings.types import TableSelection
from backup_pipeline.sources.sqlite.settings import SqliteSource
from backup_pipeline.sources.sqlite.tables import SCHEMA, SqliteTableExport
from backup_pipeline.sqlite.application import application_of
from backup_pipeline.sqlite.database import (
    SqliteTable,
    copy_online,
    foreign_key_violations,
    objects_of,
    opened,
    row_count,
    tables_of,
    text_is_utf8,
)
from backup_pipeline.system.streams import CHUNK, compressed_sink
from backup_pipeline.tables.file_stems import file_stems


def capture_sqlite(context: CaptureContext, settings: SqliteSource) -> Iterator[ArtefactRecord]:
    """Capture a database; yields the copy, key (source, "copy"), then each table, key (source, "main", table).

    Raises:
        SourceError: missing, no database, damaged beyond reading, or a required table is missing.
        UnreachableError: locked for longer than a minute.
    """
    started_at = context.now()
    with context.writer.scratch() as folder:
        copy = folder / "copy.sqlite"
        copy_online(settings.path, copy)
        with _naming(settings.path, copy), opened(copy, immutable=True) as connection:
            tables = tables_of(connection)
            required = _require(settings, tables)
            record = _capture_copy(context, settings, copy, connection, tables)
            if required:
                facts = {"tables": required.summary.partition(" ")[0]}
                record = record.model_copy(update={"checks": (*record.checks, required), "facts": facts})
            record = record.model_copy(update={"started_at": started_at, "finished_at": context.now()})
            context.writer.write_record(record)
            yield record
        selected_tables = [table for table in tables if _selected(settings.tables, f"{SCHEMA}.{table.name}")]
        stems = file_stems(context.source, [(SCHEMA, table.name) for table in selected_tables])
        for table in selected_tables:
            stem = stems[SCHEMA, table.name]
            place = f"{settings.path}: table {table.name}"
            with _naming(place, copy), opened(copy, immutable=True) as connection:
                utf8 = text_is_utf8(connection, table)
            with _naming(place, copy), opened(copy, immutable=True, lenient=not utf8) as connection:
                export = SqliteTableExport(context, settings, connection, table, stem, utf8)
                record = export.run()
            context.writer.write_record(record)
            yield record


@contextlib.contextmanager
def _naming(place: Path | str, copy: Path) -> Iterator[None]:
    """Let errors of the private copy name what a person knows: the database."""
    try:
        yield
    except SourceError as error:
        if error.where != str(copy):
            raise
        raise SourceError(error.what, where=str(place), remedy=error.remedy) from error


def _selected(selection: TableSelection, label: str) -> bool:
    return any(fnmatchcase(label, pattern) for pattern in selection.include) and not any(
        fnmatchcase(label, pattern) for pattern in selection.exclude
    )


def _require(settings: SqliteSource, tables: list[SqliteTable]) -> CheckResult | None:
    """Return the check on the required tables; SourceError where one is missing and the settings call it an error."""
    known = {table.name.casefold() for table in tables}
    wanted = {name: name.removeprefix(f"{SCHEMA}.").casefold() for name in settings.required_tables}
    missing = [name for name, bare in wanted.items() if bare not in known]
    if missing and settings.missing_tables == "error":
        raise SourceError(
            f"Required tables are missing: {', '.join(missing)}.",
            where=str(settings.path),
            remedy="Name the right database, correct `required_tables`, or set `missing_tables: warning`.",
        )
    return required_check(settings.required_tables, missing)


def _capture_copy(
    context: CaptureContext,
    settings: SqliteSource,
    copy: Path,
    connection: sqlite3.Connection,
    tables: list[SqliteTable],
) -> ArtefactRecord:
    written = _written(context, copy)
    record = ArtefactRecord(
        key=(context.source, "copy"),
        source=context.source,
        kind=ArtefactKind.SQLITE_COPY,
        set_id=context.writer.draft.set_id,
        files=(written,),
        source_label=str(settings.path),
        server_version=f"SQLite {sqlite3.sqlite_version}",
        tool=ToolRecord(name="sqlite3", version=sqlite3.sqlite_version),
        started_at=context.now(),
        finished_at=context.now(),
        details=_details(connection, tables),
    )
    return record.model_copy(update={"checks": tuple(_checks(context, settings, record, connection))})


def _written(context: CaptureContext, copy: Path) -> FileRecord:
    """Write the copy into the set, compressed."""
    path = f"{context.source}_db.sqlite.gz"
    size = copy.stat().st_size
    with context.writer.create(path) as file, compressed_sink(file) as sink, copy.open("rb") as content:
        while piece := content.read(CHUNK):
            sink.write(piece)
            context.progress(Progress(f"{context.source} copy", sink.size, size))
    context.progress(Progress(f"{context.source} copy", size, size, finished=True))
    written = context.writer.file_record(path, file)
    return written.model_copy(update={"content_sha256": sink.content_sha256, "content_size": sink.size})


def _details(connection: sqlite3.Connection, tables: list[SqliteTable]) -> dict[str, JsonValue]:
    not_checked = application_of(connection).described()
    objects: dict[str, JsonValue] = {
        kind: {name: hashlib.sha256(sql.encode("utf-8", "surrogateescape")).hexdigest() for name, sql in each.items()}
        for kind, each in objects_of(connection).items()
    }
    return {
        "tables": {table.name: row_count(connection, table.name) for table in tables},
        "objects": objects,
        "primary_keys": {table.name: [*_primary_key(connection, table.name)] for table in tables},
        "user_version": _pragma(connection, "user_version"),
        "application_id": _pragma(connection, "application_id"),
        "page_size": _pragma(connection, "page_size"),
        "encoding": _pragma(connection, "encoding"),
        **({"application": not_checked} if not_checked else {}),
    }


def _checks(
    context: CaptureContext, settings: SqliteSource, record: ArtefactRecord, connection: sqlite3.Connection
) -> Iterator[CheckResult]:
    before = context.previous.record(*record.key) if context.previous else None
    earlier, written = before.details if before else {}, record.files[0]
    problems = tuple(inspect_sqlite(context.writer.open, record))
    sound = f"The copy was unpacked again and is sound. {record.details.get('application', '')}".strip()
    yield CheckResult(
        name="integrity_check",
        passed=not problems,
        summary=problems[0].problem if problems else sound,
        table=tuple({"file": each.subject, "problem": each.problem} for each in problems),
        numbers={"bytes": written.content_size or 0},
    )
    yield _references(connection)
    yield size_check(
        written.size,
        before.size if before else None,
        drop=settings.collapse.drop,
        severity=settings.collapse.severity,
    )
    yield object_drift(_mapping(record.details, "objects") or {}, _mapping(earlier, "objects"))
    keys = _mapping(record.details, "primary_keys") or {}
    yield keys_kept(keys, _mapping(earlier, "primary_keys"), severity=context.grave(settings.lost_keys))


def _mapping(details: Mapping[str, JsonValue], name: str) -> Any:
    """Return a mapping from a record's details; None where a set of an earlier release does not have it."""
    found = details.get(name)
    return found if isinstance(found, dict) else None


def _primary_key(connection: sqlite3.Connection, table: str) -> tuple[str, ...]:
    rows = connection.execute("SELECT name, pk FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", (table,))
    return tuple(str(name) for name, _ in rows)


def _pragma(connection: sqlite3.Connection, name: str) -> JsonValue:
    found: JsonValue = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return found


def _references(connection: sqlite3.Connection) -> CheckResult:
    try:
        violations = foreign_key_violations(connection)
    except sqlite3.Error as error:
        # Such as "foreign key mismatch": the declaration itself is wrong.
        return CheckResult(
            name="foreign_key_check", passed=False, severity=Severity.WARN, summary=f"Could not be checked: {error}"
        )
    return CheckResult(
        name="foreign_key_check",
        passed=not violations,
        severity=Severity.WARN,
        summary=f"{sum(violations.values())} rows refer to rows that are not there.",
        table=tuple({"table": name, "rows": count} for name, count in violations.items()),
        numbers={"violations": sum(violations.values())},
    )
