"""What a set recorded of a database beside its dump: catalog, roles, fingerprints, the version of pg_dump."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from pydantic import ValidationError as PydanticError

from backup_pipeline.artefacts.types import OpenFile
from backup_pipeline.errors import ValidationError
from backup_pipeline.model.base import Frozen
from backup_pipeline.model.catalog import Catalog, RolesDocument
from backup_pipeline.model.progress import ProgressSink, with_totals
from backup_pipeline.model.record import ArtefactRecord, ColumnRecord, Fingerprint
from backup_pipeline.postgres.compare.comparison import Expectation
from backup_pipeline.rules.scratch_server import Needs, needs_of

TableName = tuple[str, str]

Document = TypeVar("Document", bound=Frozen)


def fingerprints_of(record: ArtefactRecord) -> dict[TableName, Fingerprint]:
    """Return what a dump's record says of every table of its snapshot: (schema, table) → fingerprint."""
    listed = cast("list[dict[str, Any]]", record.details.get("tables") or [])
    return {
        (entry["schema"], entry["table"]): Fingerprint(
            algorithm=entry["algorithm"],
            server_major=entry["server_major"],
            value=entry["fingerprint"],
            rows=entry["rows"],
        )
        for entry in listed
    }


def large_objects_of(record: ArtefactRecord) -> Fingerprint | None:
    """Return count and hash of the large objects at the time of the dump; None when they could not be read."""
    found = record.details.get("large_objects")
    return None if found is None else Fingerprint.model_validate(found)


def catalog_of(open_file: OpenFile, record: ArtefactRecord) -> Catalog:
    """Return the catalog that was read in the dump's snapshot; ValidationError when it cannot be read."""
    return _parsed(open_file, str(record.details.get("catalog")), Catalog, "a catalog")


def catalog_if_recorded(open_file: OpenFile, record: ArtefactRecord) -> Catalog | None:
    """Return the catalog beside a dump; None beside an imported one, whose database nobody inspected."""
    return None if record.imported is not None else catalog_of(open_file, record)


def rows_in_dump(record: ArtefactRecord) -> dict[TableName, int]:
    """Return the rows that an imported dump has of each table: (schema, table) → rows."""
    listed = cast("list[dict[str, Any]]", record.details.get("rows_in_dump") or [])
    return {(entry["schema"], entry["table"]): int(entry["rows"]) for entry in listed}


def roles_of(open_file: OpenFile, record: ArtefactRecord) -> RolesDocument:
    """Return the document of a roles artefact; ValidationError when it cannot be read."""
    return _parsed(open_file, record.files[0].path, RolesDocument, "a document of roles")


def _parsed(open_file: OpenFile, path: str, model: type[Document], what: str) -> Document:
    with open_file(path) as file:
        data = file.read()
    try:
        return model.model_validate_json(data)
    except PydanticError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ValidationError(
            f"Not {what}: {'.'.join(map(str, first['loc']))}: {first['msg']}.", where=path, remedy="Use another set."
        ) from None


def expectation_of(open_file: OpenFile, dump: ArtefactRecord, roles: ArtefactRecord | None) -> Expectation:
    """Return what a set recorded of a database beside its dump."""
    return Expectation(
        catalog=catalog_if_recorded(open_file, dump),
        roles=roles_of(open_file, roles) if roles else None,
        fingerprints=fingerprints_of(dump),
        large_objects=large_objects_of(dump),
        written_by=written_by(dump),
        rows=rows_in_dump(dump),
    )


def progress_of_dump(sink: ProgressSink, dump: ArtefactRecord, expected: Expectation) -> ProgressSink:
    """Return a sink that knows how much loading or reading a dump is: bytes of its text, and its tables."""
    size = sum(file.content_size or 0 for file in dump.files)
    return with_totals(
        sink, {"restore": size or None, "read rows": size or None, "load tables": len(expected.fingerprints) or None}
    )


def written_by(dump: ArtefactRecord) -> int:
    """Return the major version of the pg_dump that wrote a dump; 0 when it was not recorded."""
    version = dump.tool.version if dump.tool else ""
    major = version.partition(".")[0]
    return int(major) if major.isdigit() else 0


def needs_of_dump(expected: Expectation, dump: ArtefactRecord) -> Needs:
    """Return what a recorded database needs of the server that it is restored into."""
    extensions = dict(expected.roles.extensions) if expected.roles else {}
    return needs_of(expected.catalog, extensions, written_by(dump))


def columns(open_file: OpenFile, dump: ArtefactRecord) -> dict[TableName, tuple[ColumnRecord, ...]]:
    """Return the columns of every table as the catalog beside the dump has them; empty when there is none."""
    catalog = catalog_if_recorded(open_file, dump) if dump.details.get("catalog") else None
    return {(table.schema_name, table.name): table.columns for table in catalog.tables} if catalog else {}


def primary_key(open_file: OpenFile, dump: ArtefactRecord, schema: str, table: str) -> tuple[str, ...]:
    """Return the columns of a table's primary key as the catalog beside the dump has it; empty when there is none."""
    catalog = catalog_if_recorded(open_file, dump)
    found = catalog.table(schema, table) if catalog else None
    return next((key.columns for key in found.keys if key.primary), ()) if found else ()
