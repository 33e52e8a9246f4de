"""Texts and byte strings of one Parquet column chunk, page by page in pieces: a long value is handed over as it comes.

A reader of Parquet holds such a value several times: its page, decompressed, and the value. Here nothing of it is held.
Read is what a backup writes (parquet-format, `Encodings.md`): flat columns, plain or from a dictionary, in zstd or
uncompressed pages of both versions. Other readers are the matter of `parquet`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backup_pipeline.tables.csv_rows import LONG_FIELD, FieldTaker
from backup_pipeline.tables.parquet_pages import Page, pages_of

_PLAIN, _FROM_DICTIONARY = 0, (2, 8)
_PIECE = 1 << 20
_LENGTH = 4
# A value of the chunk: its bytes, None for a null, or what its taker returned, in a list of its own.
Value = bytes | list[Any] | None


def can_be_streamed(chunk: Any, column: Any) -> bool:
    """Return whether `values_of` reads a chunk: pyarrow's metadata of it, and of the column in the schema."""
    known = {"PLAIN", "RLE", "RLE_DICTIONARY", "PLAIN_DICTIONARY"}
    return (
        chunk.physical_type == "BYTE_ARRAY"
        and column.max_repetition_level == 0
        and column.max_definition_level <= 1
        and chunk.compression in ("ZSTD", "UNCOMPRESSED")
        and known.issuperset(chunk.encodings)
    )


def values_of(
    file: BinaryIO, chunk: Any, kind: pa.DataType, *, nullable: bool, taker: Callable[[], FieldTaker]
) -> tuple[pa.Array, list[tuple[int, Any]]]:
    """Return the values of a chunk with empty ones in the place of long ones, and (row, what the taker returned).

    Args:
        file: the Parquet file.
        chunk: pyarrow's metadata of the chunk, for which `can_be_streamed` is true.
        kind: of the array; a text or byte string.
        nullable: whether its pages say which rows are null.
        taker: called for each value longer than `csv_rows.LONG_FIELD`.

    Raises:
        ValueError, OSError: damaged.
    """
    values = [value for page in _pages(file, chunk, nullable, taker) for value in page]
    long = [(row, value[0]) for row, value in enumerate(values) if isinstance(value, list)]
    for row, _ in long:
        values[row] = b""
    return pa.array(values, pa.binary()).view(kind), long


def bytes_of(file: BinaryIO, chunk: Any, *, nullable: bool) -> int:
    """Return the bytes of a chunk's values, of which a dictionary holds one that is there often only once.

    Its arguments and errors are those of `values_of`.
    """
    total = 0
    for page in _pages(file, chunk, nullable, _Length):
        total += sum(value[0] if isinstance(value, list) else len(value) for value in page if value is not None)
    return total


class _Length:
    """Takes a value and returns its length."""

    def __init__(self) -> None:
        self._length = 0

    def take(self, data: bytes) -> None:
        self._length += len(data)

    def finish(self) -> int:
        return self._length


def _pages(file: BinaryIO, chunk: Any, nullable: bool, taker: Callable[[], FieldTaker]) -> Iterator[list[Value]]:
    entries: list[Value] = []
    compressed = chunk.compression == "ZSTD"
    for page in pages_of(file, chunk):
        stream = _PageStream(file, page, compressed=compressed)
        if page.is_dictionary:
            entries = list(_plain(stream, page.values, taker))
            continue
        valid = np.ones(page.values, dtype=bool)
        if nullable:
            valid = _hybrid(stream.levels(), 1, page.values) == 1
        count = int(valid.sum())
        if page.encoding == _PLAIN:
            found = _plain(stream, count, taker)
        elif page.encoding in _FROM_DICTIONARY:
            found = (entries[at] for at in _indices(stream, count, len(entries)))
        else:
            raise ValueError("a page of an unknown encoding")
        yield [next(found) if there else None for there in valid.tolist()]
        if page.encoding == _PLAIN and stream.read(1):
            raise ValueError("a page holds more than its values")


