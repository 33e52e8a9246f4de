"""The whole database as one dump: `<source>_db.sql.gz` (or `.sql.zst`, `.sql`, `.dump`), and its catalog.

One pass: pg_dump's output is read for completeness, hashed, compressed, hashed again and written while it comes;
nothing is stored in between. `recorded` reads what a sealed dump says of itself, `inspect` its structure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, cast

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.model.base import JsonValue
from backup_pipeline.model.catalog import Catalog, CatalogTable
from backup_pipeline.model.file_name import name_from
from backup_pipeline.model.progress import Progress
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import (
    ArtefactKind,
    ArtefactRecord,
    CheckResult,
    FileRecord,
    Fingerprint,
    Severity,
    ToolRecord,
)
from backup_pipeline.postgres.catalog.keycloak_schema import KeycloakState
from backup_pipeline.postgres.catalog.restorability import restore_hazards
from backup_pipeline.postgres.export.archive_list import ArchiveReadBeside, archive_rows
from backup_pipeline.postgres.export.dump import dump_command, dumping
from backup_pipeline.postgres.export.dump_content import DumpContent
from backup_pipeline.postgres.server.clients import PostgresClient, choose_client
from backup_pipeline.postgres.server.snapshot import Snapshot
from backup_pipeline.rules.collapse import size_check
from backup_pipeline.rules.drift import keys_kept, object_drift
from backup_pipeline.rules.dump_limits import limits_of
from backup_pipeline.sources.postgres.dump_parts import MarkedParts, earlier_dump
from backup_pipeline.sources.postgres.inspect import missing_marks
from backup_pipeline.sources.postgres.settings import ENDINGS, PostgresSource
from backup_pipeline.system.stream_parts import EarlierStream, HashedSink, MarkedSink
from backup_pipeline.system.streams import Sink, finished

TableName = tuple[str, str]
Objects = dict[str, dict[str, str]]
_NAMED = 5
# The snapshot's session has the locks that pg_dump asks for: who keeps it waiting waits for that session himself, and
# others behind him. So all is given back soon, and tried anew.
_LOCK_SECONDS = 1.0


@dataclass
class WrittenDump:
    """What pg_dump gave: files, tool, rows of every table in it, marks of a whole dump that it lacks, and its parts."""

    files: list[FileRecord]
    tool: ToolRecord
    started: Any
    rows: dict[TableName, int]
    faults: list[str] = field(default_factory=list)
    parts: MarkedParts = field(default_factory=MarkedParts)


def dump_path(context: CaptureContext, settings: PostgresSource) -> str:
    """Return the dump's path in the set."""
    pattern = settings.file_name or f"{{source}}_db.{'sql' if settings.dump_format == 'plain' else 'dump'}"
    path = name_from(pattern, context.moment, source=context.source)
    return path + ENDINGS.get(settings.dump_compression, "") if path.endswith(".sql") else path


def _go_on() -> None:
    """Never ask to stop."""


def write_dump(
    context: CaptureContext,
    settings: PostgresSource,
    snapshot: Snapshot,
    read: Callable[[], Catalog],
    *,
    check: Callable[[], None] = _go_on,
    begun: Callable[[], None] = _go_on,
) -> WrittenDump:
    """Run pg_dump inside the snapshot and write its output and the catalog.

    `read` returns the catalog as soon as it is known; `check` raises when the work is to stop; `begun` is called when
    pg_dump has all its locks and writes.

    Raises:
        ToolError, UnreachableError: pg_dump failed; no dump file appears.
    """
    started = context.now()
    client = choose_client(snapshot.server_major)
    command = _command(client, snapshot, settings)
    path = dump_path(context, settings)
    writer = context.writer
    plain = settings.dump_format == "plain"
    content = DumpContent()
    name = f"{context.source}.dump"
    rows: dict[TableName, int] | None = None
    parts = MarkedParts()
    with dumping(command, snapshot.target) as stream, writer.create(path, stream=True) as file:
        pieces = _watched(stream.chunks(), check, begun)
        if plain:
            parts = _write_text(context, settings, pieces, file, content, read)
        else:
            beside = ArchiveReadBeside(file, path) if writer.streams else None
            with beside or contextlib.nullcontext():
                for piece in pieces:
                    (beside or file).write(piece)
                    context.progress(Progress(name, file.size, None))
            rows = beside.result if beside else None
    context.progress(Progress(name, content.size or file.size, content.size or file.size, finished=True))
    record = writer.file_record(path, file)
    if plain:
        record = record.model_copy(update={"content_sha256": content.content_sha256, "content_size": content.size})
    return WrittenDump(
        files=[record, _write_catalog(context, read())],
        tool=ToolRecord(name="pg_dump", version=client.version_text, warnings=stream.warnings),
        started=started,
        rows=dict(content.rows) if plain else _archived(context, path) if rows is None else rows,
        faults=missing_marks(content) if plain else [],
        parts=parts,
    )


