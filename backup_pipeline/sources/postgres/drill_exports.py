"""Comparing table exports with the restored tables, row by row and without order. Nothing is restored here.

Each row of the file and each row of the table is hashed from the same Arrow types, which are the file's: a value that
does not fit them is a difference. Tables, and the ranges of a large one, are read side by side.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.errors import BackupSystemError, UnreachableError, ValidationError
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.postgres.catalog.partitions import read_leaves, rows_of
from backup_pipeline.postgres.export.copy import CSV, copy_out, with_encoding
from backup_pipeline.postgres.export.copy_program import LONGEST_QUERY, ReadBy, copy_by_program
from backup_pipeline.postgres.export.source_columns import KnownTables, SourceColumn
from backup_pipeline.postgres.export.table_rows import RowRange, leaf_ranges, row_ranges, select_rows
from backup_pipeline.postgres.server.connection import connected, open_connection
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.tables.arrow_csv import CsvDecoder
from backup_pipeline.tables.arrow_memory import use_lean_memory
from backup_pipeline.tables.arrow_types import ColumnForm, family_of
from backup_pipeline.tables.key_numbers import row_numbers
from backup_pipeline.tables.parquet import ParquetTable

_OTHER_TYPES = "has other types than the restored table"
_UNREADABLE = "cannot be compared: the restored table cannot be read"
# Bytes of a range from which a program reads it.
_THROUGH_PROGRAM = 8 << 20
# Rows so large that only one of them is held at a time.
_LARGE_ROWS = 48 << 20
_TABLE = """
select c.relkind = 'p', pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::int,
       pg_catalog.pg_table_size(c.oid)
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname = %s and c.relname = %s
"""
# Of these some values have no exact place in Arrow's type (NaN, infinity, before our era), so that text is stored.
_SOMETIMES_TEXT = ("decimal", "date", "timestamp", "timestamptz", "time")
Sum = tuple[int, int]


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
    with connected(target) as connection, _Sessions(target) as sessions:
        known = KnownTables((record.key[1], record.key[2]) for record, _ in exports)
        options = with_encoding(CSV, connection)
        way = ReadBy(target, connection.info.server_version // 10000, options)
        seed = secrets.randbits(64)
        with ThreadPoolExecutor(max(1, jobs), "compare") as pool:
            try:
                begun = [_Comparison(open_file, one, path, way, sessions, seed) for one, path in exports]
                for one in begun:
                    one.begin(connection, known, pool)
                return [finding for one in begun if (finding := one.finding()) is not None]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                sessions.cancel()
                raise


def _parquet_of(record: ArtefactRecord) -> str | None:
    return next((file.path for file in record.files if file.path.endswith(".parquet")), None)


class _Sessions:
    """A connection for each thread that asks."""

    def __init__(self, target: PostgresTarget) -> None:
        self._target = target
        self._mine = threading.local()
        self._open: list[Connection[TupleRow]] = []

    def mine(self) -> Connection[TupleRow]:
        """Return this thread's connection."""
        if getattr(self._mine, "connection", None) is None:
            self._mine.connection = open_connection(self._target)
            self._open.append(self._mine.connection)
        found: Connection[TupleRow] = self._mine.connection
        return found

    def cancel(self) -> None:
        """Cancel what runs, from any thread."""
        for connection in self._open:
            with contextlib.suppress(Exception):
                connection.cancel_safe(timeout=5)

    def __enter__(self) -> _Sessions:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._open:
            connection.close()


@dataclass
class _Restored:
    """How the rows of a restored table are read in the form that its export has."""

    columns: tuple[SourceColumn, ...]
    ranges: list[RowRange]
    decoder: CsvDecoder
    names: list[str]


