"""One table of a SQLite database as Parquet, and as JSON lines or CSV where asked for; read back and compared.

JSON lines: one object per row; a blob is `{"$blob": "<base64>"}`, text that is not UTF-8 `{"$text": "<base64>"}`,
infinity `{"$real": "inf"}`. CSV: a header, every text quoted, NULL nothing at all, a blob `X'<hex>'` unquoted.
How values stand in Parquet, and the fingerprint: `sqlite.columns`. The tables are read from the set's own copy, never
from the live file.
"""

from __future__ import annotations

import base64
import json
import math
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.artefacts.table_validation import TableValidation
from backup_pipeline.model.catalog import CatalogTable, TableKey
from backup_pipeline.model.progress import Progress
from backup_pipeline.model.record import (
    ArtefactKind,
    ArtefactRecord,
    CheckResult,
    ColumnRecord,
    FileRecord,
    Fingerprint,
)
from backup_pipeline.rules.collapse import row_count_check
from backup_pipeline.rules.drift import column_drift
from backup_pipeline.sources.sqlite.settings import SqliteSource
from backup_pipeline.sqlite.columns import (
    RowsFingerprint,
    StoredColumn,
    batches,
    from_table,
    storage_of,
    to_table,
)
from backup_pipeline.sqlite.database import Row, SqliteTable, Value, rows_of, storage_classes
from backup_pipeline.system.streams import compressed_sink
from backup_pipeline.tables.json_array import json_array
from backup_pipeline.tables.parquet import ParquetSink, ParquetTable, RowGroups, SeekableOutput

SCHEMA = "main"
_SUFFIX = {"parquet": ".parquet", "jsonl": ".jsonl.gz", "json": ".json", "csv": ".csv.gz"}