def _watched(pieces: Iterator[bytes], check: Callable[[], None], begun: Callable[[], None]) -> Iterator[bytes]:
    for piece in pieces:
        begun()
        check()
        yield piece


def _write_text(
    context: CaptureContext,
    settings: PostgresSource,
    pieces: Iterator[bytes],
    file: HashedSink,
    content: DumpContent,
    read: Callable[[], Catalog],
) -> MarkedParts:
    """Write a plain dump, compressed as the settings say, with what is the same taken over; `content` follows it."""
    expected = 0
    with earlier_dump(context, settings) as earlier, _packed(file, content, settings, earlier) as sink:
        for piece in pieces:
            expected = expected or sum(table.bytes for table in read().tables) or 1
            sink.write(piece)
            context.progress(Progress(f"{context.source}.dump", content.size, max(expected, content.size)))
    content.finish()
    return MarkedParts.of(context, sink, earlier) if isinstance(sink, MarkedSink) else MarkedParts()


def _command(client: PostgresClient, snapshot: Snapshot, settings: PostgresSource) -> list[str | Path]:
    return dump_command(
        client,
        snapshot.target,
        snapshot=snapshot.id,
        encoding=snapshot.connection.info.parameter_status("server_encoding") or "UTF8",
        format=settings.dump_format,
        compressed=settings.dump_compression != "none",
        lock_timeout_seconds=min(_LOCK_SECONDS, settings.lock_timeout_seconds),
    )


