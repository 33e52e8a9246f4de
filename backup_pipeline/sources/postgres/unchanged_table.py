"""Taking over the export of a table that has not changed since the last verified set, instead of writing it anew.

The same rows, written with the same values, in the same columns, under the same settings, checks and layout. The files
are copied, hashed on the way and held against their record: the set stays independent, and a file that is damaged
there is never taken over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from backup_pipeline.artefacts.capture import CaptureContext, EarlierSet
from backup_pipeline.artefacts.table_validation import TableValidation
from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.base import JsonValue
from backup_pipeline.model.catalog import CatalogTable
from backup_pipeline.model.record import ArtefactRecord, CheckResult, ColumnRecord, FileRecord, Severity
from backup_pipeline.postgres.export.mark import TableMark, TableRows
from backup_pipeline.system.files import read_chunks
from backup_pipeline.tables.parquet import LAYOUT
from backup_pipeline.tables.schemas import schema_texts
from backup_pipeline.tables.table_schema import CHECK_NAME

BASIS = "export_basis"
TEXT_FORMS = "text_forms"
REUSED_FROM = "reused_from"
# These compare with another set, and are made anew.
_OF_THE_LAST_SET = ("row_count_not_collapsed", "no_schema_drift", "earlier_export_is_whole")
_KEPT_DETAILS = ("stored_as_text", "stored_as_bytes", "foreign_partitions")


def export_basis(
    context: CaptureContext, table: CatalogTable, read: TableRows, formats: Sequence[str], encoding: str
) -> str:
    """Return a digest of all that decides an export beside the rows; "" where that cannot be said."""
    texts = schema_texts(context.schemas, context.source, table.schema_name, table.name)
    if texts is None:
        return ""
    known = [
        LAYOUT,
        list(formats),
        encoding,
        [(c.name, c.type, c.base_type, c.nullable, c.generated) for c in read.columns],
        [(leaf.schema, leaf.name, leaf.foreign) for leaf in read.leaves or ()],
        [repr(key) for key in table.keys],
        [repr(key) for key in table.foreign_keys],
        list(table.other_unique),
        texts,
    ]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


@dataclass(frozen=True)
class TakenOver:
    """What was taken over: files, their checks, and what the record says of them."""

    files: list[FileRecord]
    checks: list[CheckResult]
    details: dict[str, JsonValue]


@dataclass(frozen=True)
class UnchangedTable:
    """The earlier export of a table, as long as it may be the present one.

    Attributes:
        earlier: the set that it is in.
        record: of the export there.
    """

    earlier: EarlierSet
    record: ArtefactRecord

    @classmethod
    def known(cls, context: CaptureContext, key: tuple[str, ...], basis: str) -> UnchangedTable | None:
        """Return the export of the last verified set when only its rows are still to be compared, else None."""
        record = context.verified.manifest.record(*key) if context.verified is not None else None
        if context.verified is None or record is None or not basis or record.details.get(BASIS) != basis:
            return None
        held = all(check.passed or check.name in _OF_THE_LAST_SET for check in record.checks)
        return cls(context.verified, record) if held else None

    def holds(self, mark: TableMark, columns: Sequence[ColumnRecord]) -> bool:
        """Return whether the table is as it was exported."""
        record = self.record
        return (
            record.fingerprint == mark.fingerprint
            and record.columns == tuple(columns)
            and record.details.get(TEXT_FORMS) == mark.text_forms
        )

    def take_over(
        self, context: CaptureContext, stem: str, suffixes: Sequence[str], validation: TableValidation
    ) -> TakenOver | CheckResult:
        """Copy the files; return a warning in their place where one of them is not what was sealed.

        Args:
            context: the set that is written.
            stem: path of the files there, without suffix.
            suffixes: of each file that is wanted.
            validation: with what the server was asked anew.
        """
        files = []
        for suffix in suffixes:
            file = next((one for one in self.record.files if one.path.endswith(suffix)), None)
            copied = _copied(context, self.earlier, file, stem + suffix) if file is not None else None
            if copied is None:
                return self._damaged()
            files.append(copied)
        set_id = self.record.set_id
        since = f"unchanged since {set_id}, whose file was read and hashed"
        checks = [
            check.model_copy(update={"summary": f"{check.summary}; {since}"})
            for check in self.record.checks
            if check.name not in (*_OF_THE_LAST_SET, CHECK_NAME)
        ]
        checks.append(validation.unchanged(self.record.rows or 0))
        details = {name: self.record.details[name] for name in _KEPT_DETAILS if name in self.record.details}
        return TakenOver(files, checks, {**details, REUSED_FROM: set_id})

    def _damaged(self) -> CheckResult:
        return CheckResult(
            name="earlier_export_is_whole",
            passed=False,
            severity=Severity.WARN,
            summary=f"The export in set {self.record.set_id} is missing or not what was sealed, so the table was "
            f"exported anew. Remedy: backup-pipeline verify {self.record.set_id}",
        )


def _copied(context: CaptureContext, earlier: EarlierSet, file: FileRecord, path: str) -> FileRecord | None:
    """Copy a file of the earlier set into the present one; None, and no file, where it is not what was sealed."""
    try:
        with earlier.open(file.path) as source, context.writer.create(path) as copy:
            for piece in read_chunks(source):
                copy.write(piece)
            if (copy.size, copy.sha256) != (file.size, file.sha256):
                raise _NotSealedError
    except (_NotSealedError, BackupSystemError, OSError):
        # Whatever keeps the earlier file from being read, the table itself is there.
        return None
    content = {"content_sha256": file.content_sha256, "content_size": file.content_size}
    return context.writer.file_record(path, copy).model_copy(update=content)


class _NotSealedError(Exception):
    """The file is not what its record says."""
