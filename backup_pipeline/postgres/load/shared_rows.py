"""The data lines of one table, shared out to several connections in the order in which they come."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator

from backup_pipeline.postgres.load.pool import Pool, StoppedError

_WAIT_SECONDS = 0.2


class SharedRows:
    """Gives chunks to whoever asks next. A row may come in several: who has taken its first takes the others too."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._pieces: queue.Queue[object] = queue.Queue(maxsize=4 * pool.jobs)
        self._turn = threading.Lock()

    def put(self, piece: bytes) -> None:
        """Add a chunk; waits while there are enough of them."""
        self._pool.put(self._pieces, piece)

    def end(self) -> None:
        """Say that there are no more."""
        for _ in range(self._pool.jobs):
            self._pool.put(self._pieces, None)

    def taken(self, ended: threading.Event) -> Generator[bytes]:
        """Yield chunks until there are no more, which `ended` then says; to be closed by whoever stops earlier.

        Raises:
            StoppedError: another worker failed.
        """
        while not ended.is_set():
            if not self._turn.acquire(timeout=_WAIT_SECONDS):
                self._check()
                continue
            with contextlib.ExitStack() as row:
                row.callback(self._turn.release)
                piece = self._next()
                try:
                    while piece is not None and not piece.endswith(b"\n"):
                        yield piece
                        piece = self._next()
                except GeneratorExit:
                    # Refused in the middle of a row: nobody else may take its end for a row.
                    while piece is not None and not piece.endswith(b"\n"):
                        piece = self._next()
                    raise
            if piece is None:
                ended.set()
                return
            yield piece
            del piece

    def _next(self) -> bytes | None:
        while True:
            try:
                piece = self._pieces.get(timeout=_WAIT_SECONDS)
            except queue.Empty:
                self._check()
                continue
            assert piece is None or isinstance(piece, bytes)
            return piece

    def _check(self) -> None:
        if self._pool.stop.is_set():
            raise StoppedError