@dataclass(frozen=True)
class _Followed:
    """Passes bytes on to their file and to the content that follows them."""

    file: Sink
    content: DumpContent

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Write all of `data`."""
        self.content.feed(bytes(data))
        return self.file.write(data)


def _packed(
    file: HashedSink, content: DumpContent, settings: PostgresSource, earlier: EarlierStream | None
) -> contextlib.AbstractContextManager[Sink]:
    if settings.dump_compression == "none":
        return contextlib.nullcontext(_Followed(file, content))
    return finished(MarkedSink(file, content, compression=settings.dump_compression, earlier=earlier))


def _archived(context: CaptureContext, path: str) -> dict[TableName, int]:
    with context.writer.open(path) as file:
        return archive_rows(file, path)


def _write_catalog(context: CaptureContext, catalog: Catalog) -> FileRecord:
    path = f"{context.source}_catalog.json"
    with context.writer.create(path) as file:
        file.write(catalog.model_dump_json().encode() + b"\n")
    return context.writer.file_record(path, file)


@dataclass(frozen=True)
class SnapshotFacts:
    """What was found out in the dump's snapshot.

    Attributes:
        catalog: of the database.
        fingerprints: of every table that the dump holds.
        large_objects: count and hash; None where they could not be read.
        foreign: labels of the foreign tables whose rows the settings ask for.
        keycloak: what a database of Keycloak says of itself; None for others.
        required: the check on required tables; None where the settings name none.
    """

    catalog: Catalog
    fingerprints: Mapping[TableName, Fingerprint]
    large_objects: Fingerprint | None
    foreign: Sequence[str] = ()
    keycloak: KeycloakState | None = None
    required: CheckResult | None = None

    def primary_keys(self) -> dict[str, list[str]]:
        """Return the columns of every table's primary key, by the table's label; empty where it has none."""
        tables = self.catalog.tables
        return {t.label: [*next((key.columns for key in t.keys if key.primary), ())] for t in tables}


def dump_record(
    context: CaptureContext, settings: PostgresSource, snapshot: Snapshot, written: WrittenDump, facts: SnapshotFacts
) -> ArtefactRecord:
    """Return the record of a dump, key (source, "dump"), with the fingerprints of every table that it holds."""
    objects, required = _object_digests(facts.catalog), facts.required
    return ArtefactRecord(
        key=(context.source, "dump"),
        source=context.source,
        kind=ArtefactKind.POSTGRES_DUMP,
        set_id=context.writer.draft.set_id,
        files=tuple(written.files),
        source_label=snapshot.target.label,
        server_version=snapshot.server_version,
        tool=written.tool,
        started_at=written.started,
        finished_at=context.now(),
        checks=(
            *_checks(context, settings, written, facts, objects),
            restorable_as_written(restore_hazards(snapshot.connection)),
            *([required] if required else []),
        ),
        facts={"tables": required.summary.partition(" ")[0] if required else str(len(facts.fingerprints))},
        details=_details(settings, snapshot, written, facts, objects),
    )


def _checks(
    context: CaptureContext, settings: PostgresSource, written: WrittenDump, facts: SnapshotFacts, objects: Objects
) -> Iterator[CheckResult]:
    """Yield the checks that need nothing but what was written, what is known, and the last set."""
    before = context.previous.record(context.source, "dump") if context.previous else None
    yield completeness(written, facts.catalog.tables, facts.fingerprints)
    yield size_check(
        *_sizes(written.files[0], before.files[0] if before else None),
        drop=settings.collapse.drop,
        severity=settings.collapse.severity,
    )
    yield object_drift(objects, cast(Any, before.details.get("objects")) if before else None)
    yield keys_kept(facts.primary_keys(), _keys_before(before), severity=context.grave(settings.lost_keys))
    yield no_foreign_tables(facts.foreign)
    yield nothing_beyond_pg_dump(limits_of(facts.catalog))
    yield from written.parts.checks()


def _details(
    settings: PostgresSource, snapshot: Snapshot, written: WrittenDump, facts: SnapshotFacts, objects: Objects
) -> dict[str, JsonValue]:
    details: dict[str, JsonValue] = {
        "format": settings.dump_format,
        "compression": settings.dump_compression if settings.dump_format == "plain" else settings.compression,
        **written.parts.details(),
        "snapshot": snapshot.id,
        "server_major": snapshot.server_major,
        "catalog": written.files[1].path,
        "tables": [
            {
                "schema": schema,
                "table": table,
                "rows": mark.rows,
                "fingerprint": mark.value,
                "algorithm": mark.algorithm,
                "server_major": mark.server_major,
            }
            for (schema, table), mark in sorted(facts.fingerprints.items())
        ],
        # Their rows are on another server: neither a dump nor an export holds them.
        "foreign_tables": [t.label for t in facts.catalog.tables if t.kind == "foreign"],
        "objects": cast(JsonValue, objects),
        "primary_keys": cast(JsonValue, facts.primary_keys()),
        "large_objects": None if facts.large_objects is None else facts.large_objects.model_dump(mode="json"),
    }
    if facts.keycloak is not None:
        details["keycloak"] = {"version": facts.keycloak.version, "last_change": facts.keycloak.last_change}
    return details


def _sizes(now: FileRecord, before: FileRecord | None) -> tuple[int, int | None]:
    """Return what to compare: the files' sizes, or those of their content where they are compressed differently."""
    if before is None:
        return now.size, None
    if PurePath(now.path).suffix != PurePath(before.path).suffix and now.content_size and before.content_size:
        return now.content_size, before.content_size
    return now.size, before.size


