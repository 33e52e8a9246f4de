"""Comparing table exports with the restored tables, row by row and without order. Nothing is restored here.

Each row of the file and each row of the table is hashed from the same Arrow types, which are the file's: a value that
does not fit them is a difference. Tables, and the ranges of a large one, are read side by side.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from backup_pipeline.errors import BackupSystemError, UnreachableError, ValidationError
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.postgres.compare.restored_tables import RestoredTable, RestoredTables
from backup_pipeline.postgres.export.source_columns import SourceColumn
from backup_pipeline.postgres.export.table_rows import RowRange
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.sources.postgres.table_export import column_findings
from backup_pipeline.system.threads import ContextThreadPool
from backup_pipeline.tables.arrow_csv import CsvDecoder, HashedValue
from backup_pipeline.tables.arrow_memory import use_lean_memory
from backup_pipeline.tables.arrow_types import ColumnForm, family_of
from backup_pipeline.tables.key_numbers import row_numbers
from backup_pipeline.tables.parquet import ParquetTable

_OTHER_TYPES = "has other types than the restored table"
_UNREADABLE = "cannot be compared: the restored table cannot be read"
# Rows so large that they are read one table after the other, and their long values as they come.
_LARGE_ROWS = 24 << 20
_AT_ONCE = 1 << 15
# Of these some values have no exact place in Arrow's type (NaN, infinity, before our era), so that text is stored.
_SOMETIMES_TEXT = ("decimal", "date", "timestamp", "timestamptz", "time")
Sum = tuple[int, int]
# Rows, and (row, column, number) of values that were hashed as they came and are empty in the rows.
Rows = tuple[pa.Table, list[tuple[int, int, int]]]


def compare_exports(
    open_file: Callable[[str], BinaryIO],
    records: Sequence[ArtefactRecord],
    target: PostgresTarget,
    *,
    jobs: int = 2,
) -> list[Finding]:
    """Return the Parquet exports whose rows are not those of the restored tables; counts only, never values.

    Args:
        open_file: opens a file of the set.
        records: table exports of the database.
        target: the restored database.
        jobs: files and tables that are read at once.
    """
    exports = [(record, path) for record in records if (path := _parquet_of(record))]
    if not exports:
        return []
    use_lean_memory()
    seed = secrets.randbits(64)
    with (
        RestoredTables(target, [(record.key[1], record.key[2]) for record, _ in exports]) as tables,
        ContextThreadPool(max(1, jobs), "compare") as pool,
    ):
        try:
            begun = [_Comparison(open_file, record, path, tables, seed) for record, path in exports]
            for one in begun:
                one.begin(pool)
            return [finding for one in begun for finding in one.findings()]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            tables.cancel()
            raise


def _parquet_of(record: ArtefactRecord) -> str | None:
    return next((file.path for file in record.files if file.path.endswith(".parquet")), None)


@dataclass(frozen=True)
class _Way:
    """How the rows of a restored table are read in the form that its export has."""

    table: RestoredTable
    decoder: CsvDecoder
    names: list[str]
    long_rows: bool


class _Comparison:
    """One export with its table: begun on a pool, its findings asked for afterwards."""

    def __init__(
        self,
        open_file: Callable[[str], BinaryIO],
        record: ArtefactRecord,
        path: str,
        tables: RestoredTables,
        seed: int,
    ) -> None:
        self._open_file, self._record, self._path = open_file, record, path
        self._tables, self._seed = tables, seed
        self._columns: list[Finding] = []
        self._problem = ""
        self._exported: Future[Sum] = Future()
        self._restored: list[Future[Sum]] = []

    def begin(self, pool: ContextThreadPool) -> None:
        """Hold the columns against each other, and have both sides read."""
        try:
            schema, rows, largest = self._footer()
            found = self._way(schema, largest > _LARGE_ROWS)
        except UnreachableError:
            raise
        except BackupSystemError as error:
            self._problem = f"cannot be compared: {error.what}"
            return
        if isinstance(found, str):
            self._problem = found
            return
        ranges = found.table.ranges
        if not found.names:
            self._exported.set_result((rows, 0))
            self._restored = [pool.submit(lambda: (self._tables.count(found.table), 0))]
            return
        if found.long_rows:
            # One side after the other: neither a thread of each, nor what waits, may hold another such row.
            self._exported = pool.submit(self._read_file)
            _wait(self._exported)
            for share in ranges:
                self._restored.append(pool.submit(self._read_table, found, share))
                _wait(self._restored[-1])
            return
        self._exported = pool.submit(self._read_file)
        self._restored = [pool.submit(self._read_table, found, share) for share in ranges]

    def findings(self) -> list[Finding]:
        """Return what is different, and which columns are not the record's."""
        problem = self._problem or self._difference()
        return self._columns + ([Finding(subject=self._path, problem=problem)] if problem else [])

    def _difference(self) -> str:
        try:
            exported = self._exported.result()
        except UnreachableError:
            raise
        except BackupSystemError as error:
            return f"cannot be compared: {error.what}"
        try:
            parts = [one.result() for one in self._restored]
        except UnreachableError:
            raise
        except (ValidationError, pa.ArrowInvalid):
            # A value that the file's types do not hold; the error's text may show it.
            return _OTHER_TYPES
        except BackupSystemError:
            return _UNREADABLE
        rows, total = sum(part[0] for part in parts), sum(part[1] for part in parts) % (1 << 64)
        if exported[0] != rows:
            return f"holds {exported[0]} rows, the restored table {rows}"
        return "holds other values than the restored table" if exported[1] != total else ""

    def _footer(self) -> tuple[pa.Schema, int, int]:
        with self._open_file(self._path) as file:
            parquet = ParquetTable(file, self._path)
            size = next(one.size for one in self._record.files if one.path == self._path)
            parquet.check_sizes(self._record.rows, size)
            self._columns = list(column_findings(self._path, parquet.schema, self._record.columns))
            return parquet.schema, parquet.rows, parquet.largest_group

    def _way(self, schema: pa.Schema, long_rows: bool) -> _Way | str:
        """Return how the table is read, or why its rows cannot be the file's."""
        table = self._tables.table(self._record.key[1], self._record.key[2])
        if table is None:
            return "is of a table that was not restored"
        by_name = {column.name: column for column in table.columns}
        # pg_dump cannot keep the order of inherited columns; the export has the recorded one.
        names = list(schema.names)
        if set(names) != set(by_name):
            return "has other columns than the restored table"
        forms = [_form_of(by_name[field.name], field) for field in schema]
        if any(form is None for form in forms):
            return _OTHER_TYPES
        return _Way(table, CsvDecoder([form for form in forms if form is not None], schema), names, long_rows)

    def _read_file(self) -> Sum:
        with self._open_file(self._path) as file:
            rows = ParquetTable(file, self._path).streamed(lambda: HashedValue(self._seed))
            return sum_of(rows, self._seed)

    def _read_table(self, way: _Way, share: RowRange) -> Sum:
        def decoded() -> Iterator[Rows]:
            hashing = way.decoder.hashing(self._seed)
            for piece in self._tables.pieces(share, way.names, hashing, long_rows=way.long_rows):
                yield way.decoder.decode(piece.data), piece.long

        return sum_of(decoded(), self._seed)


def _wait(future: Future[Sum]) -> None:
    future.exception()


def _form_of(column: SourceColumn, field: pa.Field) -> ColumnForm | None:
    """Return the form in which a file holds a column; None when it can be none of this column's."""
    exact = ColumnForm(column.name, column.type, column.base_type, family_of(column.base_type))
    forms = [exact, exact.as_raw()]
    if exact.family in _SOMETIMES_TEXT:
        forms.append(exact.as_text())
    return next((form for form in forms if form.arrow_type == field.type), None)


def sum_of(pieces: Iterable[Rows], seed: int = 0) -> Sum:
    """Return number of rows and an order-free sum of a 64-bit hash of each row."""
    rows, total = 0, 0
    for piece, long in pieces:
        rows += piece.num_rows
        # Some rows after the other: what is made of them fits into the processor's cache.
        for part in [piece] if long else [piece.slice(at, _AT_ONCE) for at in range(0, piece.num_rows, _AT_ONCE)]:
            total += int(row_numbers(part, seed, long).sum(dtype=np.uint64))
            del part
        del piece  # before the next one is made
    return rows, total % (1 << 64)
