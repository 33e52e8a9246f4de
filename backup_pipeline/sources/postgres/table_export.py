"""One table of a PostgreSQL database as Parquet with exact types, and as JSON lines or CSV where asked for.

Export, comparison of what was written with the snapshot, and inspection of a sealed export. Which tables there are and
how many at once is `postgres.capture`'s matter; the checks on schema are in `table_validation`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, cast

import pyarrow as pa

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.artefacts.table_validation import TableValidation
from backup_pipeline.model.base import JsonValue
from backup_pipeline.model.catalog import CatalogTable
from backup_pipeline.model.progress import Progress
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import (
    ArtefactKind,
    ArtefactRecord,
    CheckResult,
    ColumnRecord,
    FileRecord,
)
from backup_pipeline.postgres.export.copy import BARE_LINES, CSV_WITH_HEADER, copy_out
from backup_pipeline.postgres.export.copy_program import LONGEST_QUERY, copy_program
from backup_pipeline.postgres.export.duplicates import count_duplicates
from backup_pipeline.postgres.export.fingerprint import HashableTypes
from backup_pipeline.postgres.export.mark import TableMark, TableRows, mark_table, rows_to_read
from backup_pipeline.postgres.export.orphans import count_orphans
from backup_pipeline.postgres.export.profile import TableProfile, profile_rows
from backup_pipeline.postgres.export.readers import Readers
from backup_pipeline.postgres.export.source_columns import KnownTables
from backup_pipeline.postgres.export.table_rows import (
    RowRange,
    leaf_ranges,
    row_ranges,
    select_json,
    select_rows,
)
from backup_pipeline.rules.collapse import row_count_check
from backup_pipeline.rules.drift import column_drift
from backup_pipeline.sources.postgres.settings import PostgresSource
from backup_pipeline.sources.postgres.table_figures import TableFigures
from backup_pipeline.sources.postgres.unchanged_table import (
    BASIS,
    TEXT_FORMS,
    TakenOver,
    UnchangedTable,
    export_basis,
)
from backup_pipeline.system.files import read_chunks
from backup_pipeline.system.streams import compressed_sink, gunzip
from backup_pipeline.system.threads import ContextThreadPool
from backup_pipeline.tables.arrow_csv import CsvDecoder, LineCount
from backup_pipeline.tables.arrow_memory import use_lean_memory
from backup_pipeline.tables.arrow_types import POSTGRES_TYPE
from backup_pipeline.tables.csv_rows import CsvRows
from backup_pipeline.tables.json_array import json_array, rows_in_array
from backup_pipeline.tables.parquet import (
    ROWS_WITHOUT_COLUMNS,
    ParquetSink,
    ParquetTable,
    RowGroups,
    SeekableOutput,
    WritingOrder,
    WritingStoppedError,
)

# Below this, starting a program costs more than it saves.
_THROUGH_PROGRAM = 8 << 20
_SUFFIX = {"parquet": ".parquet", "jsonl": ".jsonl.gz", "json": ".json", "csv": ".csv.gz"}


@dataclass(frozen=True)
class TableExport:
    """What is needed to export one table.

    Attributes:
        table: the table, from the catalog.
        stem: path of its files without suffix.
        utf8: whether the server's encoding is UTF-8.
    """

    context: CaptureContext
    settings: PostgresSource
    readers: Readers
    hashable: HashableTypes
    known: KnownTables
    table: CatalogTable
    stem: str
    utf8: bool = True

    @property
    def key(self) -> tuple[str, ...]:
        """The artefact's key."""
        return (self.context.source, self.table.schema_name, self.table.name)

    @property
    def _partitioned(self) -> bool:
        return self.table.kind == "partitioned"

    def run(self) -> ArtefactRecord:
        """Write the files asked for, read the Parquet file again, compare, and return the record with its checks."""
        started = self.context.now()
        use_lean_memory()
        warnings: list[CheckResult] = []
        with self.readers.borrow() as connection:
            read = rows_to_read(
                connection,
                self.table.schema_name,
                self.table.name,
                hashable=self.hashable,
                # Under another search_path names of types are written otherwise.
                known=self.known if self.readers.programs else None,
                partitioned=self._partitioned,
            )
            basis = export_basis(self.context, self.table, read, self.settings.tables.formats, self._encoding)
            earlier = UnchangedTable.known(self.context, self.key, basis)
            mark = mark_table(connection, read) if earlier is not None else None
        columns = _column_records(read)
        if earlier is not None and mark is not None and earlier.holds(mark, columns):
            found = self._taken_over(earlier, read, mark)
            if isinstance(found, TakenOver):
                return self._record(started, columns, mark, found, basis)
            warnings.append(found)
        with self.readers.borrow() as connection:
            profile = profile_rows(connection, read, utf8=self.utf8, mark=mark)
        validation = TableValidation(self.context, self.table, list(_schema(profile)), profile.fingerprint.rows)
        self._ask_the_server(validation)
        files, checks = self._write(profile, validation)
        details: dict[str, JsonValue] = {
            "stored_as_text": [f.name for f in profile.forms if not f.exact or f.family == "other"]
        }
        if raw := _raw_columns(profile):
            details["stored_as_bytes"] = cast(JsonValue, raw)
        if away := _foreign(profile):
            details["foreign_partitions"] = cast(JsonValue, away)
        mark = TableMark(profile.fingerprint, profile.text_forms)
        return self._record(started, columns, mark, TakenOver(files, [*checks, *warnings], details), basis)

    @property
    def _encoding(self) -> str:
        status = self.readers.snapshot.connection.info.parameter_status("server_encoding")
        return f"{status} {self.utf8}"

    def _taken_over(self, earlier: UnchangedTable, read: TableRows, mark: TableMark) -> TakenOver | CheckResult:
        suffixes = [_SUFFIX[form] for form in dict.fromkeys(self.settings.tables.formats)]
        # The types of the columns are the export's, which the rows have passed.
        fields = [pa.field(column.name, pa.null(), nullable=True) for column in read.columns]
        validation = TableValidation(self.context, self.table, fields, mark.fingerprint.rows, passed=True)
        self._ask_the_server(validation)
        return earlier.take_over(self.context, self.stem, suffixes, validation)

    def _record(
        self,
        started: datetime,
        columns: tuple[ColumnRecord, ...],
        mark: TableMark,
        export: TakenOver,
        basis: str,
    ) -> ArtefactRecord:
        """Return the record, with the checks that compare with the last set."""
        before = self.context.previous.record(*self.key) if self.context.previous else None
        collapse = self.settings.collapse
        rows = mark.fingerprint.rows
        last = [
            row_count_check(
                rows,
                before.rows if before else None,
                drop=collapse.drop,
                minimum_rows=collapse.minimum_rows,
                severity=collapse.severity,
            ),
            column_drift(columns, before.columns if before else None),
        ]
        snapshot = self.readers.snapshot
        return ArtefactRecord(
            key=self.key,
            source=self.context.source,
            kind=ArtefactKind.TABLE_EXPORT,
            set_id=self.context.writer.draft.set_id,
            files=tuple(export.files),
            rows=rows,
            fingerprint=mark.fingerprint,
            columns=columns,
            source_label=snapshot.target.label,
            server_version=snapshot.server_version,
            started_at=started,
            finished_at=self.context.now(),
            checks=(*export.checks, *last),
            details={
                "snapshot": snapshot.id,
                **export.details,
                **({BASIS: basis, TEXT_FORMS: mark.text_forms} if basis else {}),
            },
        )

    def _write(self, profile: TableProfile, validation: TableValidation) -> tuple[list[FileRecord], list[CheckResult]]:
        """Write each format that the settings name, read it again, and return the files with their checks."""
        files, checks = [], []
        if "parquet" not in self.settings.tables.formats:
            checks.append(self._validated_alone(profile, validation))
        for form in dict.fromkeys(self.settings.tables.formats):
            path = self.stem + _SUFFIX[form]
            if form == "parquet":
                files.append(self.write_parquet(path, profile))
                with self.context.writer.open(path) as file:
                    checks += self._compare(file, path, profile, validation)
            else:
                written, rows_there = self._write_text(path, form, profile)
                files.append(written)
                checks.append(_count_check(form, rows_there, profile.fingerprint.rows))
        return files, checks

    def _ask_the_server(self, validation: TableValidation) -> None:
        """Count inside the snapshot what the export cannot say: rows of other tables, equality of the types' own."""
        table = self.table
        keys = [key for key in table.keys if key.equality == "server"]
        if not table.foreign_keys and not keys:
            return
        name = (table.schema_name, table.name)
        with self.readers.borrow() as connection:
            for foreign in table.foreign_keys:
                orphans = count_orphans(connection, *name, foreign)
                validation.add_orphans(foreign.columns, f"{foreign.to_schema}.{foreign.to_table}", orphans)
            for key in keys:
                count = count_duplicates(connection, *name, key, partitioned=self._partitioned)
                validation.add_duplicates(key.columns, count)

    def write_parquet(self, path: str, profile: TableProfile) -> FileRecord:
        """Write the rows as Parquet, large tables in parallel ranges."""
        writer = self.context.writer
        with writer.create(path) as file:
            self._fill(file, profile)
        return writer.file_record(path, file)

    def _fill(self, file: SeekableOutput, profile: TableProfile) -> None:
        schema = _schema(profile, as_found=True)
        decoder = CsvDecoder(list(profile.forms), schema)
        sink = ParquetSink(file, schema)
        try:
            if profile.columns:
                self._copy_ranges(profile, decoder, sink)
        finally:
            sink.close()

    def _validated_alone(self, profile: TableProfile, validation: TableValidation) -> CheckResult:
        """Hold the rows against the schema where no Parquet file is asked for: through one that is not kept."""
        with self.context.writer.scratch() as folder:
            path = folder / "validated.parquet"
            with path.open("wb") as file:
                self._fill(file, profile)
            with path.open("rb") as read:
                _, validated = self._compare(read, path.name, profile, validation)
        return validated

    def _copy_ranges(self, profile: TableProfile, decoder: CsvDecoder, sink: ParquetSink) -> None:
        names = [column.name for column in profile.columns]
        major = self.readers.snapshot.server_major
        if profile.leaves is None:
            # Of compressed values the server's files say less than what comes.
            ranges = row_ranges(profile.rows, self.table.pages, max(self.table.bytes, _text_bytes(profile)), major)
        else:
            ranges = leaf_ranges(names, profile.leaves, major)
        todo = enumerate(ranges)
        guard = threading.Lock()
        order = WritingOrder()

        def work() -> None:
            while True:
                with contextlib.ExitStack() as reading:
                    # Under the lock: a later share that has a connection waits for the earlier ones, which need one.
                    with guard:
                        number, share = next(todo, (0, None))
                        if share is None:
                            return
                        pieces = reading.enter_context(self._pieces(names, share, decoder))
                    groups = RowGroups(sink, order, number, self.readers.check)
                    for piece in pieces:
                        rows = decoder.decode(piece.data, piece.long)
                        del piece  # a long value is not held by two
                        groups.add(rows)
                        del rows
                        self.readers.check()
                        self._report(sink.rows, profile)
                    groups.finish()

        def work_or_stop() -> None:
            try:
                work()
            except WritingStoppedError:
                return
            except BaseException:
                # The other ranges are of no use any more.
                order.stop()
                raise

        threads = min(len(ranges), self.readers.size)
        if threads <= 1:
            work()
            return
        with ContextThreadPool(threads, thread_name_prefix="export") as pool:
            for done in as_completed([pool.submit(work_or_stop) for _ in range(threads)]):
                done.result()

    @contextlib.contextmanager
    def _pieces(self, names: Sequence[str], share: RowRange, decoder: CsvDecoder) -> Iterator[Iterator[CsvRows]]:
        """Read a range: a large one through psql, a small one on a connection that is open already."""
        query = select_rows(share.rows, names, pages=share.pages)
        if share.bytes >= _THROUGH_PROGRAM and len(query) <= LONGEST_QUERY and self.readers.programs:
            with self.readers.permit():
                yield copy_program(self.readers.snapshot, query, decoder.keeping)
        else:
            with self.readers.borrow() as connection:
                yield map(CsvRows, copy_out(connection, query))

    def _report(self, rows: int, profile: TableProfile, *, finished: bool = False) -> None:
        name = ".".join(self.key)
        self.context.progress(Progress(name, rows, profile.fingerprint.rows, "rows", finished=finished))

    def _compare(
        self, file: BinaryIO, path: str, profile: TableProfile, validation: TableValidation
    ) -> tuple[CheckResult, CheckResult]:
        """Read the file back once: its figures against the snapshot's, its content against the schema."""
        figures = TableFigures(profile.forms)
        table = ParquetTable(file, path)
        rows = table.rows
        for piece in table.pieces():
            figures.add(piece)
            validation.add(piece)
            del piece  # before the next one is read
        validated = validation.result(table.pieces)
        self._report(rows, profile, finished=True)
        wrong = figures.differences(profile.columns, profile.figures)
        expected = profile.fingerprint.rows
        passed = rows == expected and not wrong
        reported = f"{rows} rows" if rows == expected else f"{rows} rows in the file, {expected} in the snapshot"
        content = CheckResult(
            name="content_matches_snapshot",
            passed=passed,
            summary=reported + (f"; {len(wrong)} columns differ" if wrong else ", every column's figures are equal"),
            table=tuple({"column": name, "problem": problem} for name, problem in wrong),
            numbers={"rows": rows, "rows_expected": expected, "columns_compared": len(profile.columns)},
        )
        return content, validated

    def _write_text(self, path: str, form: str, profile: TableProfile) -> tuple[FileRecord, int]:
        writer = self.context.writer
        names = [c.name for c in profile.columns]
        lines = LineCount(quoted=form == "csv")
        if form == "csv":
            query, options = select_rows(profile.rows, names), CSV_WITH_HEADER
        else:
            query, options = select_json(profile.rows, names, raw=_raw_columns(profile)), BARE_LINES
        with writer.create(path, stream=True) as file, self.readers.borrow() as connection:
            pieces = copy_out(connection, query, options=options)
            if form == "json":
                with json_array(file) as array:
                    for piece in pieces:
                        lines.add(piece)
                        array.write(piece)
            else:
                with compressed_sink(file) as sink:
                    for piece in pieces:
                        lines.add(piece)
                        sink.write(piece)
        record = writer.file_record(path, file)
        if form != "json":
            content = {"content_sha256": sink.content_sha256, "content_size": sink.size}
            record = record.model_copy(update=content)
        return record, _rows_in(form, lines)


