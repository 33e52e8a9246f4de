"""Rows in COPY's CSV form out of a stream, in pieces of whole rows. A field of megabytes is handed over as it comes.

Where it stood an empty text is left, so that no row is longer than what is held of it. Pure: bytes in, bytes out. What
becomes of a long field is its taker's matter; `arrow_csv` decodes the rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

from backup_pipeline.system import limits

# Bytes. A field is handed over when a row is longer than a piece, and the field longer than this.
LONG_FIELD = 1 << 20
_READ_AT_ONCE = 1 << 20
_FIELD = re.compile(rb'(?:"[^"]*+(?:""[^"]*+)*+"|[^,\n"]*+),')
_INSIDE_QUOTES = re.compile(rb'[^"]*+(?:""[^"]*+)*+')


class FieldTaker(Protocol):
    """Takes one long field in pieces, without its quotes."""

    def take(self, data: bytes) -> None:
        """Take the next bytes."""

    def finish(self) -> Any:
        """Return what stands for the field; the last call."""


@dataclass
class CsvRows:
    """Whole rows; `long` are (row, column, what the taker returned) of fields that are empty texts in `data`."""

    data: bytes | memoryview
    long: list[tuple[int, int, Any]] = field(default_factory=list)


def whole_rows(stream: BinaryIO, piece: int, taker: Callable[[int], FieldTaker]) -> Iterator[CsvRows]:
    """Cut a stream of CSV at ends of rows; an end of line inside quotes is none.

    Args:
        stream: the CSV.
        piece: bytes of a piece; it grows where a row of short fields is longer. The memory is used again: what is
            yielded is valid until the next piece is asked for.
        taker: called with the number of a column, for each long field in it.
    """
    buffer = bytearray(piece)
    filled = 0
    long: list[tuple[int, int, Any]] = []
    ended = False
    while not ended:
        if filled < len(buffer):
            count = stream.readinto(memoryview(buffer)[filled:])  # type: ignore[attr-defined]
            filled += count
            ended = not count
            limits.progressed()
        if not ended and filled < len(buffer):
            continue
        end = _last_row_end(buffer, filled)
        if end:
            # Not held here: a long value may be all that there is room for.
            given, long = [long], []
            yield CsvRows(memoryview(buffer)[:end], given.pop())
            buffer[: filled - end] = buffer[end:filled]
            filled -= end
            if len(buffer) > piece and 2 * filled <= piece:
                # The row of many fields has gone, and with it the need for room: pieces are as small as before.
                buffer = buffer[:piece]
        elif filled == len(buffer):
            # One row is longer than a piece.
            start, column = _last_field(buffer)
            if filled - start <= LONG_FIELD:
                # A new one: whoever has the last piece may still hold the old.
                buffer = buffer + bytes(len(buffer))
                continue
            value, rest = _handed_over(stream, bytes(memoryview(buffer)[start:]), taker(column))
            long.append((0, column, value))
            kept = bytes(memoryview(buffer)[:start]) + b'""' + rest
            filled = len(kept)
            buffer = bytearray(kept) + bytes(max(0, piece - filled))
    if filled:
        yield CsvRows(memoryview(buffer)[:filled], long)


def _last_row_end(buffer: bytearray, filled: int) -> int:
    """Return where the last whole row ends: after a line end with an even number of quotes before it; 0 if none."""
    end = buffer.rfind(b"\n", 0, filled) + 1
    if not end:
        return 0
    odd = buffer.count(b'"', 0, end) & 1
    while odd:
        earlier = buffer.rfind(b"\n", 0, end - 1) + 1
        if not earlier:
            return 0
        odd ^= buffer.count(b'"', earlier, end) & 1
        end = earlier
    return end


def _last_field(buffer: bytearray) -> tuple[int, int]:
    """Return where the field begins with which the buffer ends, in the middle of its only row, and its number."""
    start = column = 0
    while found := _FIELD.match(buffer, start):
        start = found.end()
        column += 1
    return start, column


def _handed_over(stream: BinaryIO, data: bytes, taker: FieldTaker) -> tuple[Any, bytes]:
    """Read a field to its end; return what its taker makes of it, and what was read behind it."""
    quoted = data.startswith(b'"')
    data = data[1:] if quoted else data
    while True:
        end, used = _quoted_end(data) if quoted else _plain_end(data)
        part = data[:end]
        taker.take(part.replace(b'""', b'"') if quoted else part)
        if used >= 0:
            return taker.finish(), data[used:]
        more = stream.read(_READ_AT_ONCE)
        limits.progressed()
        if not more:
            # The program has broken off: its exit code says why.
            return taker.finish(), b""
        data = data[end:] + more


def _plain_end(data: bytes) -> tuple[int, int]:
    """Return the bytes that belong to the field, and where what follows begins; -1 where the field goes on."""
    found = [at for at in (data.find(b","), data.find(b"\n")) if at >= 0]
    return (min(found), min(found)) if found else (len(data), -1)


def _quoted_end(data: bytes) -> tuple[int, int]:
    """The same for a field in quotes: a quote at the end of the data may be the first of a pair, and waits."""
    found = _INSIDE_QUOTES.match(data)
    end = found.end() if found else 0
    return (end, end + 1) if end + 1 < len(data) else (end, -1)
