"""Reading the rows of restored tables in ranges, by several threads; with what they are compared is not known here."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.postgres.catalog.partitions import read_leaves, rows_of
from backup_pipeline.postgres.export.copy import CSV, copy_out, with_encoding
from backup_pipeline.postgres.export.copy_program import LONGEST_QUERY, ReadBy, copy_by_program
from backup_pipeline.postgres.export.source_columns import KnownTables, SourceColumn
from backup_pipeline.postgres.export.table_rows import RowRange, leaf_ranges, row_ranges, select_rows
from backup_pipeline.postgres.server.connection import open_connection, translated
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.tables.csv_rows import CsvRows, FieldTaker

# Bytes of a range from which a program reads it.
_THROUGH_PROGRAM = 8 << 20
_TABLE = """
select c.relkind = 'p', pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::int,
       pg_catalog.pg_table_size(c.oid)
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname = %s and c.relname = %s
"""


@dataclass(frozen=True)
class RestoredTable:
    """A restored table: its columns in order, and the ranges that its rows are read in."""

    columns: tuple[SourceColumn, ...]
    ranges: tuple[RowRange, ...]


class RestoredTables:
    """The tables of a restored database, with a connection for each thread that asks; a context manager.

    Its methods raise SourceError for a table that cannot be read and UnreachableError where the server went away.

    Args:
        target: the database.
        names: schema and name of the tables that will be asked for.
    """

    def __init__(self, target: PostgresTarget, names: Iterable[tuple[str, str]]) -> None:
        self._target = target
        self._known = KnownTables(names)
        self._mine = threading.local()
        self._open: list[Connection[TupleRow]] = []

    def table(self, schema: str, name: str) -> RestoredTable | None:
        """Return a table; None where there is none of that name."""
        with translated(self._target):
            connection = self._connection()
            row = connection.execute(_TABLE, [schema, name]).fetchone()
            if row is None:
                return None
            columns, condition = self._known.of(connection, schema, name)
            leaves = read_leaves(connection, schema, name) if row[0] else None
        rows = rows_of(schema, name, [(column.name, column.type) for column in columns], leaves, condition)
        major = connection.info.server_version // 10000
        if leaves is None:
            ranges = row_ranges(rows, int(row[1] or 0), int(row[2] or 0), major)
        else:
            ranges = leaf_ranges([column.name for column in columns], leaves, major)
        return RestoredTable(columns, tuple(ranges))

    def count(self, table: RestoredTable) -> int:
        """Return the number of rows."""
        total = 0
        with translated(self._target):
            for share in table.ranges:
                query = sql.SQL("select count(*) from {} as t").format(share.rows)
                row = self._connection().execute(query).fetchone()
                total += int(row[0]) if row else 0
        return total

    def pieces(
        self, share: RowRange, columns: Sequence[str], taker: Callable[[int], FieldTaker], *, long_rows: bool = False
    ) -> Iterator[CsvRows]:
        """Yield a range's rows as COPY's CSV, in pieces of whole rows; a piece is valid until the next is asked for.

        With `long_rows` a program gathers them, whatever the server's files say: they may be compressed there.
        """
        query = select_rows(share.rows, columns, pages=share.pages)
        with translated(self._target):
            connection = self._connection()
            if (long_rows or share.bytes >= _THROUGH_PROGRAM) and len(query) <= LONGEST_QUERY:
                major = connection.info.server_version // 10000
                yield from copy_by_program(ReadBy(self._target, major, with_encoding(CSV, connection)), query, taker)
            else:
                yield from map(CsvRows, copy_out(connection, query))

    def cancel(self) -> None:
        """Cancel what runs, from any thread."""
        for connection in self._open:
            with contextlib.suppress(Exception):
                connection.cancel_safe(timeout=5)

    def _connection(self) -> Connection[TupleRow]:
        if getattr(self._mine, "connection", None) is None:
            self._mine.connection = open_connection(self._target)
            self._open.append(self._mine.connection)
        found: Connection[TupleRow] = self._mine.connection
        return found

    def __enter__(self) -> RestoredTables:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._open:
            connection.close()