@dataclass(frozen=True)
class SqliteTableExport:
    """What is needed to export one table.

    Attributes:
        connection: to the set's private copy.
        stem: path of its files without suffix.
        utf8: False when a text of this table is not UTF-8; such texts are then kept as bytes.
    """

    context: CaptureContext
    settings: SqliteSource
    connection: sqlite3.Connection
    table: SqliteTable
    stem: str
    utf8: bool

    @property
    def key(self) -> tuple[str, ...]:
        """The artefact's key."""
        return (self.context.source, SCHEMA, self.table.name)

    def run(self) -> ArtefactRecord:
        """Write the files asked for, read the Parquet file again, compare, and return the record with its checks."""
        started = self.context.now()
        classes = storage_classes(self.connection, self.table)
        columns = [
            StoredColumn(column, storage_of(column, found, utf8=self.utf8))
            for column, found in zip(self.table.columns, classes, strict=True)
        ]
        files: list[FileRecord] = []
        checks: list[CheckResult] = []
        prints: list[Fingerprint] = []
        if "parquet" not in self.settings.tables.formats:
            checks.append(self._validated_alone(columns))
        for form in dict.fromkeys(self.settings.tables.formats):
            path = self.stem + _SUFFIX[form]
            if form == "parquet":
                file, fingerprint = self._write_parquet(path, columns)
                with self.context.writer.open(path) as written:
                    checks += self._compare(written, path, columns, fingerprint)
            else:
                file, fingerprint = self._write_text(path, form)
            files.append(file)
            prints.append(fingerprint)
        records = tuple(
            ColumnRecord(name=c.name, type=c.declared, nullable=c.nullable, generated=c.generated)
            for c in self.table.columns
        )
        fingerprint = prints[0]
        before = self.context.previous.record(*self.key) if self.context.previous else None
        collapse = self.settings.collapse
        checks += [
            row_count_check(
                fingerprint.rows,
                before.rows if before else None,
                drop=collapse.drop,
                minimum_rows=collapse.minimum_rows,
                severity=collapse.severity,
            ),
            column_drift(records, before.columns if before else None),
        ]
        return ArtefactRecord(
            key=self.key,
            source=self.context.source,
            kind=ArtefactKind.TABLE_EXPORT,
            set_id=self.context.writer.draft.set_id,
            files=tuple(files),
            rows=fingerprint.rows,
            fingerprint=fingerprint,
            columns=records,
            source_label=str(self.settings.path),
            server_version=f"SQLite {sqlite3.sqlite_version}",
            started_at=started,
            finished_at=self.context.now(),
            checks=tuple(checks),
            details={
                "keys": [column.name for column in self.table.columns if column.key],
                "mixed_columns": [column.column.name for column in columns if column.storage == "mixed"],
            },
        )

    def _write_parquet(self, path: str, columns: list[StoredColumn]) -> tuple[FileRecord, Fingerprint]:
        with self.context.writer.create(path) as file:
            fingerprint = self._fill(file, columns)
        self._report(fingerprint.rows, finished=True)
        return self.context.writer.file_record(path, file), fingerprint

    def _fill(self, file: SeekableOutput, columns: list[StoredColumn]) -> Fingerprint:
        schema = pa.schema([column.field for column in columns])
        fingerprint = RowsFingerprint()
        sink = ParquetSink(file, schema)
        try:
            groups = RowGroups(sink)
            for batch in batches(rows_of(self.connection, self.table), fingerprint):
                groups.add(to_table(batch, columns, schema))
                self._report(fingerprint.rows)
            groups.finish()
        finally:
            sink.close()
        return fingerprint.result()

    def _validated_alone(self, columns: list[StoredColumn]) -> CheckResult:
        """Hold the rows against the schema where no Parquet file is asked for: through one that is not kept."""
        with self.context.writer.scratch() as folder:
            path = folder / "validated.parquet"
            with path.open("wb") as file:
                fingerprint = self._fill(file, columns)
            with path.open("rb") as read:
                _, validated = self._compare(read, path.name, columns, fingerprint)
        return validated

    def _report(self, rows: int, *, finished: bool = False) -> None:
        self.context.progress(Progress(".".join(self.key), rows, None, "rows", finished=finished))

    def _compare(
        self, file: BinaryIO, path: str, columns: list[StoredColumn], expected: Fingerprint
    ) -> tuple[CheckResult, CheckResult]:
        """Read the file back: its rows give the fingerprint of the copy's rows, and hold against the schema."""
        read = RowsFingerprint()
        fields = [column.field.with_nullable(column.column.nullable) for column in columns]
        validation = TableValidation(self.context, self._catalog_table(columns), fields, expected.rows)
        table = ParquetTable(file, path)
        for piece in table.pieces():
            validation.add(piece)
            for row in from_table(piece):
                read.add(row)
        validated = validation.result(table.pieces)
        found = read.result()
        content = CheckResult(
            name="content_matches_snapshot",
            passed=found == expected,
            summary=f"{found.rows} rows in the file, {expected.rows} in the copy; their fingerprints are "
            + ("equal" if found.value == expected.value else "not equal"),
            numbers={"rows": found.rows, "rows_expected": expected.rows},
        )
        return content, validated

    def _catalog_table(self, columns: list[StoredColumn]) -> CatalogTable:
        keys = [column for column in columns if column.column.key]
        # A key column that mixes storage classes cannot be compared as numbers; integrity_check has inspected it.
        plain = keys and all(column.storage != "mixed" for column in keys)
        key = TableKey(columns=tuple(column.column.name for column in keys), primary=True)
        return CatalogTable(schema_name=SCHEMA, name=self.table.name, keys=(key,) if plain else ())

    def _write_text(self, path: str, form: str) -> tuple[FileRecord, Fingerprint]:
        names = [column.name for column in self.table.columns]
        write: Callable[[Row], str] = _csv_line if form == "csv" else _json_writer(names)
        fingerprint = RowsFingerprint()
        if form == "json":
            with self.context.writer.create(path, stream=True) as plain, json_array(plain) as array:
                for batch in batches(rows_of(self.connection, self.table), fingerprint):
                    array.write("".join(map(write, batch)).encode("utf-8", "surrogateescape"))
            return self.context.writer.file_record(path, plain), fingerprint.result()
        with self.context.writer.create(path, stream=True) as file, compressed_sink(file) as sink:
            if form == "csv":
                sink.write(_csv_line(tuple(names)).encode())
            for batch in batches(rows_of(self.connection, self.table), fingerprint):
                sink.write("".join(map(write, batch)).encode("utf-8", "surrogateescape"))
        record = self.context.writer.file_record(path, file)
        content = {"content_sha256": sink.content_sha256, "content_size": sink.size}
        return record.model_copy(update=content), fingerprint.result()


def _json_writer(names: list[str]) -> Callable[[Row], str]:
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

    def write(row: Row) -> str:
        return encode({name: _json_value(value) for name, value in zip(names, row, strict=True)}) + "\n"

    return write


def _json_value(value: Value) -> Any:
    if isinstance(value, bytes):
        return {"$blob": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$real": str(value)}
    if isinstance(value, str) and not value.isascii():
        raw = value.encode("utf-8", "surrogateescape")
        try:
            raw.decode()
        except UnicodeDecodeError:
            return {"$text": base64.b64encode(raw).decode()}
    return value


def _csv_line(row: Row) -> str:
    return ",".join(map(_csv_value, row)) + "\n"


def _csv_value(value: Value) -> str:
    match value:
        case None:
            return ""
        case str():
            return '"' + value.replace('"', '""') + '"'
        case bytes():
            return f"X'{value.hex()}'"
    return repr(value)
