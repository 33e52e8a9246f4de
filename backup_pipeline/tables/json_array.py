"""A streamed JSON array of JSON lines: `[`, one row a line, `]`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class ByteOutput(Protocol):
    """Something that takes bytes."""

    def write(self, data: bytes, /) -> object:
        """Write all of `data`."""


class JsonArray:
    """Turns JSON lines, in pieces cut anywhere, into an array: `[\\n{…},\\n{…}\\n]\\n`, `[]\\n` without rows."""

    def __init__(self, out: ByteOutput) -> None:
        self._out = out
        self._begun = False
        self._held = b""

    def write(self, piece: bytes | memoryview) -> None:
        """Write a piece of JSON lines; no line end stands inside a row."""
        data = self._held + bytes(piece)
        # The last line end is held back: whether a comma belongs there is known when more comes.
        self._held = b"\n" if data.endswith(b"\n") else b""
        data = data[: len(data) - len(self._held)]
        if data:
            self._out.write((b"" if self._begun else b"[\n") + data.replace(b"\n", b",\n"))
            self._begun = True

    def end(self) -> None:
        """Write the end of the array."""
        self._out.write(b"\n]\n" if self._begun else b"[]\n")


@contextmanager
def json_array(out: ByteOutput) -> Iterator[JsonArray]:
    """Give the array's writer; the array is ended when the block is left without an error."""
    array = JsonArray(out)
    yield array
    array.end()


def rows_in_array(lines: int) -> int:
    """Return the rows of an array, written as above, that has so many lines."""
    return max(0, lines - 2)