def _column_records(read: TableRows) -> tuple[ColumnRecord, ...]:
    return tuple(
        ColumnRecord(name=c.name, type=c.type, nullable=c.nullable, generated=c.generated) for c in read.columns
    )


def _schema(profile: TableProfile, *, as_found: bool = False) -> pa.Schema:
    """Return the columns with what the catalog promises of nulls, or `as_found`: a promise may have been broken."""
    rows = profile.fingerprint.rows
    fields = [
        form.field(nullable=column.nullable or (as_found and found.values < rows))
        for form, column, found in zip(profile.forms, profile.columns, profile.figures, strict=True)
    ]
    noted = {} if fields else {ROWS_WITHOUT_COLUMNS: str(profile.fingerprint.rows).encode()}
    return pa.schema(fields, metadata=noted)


def _raw_columns(profile: TableProfile) -> list[str]:
    return [form.name for form in profile.forms if form.raw]


def _text_bytes(profile: TableProfile) -> int:
    """Return the bytes of all texts and byte strings, as far as the server has counted them."""
    known = zip(profile.forms, profile.figures, strict=False)
    return sum(int(found.total or 0) for form, found in known if form.family in ("text", "bytes"))


def _foreign(profile: TableProfile) -> list[str]:
    return [f"{leaf.schema}.{leaf.name}" for leaf in profile.leaves or () if leaf.foreign]


