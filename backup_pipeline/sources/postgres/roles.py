"""Roles, memberships, grants and extensions of a database's server as `<source>_roles.json`, without passwords."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

from pydantic import ValidationError as PydanticError

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.errors import ValidationError
from backup_pipeline.model.catalog import RolesDocument
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.postgres.server.snapshot import Snapshot


def capture_roles(context: CaptureContext, snapshot: Snapshot, document: RolesDocument) -> ArtefactRecord:
    """Write the document and return its record, key (source, "roles")."""
    started = context.now()
    path = f"{context.source}_roles.json"
    with context.writer.create(path) as file:
        file.write(document.model_dump_json(indent=1).encode() + b"\n")
    return ArtefactRecord(
        key=(context.source, "roles"),
        source=context.source,
        kind=ArtefactKind.POSTGRES_ROLES,
        set_id=context.writer.draft.set_id,
        files=(context.writer.file_record(path, file),),
        source_label=snapshot.target.label,
        server_version=snapshot.server_version,
        started_at=started,
        finished_at=context.now(),
        details={
            "roles": len(document.roles),
            "needed": list(document.needed),
            "extensions": dict(document.extensions),
        },
    )


def roles_of(open_file: Callable[[str], BinaryIO], record: ArtefactRecord) -> RolesDocument:
    """Return the document of a roles artefact; ValidationError when it cannot be read."""
    path = record.files[0].path
    with open_file(path) as file:
        data = file.read()
    try:
        return RolesDocument.model_validate_json(data)
    except PydanticError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ValidationError(
            f"Not a document of roles: {'.'.join(map(str, first['loc']))}: {first['msg']}.",
            where=path,
            remedy="Use another set.",
        ) from None


def inspect_roles(open_file: Callable[[str], BinaryIO], record: ArtefactRecord) -> Iterator[Finding]:
    """Yield what is wrong with the document of a sealed set."""
    document = roles_of(open_file, record)
    expected = record.details.get("roles")
    if expected is not None and len(document.roles) != expected:
        yield Finding(
            subject=record.files[0].path, problem=f"holds {len(document.roles)} roles, the record says {expected}"
        )