def _plain(stream: _PageStream, count: int, taker: Callable[[], FieldTaker]) -> Iterator[Value]:
    for _ in range(count):
        length = int.from_bytes(stream.exactly(_LENGTH), "little")
        if length <= LONG_FIELD:
            yield stream.exactly(length)
            continue
        taking = taker()
        for piece in stream.pieces(length):
            taking.take(piece)
        yield [taking.finish()]


def _indices(stream: _PageStream, count: int, entries: int) -> Iterator[int]:
    if not count:
        return iter(())
    width = stream.exactly(1)[0]
    found = _hybrid(stream.rest(), width, count)
    if int(found.max()) >= entries:
        raise ValueError("a page names entries that its dictionary does not have")
    return iter(found.tolist())


def _hybrid(data: bytes, width: int, count: int) -> npt.NDArray[np.int64]:
    """Decode numbers of `width` bits from runs of one value, and of packed ones in groups of eight.

    Raises:
        ValueError: there are fewer.
    """
    if not width:
        return np.zeros(count, dtype=np.int64)
    parts: list[npt.NDArray[np.int64]] = []
    left, at = count, 0
    size = (width + 7) // 8
    while left > 0:
        head = shift = 0
        while True:
            if at >= len(data):
                raise ValueError("a page ends before its values do")
            byte, at = data[at], at + 1
            head |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if head & 1:
            packed = np.frombuffer(data, np.uint8, min((head >> 1) * width, len(data) - at), at)
            at += len(packed)
            bits = np.unpackbits(packed, bitorder="little")
            whole = bits[: len(bits) // width * width].reshape(-1, width).astype(np.int64)
            run = (whole << np.arange(width)).sum(axis=1)[:left]
        else:
            run = np.full(min(head >> 1, left), int.from_bytes(data[at : at + size], "little"), dtype=np.int64)
            at += size
        if not len(run):
            raise ValueError("a page ends before its values do")
        parts.append(run)
        left -= len(run)
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


class _Stored:
    """The stored bytes of a page, as a file that Arrow reads."""

    closed = False

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._at, self._end = file, start, start + size

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        self._file.seek(self._at)
        data = self._file.read(min(size, self._end - self._at) if size >= 0 else self._end - self._at)
        self._at += len(data)
        return data

    def close(self) -> None:
        """Leave the file open."""


class _PageStream:
    """The bytes of one page, decompressed as they are asked for."""

    def __init__(self, file: BinaryIO, page: Page, *, compressed: bool) -> None:
        # Pages of version 2 have their levels before what is compressed.
        levels = page.levels or 0
        self._levels = _Stored(file, page.start, levels).read() if page.levels is not None else None
        stored = _Stored(file, page.start + levels, page.stored - levels)
        self._stream: Any = pa.CompressedInputStream(stored, "zstd") if compressed and page.compressed else stored
        self._left = page.bytes - levels
        self._buffer = b""
        self._at = 0

    def levels(self) -> bytes:
        """Return the definition levels."""
        if self._levels is not None:
            return self._levels
        return self.exactly(int.from_bytes(self.exactly(_LENGTH), "little"))

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; empty at the end."""
        if self._at == len(self._buffer):
            self._buffer, self._at = self._stream.read(_PIECE), 0
            self._left -= len(self._buffer)
            if self._left < 0:
                raise ValueError("a page is larger than its header says")
        data = self._buffer[self._at : self._at + size]
        self._at += len(data)
        return data

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield the next `size` bytes; ValueError where there are fewer."""
        while size:
            data = self.read(size)
            if not data:
                raise ValueError("a page ends before its values do")
            size -= len(data)
            yield data

    def exactly(self, size: int) -> bytes:
        """Return the next `size` bytes; ValueError where there are fewer."""
        data = self.read(size) if size else b""
        return data if len(data) == size else b"".join((data, *self.pieces(size - len(data))))

    def rest(self) -> bytes:
        """Return all that is left."""
        return b"".join(iter(lambda: self.read(_PIECE), b""))