class _Comparison:
    """One export with its table: begun on a pool, its finding asked for afterwards."""

    def __init__(
        self,
        open_file: Callable[[str], BinaryIO],
        record: ArtefactRecord,
        path: str,
        way: ReadBy,
        sessions: _Sessions,
        seed: int,
    ) -> None:
        self._open_file, self._record, self._path = open_file, record, path
        self._way, self._sessions, self._seed = way, sessions, seed
        self._problem = ""
        self._exported: Future[Sum] = Future()
        self._restored: list[Future[Sum]] = []

    def begin(self, connection: Connection[TupleRow], known: KnownTables, pool: ThreadPoolExecutor) -> None:
        """Hold the columns against each other, and have both sides read."""
        try:
            schema, rows, largest = self._footer()
            found = self._table(connection, known, schema)
        except BackupSystemError as error:
            self._problem = f"cannot be compared: {error.what}"
            return
        if isinstance(found, str):
            self._problem = found
            return
        if not found.columns:
            self._exported.set_result((rows, 0))
            self._restored = [_done((self._count(connection, found), 0))]
            return
        if largest > _LARGE_ROWS:
            # One side after the other: neither a thread of each, nor what waits, may hold another such row.
            self._exported = pool.submit(self._read_file)
            _wait(self._exported)
            for share in found.ranges:
                self._restored.append(pool.submit(self._read_table, found, share))
                _wait(self._restored[-1])
            return
        self._exported = pool.submit(self._read_file)
        self._restored = [pool.submit(self._read_table, found, share) for share in found.ranges]

    def finding(self) -> Finding | None:
        """Return what is different; None when nothing is."""
        problem = self._problem or self._difference()
        return Finding(subject=self._path, problem=problem) if problem else None

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
        except (BackupSystemError, psycopg.Error):
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
            return parquet.schema, parquet.rows, parquet.largest_group

    def _table(self, connection: Connection[TupleRow], known: KnownTables, schema: pa.Schema) -> _Restored | str:
        """Return how the table is read, or why its rows cannot be the file's."""
        of, name = self._record.key[1], self._record.key[2]
        columns, condition = known.of(connection, of, name)
        row = connection.execute(_TABLE, [of, name]).fetchone()
        if row is None:
            return "is of a table that was not restored"
        by_name = {column.name: column for column in columns}
        # pg_dump cannot keep the order of inherited columns; the export has the recorded one.
        names = list(schema.names)
        if set(names) != set(by_name):
            return "has other columns than the restored table"
        forms = [_form_of(by_name[field.name], field) for field in schema]
        if any(form is None for form in forms):
            return _OTHER_TYPES
        partitioned, pages, size = bool(row[0]), int(row[1] or 0), int(row[2] or 0)
        leaves = read_leaves(connection, of, name) if partitioned else None
        rows = rows_of(of, name, [(column.name, column.type) for column in columns], leaves, condition)
        major = self._way.server_major
        ranges = row_ranges(rows, pages, size, major) if leaves is None else leaf_ranges(names, leaves, major)
        decoder = CsvDecoder([form for form in forms if form is not None], schema)
        return _Restored(columns, ranges, decoder, names)

    def _count(self, connection: Connection[TupleRow], found: _Restored) -> int:
        total = 0
        for share in found.ranges:
            row = connection.execute(sql.SQL("select count(*) from {} as t").format(share.rows)).fetchone()
            total += int(row[0]) if row else 0
        return total

    def _read_file(self) -> Sum:
        with self._open_file(self._path) as file:
            return sum_of(ParquetTable(file, self._path).pieces(), self._seed)

    def _read_table(self, found: _Restored, share: RowRange) -> Sum:
        query = select_rows(share.rows, found.names, pages=share.pages)
        pieces: Iterator[bytes | memoryview]
        if share.bytes >= _THROUGH_PROGRAM and len(query) <= LONGEST_QUERY:
            pieces = copy_by_program(self._way, query)
        else:
            pieces = copy_out(self._sessions.mine(), query)
        return sum_of((found.decoder.decode(piece) for piece in pieces), self._seed)


def _done(found: Sum) -> Future[Sum]:
    future: Future[Sum] = Future()
    future.set_result(found)
    return future


def _wait(future: Future[Sum]) -> None:
    future.exception()


def _form_of(column: SourceColumn, field: pa.Field) -> ColumnForm | None:
    """Return the form in which a file holds a column; None when it can be none of this column's."""
    exact = ColumnForm(column.name, column.type, column.base_type, family_of(column.base_type))
    forms = [exact, exact.as_raw()]
    if exact.family in _SOMETIMES_TEXT:
        forms.append(exact.as_text())
    return next((form for form in forms if form.arrow_type == field.type), None)


def sum_of(pieces: Iterable[pa.Table], seed: int = 0) -> Sum:
    """Return number of rows and an order-free sum of a 64-bit hash of each row."""
    rows, total = 0, 0
    for piece in pieces:
        rows += piece.num_rows
        total += int(row_numbers(piece, seed).sum(dtype=np.uint64))
        del piece  # before the next one is made
    return rows, total % (1 << 64)
