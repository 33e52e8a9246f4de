"""Copies of SQLite databases in sets: unpacked, inspected, compared with their records."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.errors import BackupSystemError, SourceError, ValidationError
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord, Fingerprint
from backup_pipeline.sqlite.application import structure_problems
from backup_pipeline.sqlite.columns import ALGORITHM, RowsFingerprint
from backup_pipeline.sqlite.database import opened, row_count, rows_of, tables_of, text_is_utf8
from backup_pipeline.system.streams import gunzip


def unpack_sqlite(open_file: Callable[[str], BinaryIO], record: ArtefactRecord, target: Path) -> None:
    """Write the database of a copy's record to `target`; ValidationError when it is not what was captured."""
    file = record.files[0]
    digest, size = hashlib.sha256(), 0
    with open_file(file.path) as packed, target.open("xb") as out:
        for piece in gunzip(packed, name=file.path):
            size += len(piece)
            if file.content_size is not None and size > file.content_size:
                raise ValidationError("Longer than the record says.", where=file.path, remedy="Use another set.")
            digest.update(piece)
            out.write(piece)
    if (size, digest.hexdigest()) != (file.content_size, file.content_sha256):
        raise ValidationError("The content is not what was captured.", where=file.path, remedy="Use another set.")


def inspect_sqlite(open_file: Callable[[str], BinaryIO], record: ArtefactRecord) -> Iterator[Finding]:
    """Yield what is wrong with a copy: it is unpacked into a temporary folder, checked and counted."""
    name = record.files[0].path
    with tempfile.TemporaryDirectory(prefix="sqlite-") as folder:
        copy = Path(folder) / "copy.sqlite"
        try:
            unpack_sqlite(open_file, record, copy)
            yield from inspect_copy(copy, record)
        except BackupSystemError as error:
            yield Finding(subject=name, problem=error.what, remedy=error.remedy)


def inspect_copy(database: Path, record: ArtefactRecord) -> Iterator[Finding]:
    """Yield what is wrong with an unpacked copy: its integrity, its tables, their row counts."""
    name = record.files[0].path
    with opened(database, immutable=True) as connection:
        problems = structure_problems(connection)
        for problem in problems:
            yield Finding(subject=name, problem=f"integrity_check: {problem}")
        if problems:
            return
        found = {table.name: row_count(connection, table.name) for table in tables_of(connection)}
    recorded = record.details.get("tables")
    wanted = dict(recorded) if isinstance(recorded, dict) else {}
    for table in sorted(found.keys() | wanted.keys()):
        if found.get(table) != wanted.get(table):
            problem = f"{found.get(table)} rows where the record says {wanted.get(table)}."
            yield Finding(subject=f"{name}: {table}", problem=problem)


def table_fingerprint(database: Path, table: str) -> Fingerprint:
    """Return the fingerprint of a table of a database that nobody writes; SourceError when it is not there."""
    with opened(database, immutable=True) as connection:
        known = next((each for each in tables_of(connection) if each.name == table), None)
        if known is None:
            raise SourceError("There is no such table.", where=f"{database}: {table}", remedy="")
        utf8 = text_is_utf8(connection, known)
    with opened(database, immutable=True, lenient=not utf8) as connection:
        total = RowsFingerprint()
        for row in rows_of(connection, known):
            total.add(row)
        return total.result()


def compare_sqlite(database: Path, records: Iterable[ArtefactRecord]) -> Iterator[Finding]:
    """Compare a restored database (that nobody writes yet) with the records of its source, table by table."""
    for record in records:
        if record.kind is ArtefactKind.SQLITE_COPY:
            yield from inspect_copy(database, record)
        elif record.fingerprint is not None and record.fingerprint.algorithm == ALGORITHM:
            try:
                found = table_fingerprint(database, record.key[-1])
            except SourceError as error:
                yield Finding(subject=record.name, problem=error.what)
                continue
            if found != record.fingerprint:
                yield Finding(subject=record.name, problem="The restored rows are not the captured ones.")
