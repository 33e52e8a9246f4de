"""One Parquet file written by several threads, and the same file read again. No database here.

The same rows in the same order make the same bytes, whatever the threads: row groups stand in the order of the shares
that they come from and end where their content says, and pages are cut by content. So what is unchanged in a table is
unchanged in most of its file.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from backup_pipeline.errors import ValidationError
from backup_pipeline.tables.arrow_memory import give_back
from backup_pipeline.tables.csv_rows import FieldTaker
from backup_pipeline.tables.parquet_pages import pages_of
from backup_pipeline.tables.parquet_values import bytes_of, can_be_streamed, values_of

# What decides how rows become files. Raised with every change: files of another layout are not taken over.
LAYOUT = 2
ROW_GROUP_BYTES = 12 << 20
# Rows of a table without columns stand here: Parquet has no place for them.
ROWS_WITHOUT_COLUMNS = b"rows_without_columns"
_COMPRESSION = "zstd"
_LEVEL = 1
_SAMPLE = 20_000
_SAMPLE_BYTES = 64 << 20
_REPEATING = 0.3
# Row groups are written at some 12 MB, more only where a single row is larger; PostgreSQL writes no row above 1 GB.
_LARGEST_ROW_GROUP = (1 << 30) + (64 << 20)
# Rows of fixed width, and texts from a dictionary, take room in memory that no file needs.
_LARGEST_IN_MEMORY = 256 << 20
# Row groups of a share that are complete before it is its turn; each takes ROW_GROUP_BYTES.
_GROUPS_HELD = 1
# Bytes of a row group, in memory, from which its columns are read by pages where only what is in them counts.
_LARGE = 24 << 20
_WORTH_THREADS = 1 << 18
# So many are inspected one by one.
_FEW_VALUES = 10_000
_CHECKED_EVERY_SECONDS = 1.0
_MOST_EXPANSION = 200


class SeekableOutput(Protocol):
    """What a Parquet file is written to: a file of a set, or any other."""

    def write(self, data: bytes, /) -> int:
        """Write all of `data`."""

    def tell(self) -> int:
        """Return the number of bytes written."""


class ParquetSink:
    """Takes tables of one schema from any thread. `rows` is what was taken so far."""

    def __init__(self, file: SeekableOutput, schema: pa.Schema) -> None:
        self._file = file
        self._schema = schema
        self._writer: Any = None
        self._lock = threading.Lock()
        self.rows = 0

    def write(self, tables: list[pa.Table]) -> None:
        """Write the tables as one row group."""
        together = pa.concat_tables(tables)
        if not together.num_rows:
            return
        with self._lock:
            self._open(together).write_table(together, row_group_size=together.num_rows)
            self.rows += together.num_rows
            give_back(together.nbytes)

    def close(self) -> None:
        """Write the footer."""
        with self._lock:
            self._open(None).close()

    def _open(self, first: pa.Table | None) -> Any:
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._file,
                self._schema,
                compression=_COMPRESSION,
                compression_level=_LEVEL,
                use_dictionary=repeating_columns(first) if first is not None else False,
                # Smallest and largest of texts and bytes would be held in memory, as long as they are.
                write_statistics=[field.name for field in self._schema if _is_short(field.type)],
                store_schema=True,
                use_content_defined_chunking=True,
                # Pages of version 2 are compressed without one more copy of a very long value; not every program that
                # reads Parquet knows them, so all other files have those of version 1.
                data_page_version="2.0" if first is not None and _has_long_values(first) else "1.0",
            )
        return self._writer


def _is_short(kind: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(kind) or pa.types.is_decimal(kind))


def _bytes_of(kind: pa.DataType) -> float:
    """Return the bytes that a value of a type takes at least."""
    try:
        return float(max(1, kind.bit_width)) / 8
    except ValueError:
        return 4.0


def repeating_columns(table: pa.Table) -> list[str]:
    """Return the columns whose values repeat enough for a dictionary: it doubles the cost of all others."""
    if _has_long_values(table):
        # A dictionary would hold them once more, and so would counting them.
        return []
    sample = table.slice(0, _SAMPLE)
    return [
        name
        for name, column in zip(sample.column_names, sample.columns, strict=True)
        if not pa.types.is_nested(column.type)  # the mixed columns of SQLite; they cannot be counted
        and pc.count_distinct(column).as_py() <= sample.num_rows * _REPEATING
    ]


def _has_long_values(table: pa.Table) -> bool:
    return bool(table.slice(0, _SAMPLE).nbytes > _SAMPLE_BYTES)


class WritingStoppedError(Exception):
    """Another share has failed; never the cause itself."""


class WritingOrder:
    """Whose turn it is to write, of shares that are numbered from 0 and read by several threads.

    Shares must be begun in their order, so that the one whose turn it is never waits for another.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._number = 0
        self._stopped = False

    def comes_now(self, number: int) -> bool:
        """Return whether it is this share's turn."""
        return self._number == number

    def wait_for(self, number: int, check: Callable[[], None]) -> None:
        """Wait until it is this share's turn, calling `check` now and then.

        Raises:
            WritingStoppedError: another share has failed.
        """
        with self._changed:
            while self._number != number and not self._stopped:
                check()
                self._changed.wait(_CHECKED_EVERY_SECONDS)
            if self._stopped:
                raise WritingStoppedError

    def pass_on(self) -> None:
        """Give the turn to the next share."""
        with self._changed:
            self._number += 1
            self._changed.notify_all()

    def stop(self) -> None:
        """End all waiting: one of the shares has failed."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


def _never_stop() -> None:
    """Never ask to stop."""


class RowGroups:
    """Gathers the tables of one share of the rows into row groups, and writes them when it is the share's turn.

    Its methods raise WritingStoppedError when another share has failed.

    Args:
        sink: the file.
        order: of the shares; without it there is only this one.
        number: of this share.
        check: raises when the work is to stop.
    """

    def __init__(
        self,
        sink: ParquetSink,
        order: WritingOrder | None = None,
        number: int = 0,
        check: Callable[[], None] = _never_stop,
    ) -> None:
        self._sink = sink
        self._order = order or WritingOrder()
        self._number = number
        self._check = check
        self._tables: list[pa.Table] = []
        self._bytes = 0
        self._held: list[list[pa.Table]] = []

    def add(self, table: pa.Table) -> None:
        """Take a table; may wait for the share's turn."""
        self._tables.append(table)
        self._bytes += table.nbytes
        if self._bytes < ROW_GROUP_BYTES:
            return
        self._held.append(self._tables)
        self._tables, self._bytes = [], 0
        if len(self._held) > _GROUPS_HELD or self._order.comes_now(self._number):
            self._write()

    def finish(self) -> None:
        """Write what is left and give the turn to the next share."""
        if self._tables:
            self._held.append(self._tables)
        self._tables = []
        self._write()
        self._order.pass_on()

    def _write(self) -> None:
        self._order.wait_for(self._number, self._check)
        while self._held:
            self._sink.write(self._held.pop(0))


