"""A bounded number of connections inside one snapshot, lent to threads one at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from psycopg import Connection
from psycopg.rows import TupleRow

from backup_pipeline.errors import UnreachableError
from backup_pipeline.postgres.catalog.search_path import own_search_path, under_search_path
from backup_pipeline.postgres.server.connection import translated
from backup_pipeline.postgres.server.cutting import end_connections
from backup_pipeline.postgres.server.snapshot import Snapshot, in_snapshot, kept_alive
from backup_pipeline.system import limits


class CaptureStoppedError(UnreachableError):
    """Work that was ended because something else of the capture failed; never the cause itself."""


class Readers:
    """Lends up to `size` connections that see what the snapshot sees; opened when first needed.

    `stop()` ends what is running on all of them; borrowing then fails.

    Attributes:
        programs: whether programs of PostgreSQL may read beside these sessions, as they do.
    """

    programs = True

    def __init__(self, snapshot: Snapshot, size: int) -> None:
        self.snapshot = snapshot
        self.size = size
        self._stack = contextlib.ExitStack()
        self._idle: list[Connection[TupleRow]] = []
        self._resting = threading.Lock()
        self._permits = threading.BoundedSemaphore(size)
        self._guard = threading.Lock()
        self._open: list[Connection[TupleRow]] = []
        self._stopped = False

    @contextlib.contextmanager
    def borrow(self) -> Iterator[Connection[TupleRow]]:
        """Lend a connection for the block; one that failed is not lent again.

        What the block has locked is released at its end, by a savepoint that is rolled back: a session that reads
        thousands of tables would fill the server's table of locks. The snapshot's own session keeps every table's.
        """
        with self._permits, translated(self.snapshot.target):
            connection = self._take()
            try:
                with connection.transaction(force_rollback=True):
                    yield connection
            except BaseException:
                connection.close()
                raise
            with self._resting:
                self._idle.append(connection)

    @contextlib.contextmanager
    def permit(self) -> Iterator[None]:
        """Count a connection that a program of PostgreSQL opens for the block."""
        with self._permits:
            self.check()
            yield

    def check(self) -> None:
        """Raise UnreachableError when the capture was stopped; for use between pieces of work."""
        limits.check()
        if self._stopped:
            raise CaptureStoppedError(
                "The capture was stopped.", where=self.snapshot.target.label, remedy="Run it again."
            )

    def _take(self) -> Connection[TupleRow]:
        self.check()
        with self._resting:
            if self._idle:
                return self._idle.pop()
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
            end_connections(self._open)

    def __enter__(self) -> Readers:
        self._stack.enter_context(kept_alive(self._idle, self._resting))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class OwnPathReaders(Readers):
    """Lends the connections of other readers under the role's and database's own search_path."""

    programs = False

    def __init__(self, readers: Readers) -> None:
        super().__init__(readers.snapshot, readers.size)
        self._readers = readers
        with readers.borrow() as connection:
            self._path = own_search_path(connection)

    @contextlib.contextmanager
    def borrow(self) -> Iterator[Connection[TupleRow]]:
        """Lend a connection for the block."""
        with self._readers.borrow() as connection, under_search_path(connection, self._path):
            yield connection

    @contextlib.contextmanager
    def permit(self) -> Iterator[None]:
        """Count a connection that a program of PostgreSQL opens for the block."""
        with self._readers.permit():
            yield

    def check(self) -> None:
        """Raise UnreachableError when the capture was stopped."""
        self._readers.check()


class HolderReaders(Readers):
    """Lends the snapshot's own session, which has every table's lock: for a table that somebody else waits to change.

    Its DDL waits for our snapshot, and every new reader would wait behind it until the backup has ended.
    """

    programs = False

    def __init__(self, readers: Readers) -> None:
        super().__init__(readers.snapshot, 1)
        self._readers = readers

    @contextlib.contextmanager
    def borrow(self) -> Iterator[Connection[TupleRow]]:
        """Lend the session for the block; an error in it does not end the snapshot."""
        with self.snapshot.guard, translated(self.snapshot.target):
            self.check()
            with self.snapshot.connection.transaction():
                yield self.snapshot.connection

    def check(self) -> None:
        """Raise UnreachableError when the capture was stopped."""
        self._readers.check()