def _keys_before(before: ArtefactRecord | None) -> Mapping[str, Sequence[str]] | None:
    """Return the last set's primary keys; of a set of an earlier release by the names that PostgreSQL gives them."""
    if before is None:
        return None
    if isinstance(known := before.details.get("primary_keys"), dict):
        return cast(Mapping[str, Sequence[str]], known)
    objects = before.details.get("objects")
    names = objects.get("constraint", {}) if isinstance(objects, dict) else {}
    ending = "_pkey"
    return {
        name.rpartition(".")[0].replace('"', ""): [name.rpartition(".")[2]]
        for name in cast(Mapping[str, str], names)
        if name.removesuffix('"').endswith(ending)
    }


def _object_digests(catalog: Catalog) -> Objects:
    import hashlib

    def digests(texts: Mapping[str, str]) -> dict[str, str]:
        return {name: hashlib.sha256(text.encode()).hexdigest()[:8] for name, text in texts.items()}

    return {kind: digests(catalog.objects.get(kind, {})) for kind in (*catalog.kinds, *catalog.objects)}


def completeness(
    written: WrittenDump, tables: tuple[CatalogTable, ...], fingerprints: Mapping[TableName, Fingerprint]
) -> CheckResult:
    """Judge a dump: header, end marker, every table of the snapshot, and as many rows of each as the snapshot has."""
    wanted = [(t.schema_name, t.name) for t in tables if t.kind == "table"]
    rows = written.rows
    wrong: list[dict[str, JsonValue]] = [
        {"table": "", "problem": f"the {mark} is missing", "expected": None, "found": None} for mark in written.faults
    ]
    for name in wanted:
        expected = fingerprints[name].rows if name in fingerprints else None
        found = rows.get(name)
        if found is None:
            problem = "is missing"
        elif expected is not None and found != expected:
            problem = "has another number of rows"
        else:
            continue
        wrong.append({"table": ".".join(name), "problem": problem, "expected": expected, "found": found})
    total = sum(rows.values())
    summary = f"{len(wanted)} tables, {total} rows, header and end marker" if not wrong else f"{len(wrong)} problems"
    return CheckResult(
        name="dump_complete",
        passed=not wrong,
        summary=summary,
        table=tuple(wrong),
        numbers={"tables": len(wanted), "rows": total},
    )


def no_foreign_tables(labels: Sequence[str]) -> CheckResult:
    """Warn of foreign tables whose rows are asked for: they are on another server, and this set does not hold them."""
    return CheckResult(
        name="no_foreign_tables",
        passed=not labels,
        severity=Severity.WARN,
        summary=(
            f"The rows of {len(labels)} foreign tables are not in this set: {', '.join(labels[:_NAMED])}"
            f"{', …' if len(labels) > _NAMED else ''}. Remedy: back up the server that holds them as a source of its"
            " own, then name them in `tables.exclude`"
            if labels
            else "No foreign table is selected"
        ),
        table=tuple({"table": label, "problem": "its rows are on another server"} for label in labels),
        numbers={"foreign_tables": len(labels)},
    )


def nothing_beyond_pg_dump(limits: Sequence[Finding]) -> CheckResult:
    """Warn of what the database has that pg_dump cannot write: no restore will bring it back."""
    return _warning("nothing_beyond_pg_dump", limits, "limits", "pg_dump can write all of it")


def restorable_as_written(hazards: Sequence[Finding]) -> CheckResult:
    """Warn of objects whose restore depends on more than the dump says (see `catalog.restorability`)."""
    return _warning("restorable_as_written", hazards, "objects", "Nothing depends on more than the dump says")


def _warning(name: str, findings: Sequence[Finding], unit: str, fine: str) -> CheckResult:
    named = "; ".join(f"{one.subject} {one.problem}" for one in findings[:_NAMED])
    return CheckResult(
        name=name,
        passed=not findings,
        severity=Severity.WARN,
        summary=f"{named}{'; …' if len(findings) > _NAMED else ''}" if findings else fine,
        table=tuple({"object": one.subject, "problem": one.problem, "remedy": one.remedy} for one in findings),
        numbers={unit: len(findings)},
    )