def _rows_in(form: str, lines: LineCount) -> int:
    # The first line of CSV is the header.
    return lines.count - 1 if form == "csv" else lines.count


def _count_check(form: str, found: int, rows: int) -> CheckResult:
    return CheckResult(
        name={"jsonl": "json_lines_match_snapshot", "json": "json_rows_match_snapshot"}.get(
            form, "csv_rows_match_snapshot"
        ),
        passed=found == rows,
        summary=f"{found} {'lines' if form == 'jsonl' else 'rows'}, {rows} rows in the snapshot",
        numbers={"lines": found, "rows_expected": rows},
    )


def inspect_table_export(open_file: Callable[[str], BinaryIO], record: ArtefactRecord) -> Iterator[Finding]:
    """Yield what is wrong with the files of a sealed export: readable to the end, rows, columns, content hash."""
    for file in record.files:
        if file.path.endswith(_SUFFIX["parquet"]):
            yield from _inspect_parquet(open_file, file, record)
        elif file.path.endswith(_SUFFIX["json"]):
            yield from _inspect_array(open_file, file, record)
        else:
            yield from _inspect_text(open_file, file, record)


def _inspect_parquet(
    open_file: Callable[[str], BinaryIO], file: FileRecord, record: ArtefactRecord
) -> Iterator[Finding]:
    use_lean_memory()
    with open_file(file.path) as stream:
        table = ParquetTable(stream, file.path)
        table.check_sizes(None, file.size)
        yield from column_findings(file.path, table.schema, record.columns)
        if record.rows is not None and table.rows != record.rows:
            # Nothing of it is decoded: nobody knows what it is.
            yield Finding(subject=file.path, problem=f"holds {table.rows} rows, the record says {record.rows}")
            return
        rows = table.decoded_rows() if table.schema.names else table.rows
    if rows != record.rows:
        yield Finding(subject=file.path, problem=f"holds {rows} rows, the record says {record.rows}")


