"""Connections that short pieces of work leave to each other: a login costs more than most questions."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Iterator

from psycopg.pq import TransactionStatus

from backup_pipeline.postgres.server.connection import WatchedConnection, open_connection, translated
from backup_pipeline.postgres.server.cutting import cut_off_after
from backup_pipeline.postgres.server.target import PostgresTarget

# Not much longer than from one heartbeat to the next: a network may forget connections on which nothing moves.
_KEPT_SECONDS = 20.0
_WORK_SECONDS = 60.0


class KeptConnections:
    """Connections to one database, each for one thread at a time: the last that was left, or a new one.

    Args:
        target: the database.
    """

    def __init__(self, target: PostgresTarget) -> None:
        self._target = target
        self._guard = threading.Lock()
        self._left: list[tuple[float, int, WatchedConnection]] = []

    @contextlib.contextmanager
    def connected(self) -> Iterator[WatchedConnection]:
        """Give a connection, outside of a transaction, for a minute at most; after an error it is closed.

        Raises:
            UnreachableError, SourceError: as the server or network says.
            TimeLimitError: the work was ended meanwhile.
        """
        connection = self._take()
        whole = False
        try:
            with translated(self._target), cut_off_after(_WORK_SECONDS, connection):
                yield connection
            whole = connection.info.transaction_status is TransactionStatus.IDLE
        finally:
            if whole:
                self._leave(connection)
            else:
                connection.close()

    def _take(self) -> WatchedConnection:
        while True:
            with self._guard:
                if not self._left:
                    break
                until, process, connection = self._left.pop()
            if process != os.getpid():
                # Inherited by a fork: to close it would end the other process's session.
                continue
            # An idle connection has nothing to say but that it was ended.
            if time.monotonic() < until and not select.select([connection], [], [], 0)[0]:
                connection.watch(self._target)
                return connection
            connection.close()
        opened = open_connection(self._target, autocommit=False)
        assert isinstance(opened, WatchedConnection)
        return opened

    def _leave(self, connection: WatchedConnection) -> None:
        connection.forget()
        with self._guard:
            self._left.append((time.monotonic() + _KEPT_SECONDS, os.getpid(), connection))
