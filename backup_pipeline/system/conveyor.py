"""Bytes handed from one thread to another as a stream, with a few MiB between them at most."""

from __future__ import annotations

import io
import threading
from collections import deque

from backup_pipeline.system import limits

ROOM = 4 << 20
_CHECK_SECONDS = 1.0


class Conveyor(io.RawIOBase):
    """One thread writes, another reads. Who waits for the other notices when the work is ended (`system.limits`).

    Args:
        room: bytes that may wait to be read; one piece may go beyond it.
    """

    def __init__(self, room: int = ROOM) -> None:
        super().__init__()
        self._room = room
        self._pieces: deque[memoryview] = deque()
        self._waiting = 0
        self._ended = False
        self._broken: BaseException | None = None
        self._changed = threading.Condition()

    def put(self, data: bytes | bytearray | memoryview) -> None:
        """Hand over bytes, waiting while too many are waiting already; raises what the reader broke off with."""
        piece = memoryview(bytes(data))
        with self._changed:
            while self._waiting >= self._room and self._broken is None:
                self._changed.wait(_CHECK_SECONDS)
                limits.check()
            if self._broken is not None:
                raise self._broken
            self._pieces.append(piece)
            self._waiting += len(piece)
            self._changed.notify_all()

    def end(self) -> None:
        """Say that nothing follows: the reader finds the end of the stream."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def break_off(self, error: BaseException) -> None:
        """End it for both: whoever reads or writes gets this error."""
        with self._changed:
            self._broken = self._broken or error
            self._pieces.clear()
            self._waiting = 0
            self._changed.notify_all()

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Fill `buffer` whole; with less only at the end of the stream. Raises what the writer broke off with."""
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and (piece := self._next(len(view) - filled)):
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
        return filled

    def _next(self, most: int) -> memoryview:
        with self._changed:
            while not self._pieces and not self._ended and self._broken is None:
                self._changed.wait()
            if self._broken is not None:
                raise self._broken
            if not self._pieces:
                return memoryview(b"")
            piece = self._pieces.popleft()
            if len(piece) > most:
                self._pieces.appendleft(piece[most:])
                piece = piece[:most]
            self._waiting -= len(piece)
            self._changed.notify_all()
            return piece
