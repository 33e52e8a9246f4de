"""Records of imported dumps: what the dump says of itself, and nothing that its source would have had to say.

Nobody was at the database when it was made: there is no catalog, and there are no fingerprints. The rows of each table
are counted in the dump; roles and extensions are those that its statements name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.errors import ValidationError
from backup_pipeline.model.base import JsonValue
from backup_pipeline.model.catalog import RoleEntry, RolesDocument
from backup_pipeline.model.progress import Progress
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord, CheckResult, FileRecord, ToolRecord
from backup_pipeline.postgres.export.foreign_dump import (
    DumpForm,
    ForeignDump,
    dump_text,
    read_dump,
    unpacked,
)
from backup_pipeline.postgres.load.as_restored import as_restored
from backup_pipeline.sources.kind import BackupToImport
from backup_pipeline.sources.postgres.imported_server import server_roles
from backup_pipeline.sources.postgres.roles import write_roles
from backup_pipeline.system.files import open_ordinary, read_chunks
from backup_pipeline.system.streams import compressed_sink

_UNKNOWN = (
    "no fingerprints were taken at the source: rows are counted in the dump",
    "no catalog was read at the source: objects are not compared after a restore",
    "whether it is complete is judged by the dump's own end marker",
)
_INSERTS = "rows are written as INSERT statements, which are not counted"
_CREATE = "the statements that make its database (--create) were skipped"
_CLEAN = "the statements that drop what was there before (--clean) were skipped"
_ENDINGS = {DumpForm.PLAIN: "_db.sql", DumpForm.GZIP: "_db.sql.gz", DumpForm.ZSTD: "_db.sql.zst"}
_CUSTOM = (DumpForm.CUSTOM, DumpForm.PACKED_CUSTOM)
_SPLIT = "its dump was split off a dump of the whole server (pg_dumpall)"


@dataclass(frozen=True)
class _DumpFile:
    path: Path
    form: DumpForm
    label: str
    origin: Mapping[str, JsonValue]
    part: str
    server_roles: tuple[RoleEntry, ...]

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"database {self.part}" if self.part else self.path.name


def import_dump(context: CaptureContext, backup: BackupToImport) -> list[ArtefactRecord]:
    """Copy a dump into a set that is being written, and store its records: the dump, and roles that it names.

    Raises:
        ValidationError: damaged, cut short, of a whole server, or of a form that cannot be restored here.
    """
    started = context.now()
    form = DumpForm.GZIP if backup.part else DumpForm(backup.form)
    roles = server_roles(backup.beside) if backup.beside else ()
    dump = _DumpFile(backup.path, form, backup.label, backup.origin, backup.part, roles)
    with dump_text(dump.path, dump.form) as pieces:
        content = read_dump(pieces, dump.name)
    if len(content.goes_to) > 1 and not dump.part:
        raise ValidationError(
            "The dump goes to several databases.", where=dump.name, remedy="Dump each database by itself."
        )
    file = _copied(context, dump, content)
    record = _dump_record(context, dump, content, file, started)
    records = [record, _roles_record(context, dump, content, started)]
    for each in records:
        context.writer.write_record(each)
    return records


def _is_adapted(content: ForeignDump) -> bool:
    return bool(content.goes_to) or content.drops


def _is_converted(dump: _DumpFile, content: ForeignDump) -> bool:
    """Return whether the set holds the SQL that the backup means, instead of its own file."""
    return dump.form in (DumpForm.DIRECTORY, DumpForm.TAR) or (dump.form.is_text and _is_adapted(content))


def _copied(context: CaptureContext, dump: _DumpFile, content: ForeignDump) -> FileRecord:
    """Write the dump's file: as it is where a restore reads it so, else the SQL that it means."""
    converted = _is_converted(dump, content)
    ending = "_db.sql.gz" if converted else "_db.dump" if dump.form in _CUSTOM else _ENDINGS[dump.form]
    path = f"{context.source}{ending}"
    kept = ForeignDump()
    with context.writer.create(path) as file:
        if converted:
            text = dump_text(dump.path, dump.form)
            with compressed_sink(file, compression="gzip", hashed=False) as sink, text as pieces:
                for piece in as_restored(pieces, dump.name) if _is_adapted(content) else pieces:
                    kept.feed(piece)
                    sink.write(piece)
                    context.progress(Progress(dump.name, file.size))
            kept.finish()
        else:
            with open_ordinary(dump.path) as source:
                for piece in unpacked(dump.path) if dump.form is DumpForm.PACKED_CUSTOM else read_chunks(source):
                    file.write(piece)
                    context.progress(Progress(dump.name, file.size))
    context.progress(Progress(dump.name, file.size, finished=True))
    record = context.writer.file_record(path, file)
    copied = not converted and dump.form is not DumpForm.PACKED_CUSTOM and not dump.part
    if (copied and record.sha256 != dump.origin.get("sha256")) or (converted and kept.rows != content.rows):
        raise ValidationError("It changed while it was read.", where=dump.name, remedy="Import it again.")
    if dump.form in _CUSTOM:
        return record
    text_of = kept if converted else content
    return record.model_copy(update={"content_sha256": text_of.content_sha256, "content_size": text_of.size})


