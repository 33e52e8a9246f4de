"""Roles, memberships, grants and extensions of a database's server as `<source>_roles.json`, without passwords."""

from __future__ import annotations

from datetime import datetime

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.model.base import JsonValue
from backup_pipeline.model.catalog import RolesDocument
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.postgres.server.snapshot import Snapshot


def capture_roles(context: CaptureContext, snapshot: Snapshot, document: RolesDocument) -> ArtefactRecord:
    """Write the document and return its record, key (source, "roles")."""
    started = context.now()
    record = write_roles(
        context,
        document,
        started=started,
        label=snapshot.target.label,
        details={
            "roles": len(document.roles),
            "needed": list(document.needed),
            "extensions": dict(document.extensions),
        },
    )
    return record.model_copy(update={"server_version": snapshot.server_version})


def write_roles(
    context: CaptureContext, document: RolesDocument, *, started: datetime, label: str, details: dict[str, JsonValue]
) -> ArtefactRecord:
    """Write a document of roles, captured or of an imported dump, and return its record."""
    path = f"{context.source}_roles.json"
    with context.writer.create(path) as file:
        file.write(document.model_dump_json(indent=1).encode() + b"\n")
    return ArtefactRecord(
        key=(context.source, "roles"),
        source=context.source,
        kind=ArtefactKind.POSTGRES_ROLES,
        set_id=context.writer.draft.set_id,
        files=(context.writer.file_record(path, file),),
        source_label=label,
        started_at=started,
        finished_at=context.now(),
        details=details,
    )