def column_findings(path: str, schema: pa.Schema, columns: Sequence[ColumnRecord]) -> Iterator[Finding]:
    """Yield where the columns of a file and their PostgreSQL types are not the record's."""
    found = {field.name: (field.metadata or {}).get(POSTGRES_TYPE, b"").decode() for field in schema}
    expected = {column.name: column.type for column in columns}
    for name in [*expected, *(n for n in found if n not in expected)]:
        if name not in found:
            yield Finding(subject=path, problem=f"lacks the column {name}")
        elif name not in expected:
            yield Finding(subject=path, problem=f"has a column {name} that the record does not know")
        elif found[name] and found[name] != expected[name]:
            yield Finding(subject=path, problem=f"column {name} is {found[name]}, the record says {expected[name]}")


def _inspect_array(open_file: Callable[[str], BinaryIO], file: FileRecord, record: ArtefactRecord) -> Iterator[Finding]:
    lines = LineCount(quoted=False)
    tail = b""
    with open_file(file.path) as stream:
        head = stream.read(2)
        lines.add(head)
        for piece in read_chunks(stream):
            lines.add(piece)
            tail = (tail + piece)[-2:]
    if head[:1] != b"[" or (head + tail)[-2:] != b"]\n":
        yield Finding(subject=file.path, problem="is no whole JSON array")
    found = rows_in_array(lines.count)
    if found != record.rows:
        yield Finding(subject=file.path, problem=f"holds {found} rows, the record says {record.rows}")


def _inspect_text(open_file: Callable[[str], BinaryIO], file: FileRecord, record: ArtefactRecord) -> Iterator[Finding]:
    import hashlib

    digest, size = hashlib.sha256(), 0
    form = "csv" if file.path.endswith(_SUFFIX["csv"]) else "jsonl"
    lines = LineCount(quoted=form == "csv")
    with open_file(file.path) as stream:
        for piece in gunzip(stream, name=file.path):
            digest.update(piece)
            size += len(piece)
            lines.add(piece)
    if file.content_sha256 not in (None, digest.hexdigest()) or file.content_size not in (None, size):
        yield Finding(subject=file.path, problem="its content is not what was written")
    found = _rows_in(form, lines)
    if found != record.rows:
        yield Finding(subject=file.path, problem=f"holds {found} rows, the record says {record.rows}")