def _dump_record(
    context: CaptureContext, dump: _DumpFile, content: ForeignDump, file: FileRecord, started: datetime
) -> ArtefactRecord:
    custom = dump.form in _CUSTOM
    compression = "gzip" if _is_converted(dump, content) else str(dump.form)
    unknown = [*_UNKNOWN, *([_INSERTS] if content.inserts else []), *([_CREATE] if content.goes_to else [])]
    unknown += [_SPLIT] if dump.part else []
    unknown += [_CLEAN] if content.drops and _is_converted(dump, content) else []
    rows = sum(content.rows.values())
    tool = f"pg_dump {content.tool_version}" if content.tool_version else "an unknown tool"
    details: dict[str, JsonValue] = {
        "format": "custom" if custom else "plain",
        "compression": None if custom else {"plain": "none"}.get(compression, compression),
        "rows_in_dump": [
            {"schema": schema, "table": table, "rows": count} for (schema, table), count in sorted(content.rows.items())
        ],
        "imported": {
            **dump.origin,
            "form": str(dump.origin.get("form", dump.form)),
            "made_by": tool,
            "unknown": list(unknown),
        },
    }
    return ArtefactRecord(
        key=(context.source, "dump"),
        source=context.source,
        kind=ArtefactKind.POSTGRES_DUMP,
        set_id=context.writer.draft.set_id,
        files=(file,),
        source_label=dump.label,
        server_version=content.server_version or None,
        tool=ToolRecord(name="pg_dump", version=content.tool_version) if content.tool_version else None,
        started_at=started,
        finished_at=context.now(),
        checks=(
            CheckResult(
                name="dump_complete",
                passed=True,
                summary=f"{len(content.rows)} tables, {rows} rows, header and end marker; imported, so not compared",
                numbers={"tables": len(content.rows), "rows": rows},
            ),
        ),
        facts={"imported": tool, "tables": str(len(content.rows))},
        details=details,
    )


def _roles_record(context: CaptureContext, dump: _DumpFile, content: ForeignDump, started: datetime) -> ArtefactRecord:
    document = RolesDocument(
        server_version=content.server_version,
        roles=dump.server_roles,
        needed=tuple(sorted(content.roles)),
        grants={},
        extensions=dict.fromkeys(sorted(content.extensions), ""),
    )
    details: dict[str, JsonValue] = {
        "roles": len(dump.server_roles),
        "imported": {
            **dump.origin,
            "unknown": [
                "roles are those of the server's dump, without passwords; tablespaces are not captured"
                if dump.part
                else "roles are those that the dump names"
            ],
        },
    }
    return write_roles(context, document, started=started, label=dump.label, details=details)
