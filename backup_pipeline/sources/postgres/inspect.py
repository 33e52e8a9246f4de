"""Structural inspection of a sealed dump and of the roles beside it; sizes and digests were compared before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

from backup_pipeline.artefacts.types import OpenFile
from backup_pipeline.model.catalog import Catalog
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.postgres.export.archive_list import archive_rows
from backup_pipeline.postgres.export.dump_content import DumpContent
from backup_pipeline.sources.postgres.recorded import (
    TableName,
    catalog_if_recorded,
    fingerprints_of,
    roles_of,
    rows_in_dump,
)
from backup_pipeline.system.files import read_chunks
from backup_pipeline.system.streams import gunzip, unzstd

_MARKS = ("header", "end marker")


def _as_it_is(stream: BinaryIO, *, name: str) -> Iterator[bytes]:
    return read_chunks(stream)


_READ: Mapping[str, Callable[..., Iterator[bytes]]] = {"none": _as_it_is, "zstd": unzstd}


def missing_marks(content: DumpContent) -> list[str]:
    """Return the marks of a whole dump that its content lacks."""
    return [mark for mark, there in zip(_MARKS, (content.header, content.complete), strict=True) if not there]


def is_archive(record: ArtefactRecord) -> bool:
    """Return whether a dump is in pg_dump's custom format."""
    return record.details.get("format") == "custom"


def inspect_dump(open_file: OpenFile, record: ArtefactRecord) -> Iterator[Finding]:
    """Yield what is wrong with a sealed dump: gzip to its end, header, end marker, every table's rows, content hash."""
    file = record.files[0]
    if is_archive(record):
        with open_file(file.path) as stream:
            rows = archive_rows(stream, file.path)
        yield from _row_findings(file.path, rows, catalog_if_recorded(open_file, record), record)
        return
    content = DumpContent()
    # Sets of earlier releases do not say it: they are all gzip.
    read = _READ.get(str(record.details.get("compression")), gunzip)
    with open_file(file.path) as stream:
        for piece in read(stream, name=file.path):
            content.feed(piece)
    yield from content_findings(open_file, record, content)


def content_findings(open_file: OpenFile, record: ArtefactRecord, content: DumpContent) -> Iterator[Finding]:
    """Yield what is wrong with a dump of which `content` has taken every piece."""
    file = record.files[0]
    content.finish()
    for mark in missing_marks(content):
        yield Finding(subject=file.path, problem=f"the {mark} is missing")
    if file.content_sha256 not in (None, content.content_sha256):
        yield Finding(subject=file.path, problem="its content is not what was written")
    yield from _row_findings(file.path, content.rows, catalog_if_recorded(open_file, record), record)


def _row_findings(
    path: str, rows: Mapping[TableName, int], catalog: Catalog | None, record: ArtefactRecord
) -> Iterator[Finding]:
    if catalog is None:
        if dict(rows) != rows_in_dump(record):
            yield Finding(subject=path, problem="has other tables or numbers of rows than when it was imported")
        return
    expected = fingerprints_of(record)
    for table in catalog.tables:
        if table.kind != "table":
            continue
        name = (table.schema_name, table.name)
        found = rows.get(name)
        if found is None:
            yield Finding(subject=path, problem=f"lacks the table {table.label}")
        elif name in expected and found != expected[name].rows:
            yield Finding(
                subject=path, problem=f"has {found} rows of {table.label}, the record says {expected[name].rows}"
            )


def inspect_roles(open_file: OpenFile, record: ArtefactRecord) -> Iterator[Finding]:
    """Yield what is wrong with the document of a sealed set."""
    document = roles_of(open_file, record)
    expected = record.details.get("roles")
    if expected is not None and len(document.roles) != expected:
        yield Finding(
            subject=record.files[0].path, problem=f"holds {len(document.roles)} roles, the record says {expected}"
        )
