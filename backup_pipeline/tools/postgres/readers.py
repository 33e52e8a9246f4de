"""A bounded number of connections inside one snapshot, lent to threads one at a time."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow

from backup_pipeline.errors import UnreachableError
from backup_pipeline.tools.postgres.connection import translated
from backup_pipeline.tools.postgres.snapshot import Snapshot, in_snapshot


class Readers:
    """Lends up to `size` connections that see what the snapshot sees; opened when first needed.

    `stop()` ends what is running on all of them; borrowing then fails.
    """

    def __init__(self, snapshot: Snapshot, size: int) -> None:
        self.snapshot = snapshot
        self.size = size
        self._stack = contextlib.ExitStack()
        self._idle: queue.LifoQueue[Connection[TupleRow]] = queue.LifoQueue()
        self._permits = threading.BoundedSemaphore(size)
        self._guard = threading.Lock()
        self._open: list[Connection[TupleRow]] = []
        self._stopped = False

    @contextlib.contextmanager
    def borrow(self) -> Iterator[Connection[TupleRow]]:
        """Lend a connection for the block; one that failed is not lent again."""
        with self._permits, translated(self.snapshot.target):
            connection = self._take()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            self._idle.put(connection)

    @contextlib.contextmanager
    def permit(self) -> Iterator[None]:
        """Count a connection that a program of PostgreSQL opens for the block."""
        with self._permits:
            self.check()
            yield

    def check(self) -> None:
        """Raise UnreachableError when the capture was stopped; for use between pieces of work."""
        if self._stopped:
            raise UnreachableError("The capture was stopped.", where=self.snapshot.target.label, remedy="Run it again.")

    def _take(self) -> Connection[TupleRow]:
        self.check()
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        connection = contextlib.ExitStack()
        opened = connection.enter_context(in_snapshot(self.snapshot))
        with self._guard:
            self._stack.push(connection)
            self._open.append(opened)
        return opened

    def stop(self) -> None:
        """Cancel what runs, from any thread."""
        self._stopped = True
        with self._guard:
            for connection in self._open:
                with contextlib.suppress(psycopg.Error, OSError):
                    if not connection.closed:
                        connection.cancel_safe(timeout=5)

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