class ParquetTable:
    """A Parquet file of a set, for reading in bounded pieces."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        try:
            self._file: Any = pq.ParquetFile(file, pre_buffer=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValidationError(
                f"Not a readable Parquet file ({type(error).__name__}).", where=name, remedy="Use another set."
            ) from error
        self._name = name
        self._stream = file

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema, with the PostgreSQL types in its fields' metadata."""
        return self._file.schema_arrow

    @property
    def rows(self) -> int:
        """Rows of the file."""
        noted = (self.schema.metadata or {}).get(ROWS_WITHOUT_COLUMNS)
        return int(noted) if noted is not None else int(self._file.metadata.num_rows)

    @property
    def largest_group(self) -> int:
        """Bytes of the largest row group, decompressed: what reading in pieces holds at once."""
        footer = self._file.metadata
        return max((footer.row_group(at).total_byte_size for at in range(footer.num_row_groups)), default=0)

    def check_sizes(self, rows: int | None, size: int) -> None:
        """Hold what the footer claims against the record, before anything is decoded.

        Args:
            rows: as recorded; None where that was not.
            size: bytes of the file, as recorded.

        Raises:
            ValidationError: other rows, or pieces larger than a file of this size can hold.
        """
        if rows is not None and self.rows != rows:
            raise ValidationError(
                f"It holds {self.rows} rows, the record says {rows}.",
                where=self._name,
                remedy="Use another set.",
            )
        footer = self._file.metadata
        groups = [footer.row_group(at) for at in range(footer.num_row_groups)]
        # A row takes room in memory however well it is compressed: a billion times nothing is a line of the file.
        width = sum(_bytes_of(field.type) for field in self.schema)
        for group in groups:
            if group.total_byte_size > _LARGEST_ROW_GROUP or group.num_rows * width > _LARGEST_IN_MEMORY:
                raise self._not_ours(max(group.total_byte_size, int(group.num_rows * width)), size)
        whole = sum(group.total_byte_size for group in groups)
        if whole > 4 * _LARGEST_ROW_GROUP and whole > size * _MOST_EXPANSION:
            raise self._not_ours(whole, size)
        try:
            for at, group in enumerate(groups):
                for column in range(group.num_columns):
                    self._check_chunk(at, group, column, size)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValidationError(
                f"Its pages are not those of its footer ({error}); the file is damaged.",
                where=self._name,
                remedy="Use another set.",
            ) from error

    def _check_chunk(self, at: int, group: Any, column: int, size: int) -> None:
        chunk = group.column(column)
        if self._file.schema.column(column).max_repetition_level == 0 and chunk.num_values != group.num_rows:
            raise ValueError("a column has more or fewer values than there are rows")
        pages = list(pages_of(self._stream, chunk))
        if chunk.total_uncompressed_size > group.total_byte_size or chunk.num_values * 4 > _LARGEST_IN_MEMORY:
            raise self._not_ours(max(chunk.total_uncompressed_size, chunk.num_values * 4), size)
        entries = max((page.bytes for page in pages if page.is_dictionary), default=0)
        if chunk.physical_type == "BYTE_ARRAY" and entries * chunk.num_values > _LARGEST_IN_MEMORY:
            about = self._file.schema.column(column)
            if chunk.num_values <= _FEW_VALUES and can_be_streamed(chunk, about):
                decoded = bytes_of(self._stream, chunk, nullable=about.max_definition_level == 1)
            else:
                decoded = self._decoded(at, chunk.path_in_schema)
            if decoded > _LARGEST_ROW_GROUP:
                raise self._not_ours(decoded, size)

    def _decoded(self, at: int, column: str) -> int:
        """Return the bytes of a dictionary column's values, without making them: a text may stand there often."""
        texts = pq.ParquetFile(self._stream, pre_buffer=False, read_dictionary=[column])
        total = 0
        for part in texts.read_row_group(at, columns=[column], use_threads=False).flatten().columns[0].chunks:
            if pa.types.is_dictionary(part.type):
                lengths = pc.cast(pc.binary_length(part.dictionary), pa.int64())
                total += pc.sum(lengths.take(part.indices)).as_py() or 0
            else:
                total += part.nbytes
        return total

    def _not_ours(self, found: int, size: int) -> ValidationError:
        return ValidationError(
            f"{found:,} bytes in memory from a file of {size:,} bytes are not what a backup writes.",
            where=self._name,
            remedy="Use another set.",
        )

    def pieces(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows, one row group at a time; every page (of the named columns) is decompressed and decoded."""
        listed = None if columns is None else list(columns)
        for index in range(self._file.num_row_groups):
            yield self._row_group(index, listed)

    def decoded_rows(self) -> int:
        """Decompress and decode every page, holding one row group at a time; return the rows."""
        return sum(rows.num_rows for rows, _ in self.streamed(_Unkept))

    def streamed(self, taker: Callable[[], FieldTaker]) -> Iterator[tuple[pa.Table, list[tuple[int, int, Any]]]]:
        """Yield the rows, one row group at a time, with empty values in the place of very long ones.

        Args:
            taker: called for each long value; receives it in pieces.

        Yields:
            The rows, and (row, column, what the taker returned) of each long value.
        """
        for index in range(self._file.num_row_groups):
            long = self._long_columns(index)
            if not long:
                yield self._row_group(index, None), []
                continue
            names = self.schema.names
            rows = self._row_group(index, [name for at, name in enumerate(names) if at not in long])
            taken: list[tuple[int, int, Any]] = []
            columns = dict(zip(rows.column_names, rows.columns, strict=True))
            for at in long:
                columns[names[at]], found = self._values(index, at, taker)
                taken += [(row, at, value) for row, value in found]
            yield pa.Table.from_arrays([columns[name] for name in names], schema=self.schema), taken

    def _long_columns(self, index: int) -> list[int]:
        """Return the columns of a row group whose values are so many bytes that they are read by pages."""
        group = self._file.metadata.row_group(index)
        if group.total_byte_size <= _LARGE or group.num_columns != len(self.schema):
            return []
        return [
            at
            for at in range(group.num_columns)
            if group.column(at).total_uncompressed_size > _LARGE
            and can_be_streamed(group.column(at), self._file.schema.column(at))
        ]

    def _values(self, index: int, at: int, taker: Callable[[], FieldTaker]) -> tuple[pa.Array, list[tuple[int, Any]]]:
        chunk, nullable = self._file.metadata.row_group(index).column(at), self._file.schema.column(at)
        with self._reading(index):
            return values_of(
                self._stream,
                chunk,
                self.schema.field(at).type,
                nullable=nullable.max_definition_level == 1,
                taker=taker,
            )

    def _row_group(self, index: int, columns: list[str] | None) -> pa.Table:
        with self._reading(index):
            # A few rows are decoded sooner than other threads have begun with them.
            threads = self._file.metadata.row_group(index).total_byte_size > _WORTH_THREADS
            return self._file.read_row_group(index, columns=columns, use_threads=threads)

    @contextlib.contextmanager
    def _reading(self, index: int) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValidationError(
                f"Row group {index} cannot be read ({type(error).__name__}); the file is damaged.",
                where=self._name,
                remedy="Use another set.",
            ) from error


class _Unkept:
    """Takes a value and keeps nothing of it."""

    def take(self, data: bytes) -> None:
        """Take the next bytes."""

    def finish(self) -> None:
        """Return nothing."""


def write_empty_like(source: BinaryIO, target: Path) -> None:
    """Write a file without rows that has the columns of another; only the other's end is read.

    Raises:
        ValidationError: it is no Parquet file.
    """
    try:
        schema = pq.read_schema(source)
        pq.write_table(schema.empty_table(), target)
    except (OSError, pa.ArrowException) as error:
        raise ValidationError(
            "The table export is missing or damaged.",
            where=target.name,
            remedy="backup-pipeline verify says what else is wrong with the set; take another one.",
        ) from error
