"""Ending connections from outside, while other threads wait on them. When that is right is decided elsewhere."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterable, Iterator

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow

_CANCEL_SECONDS = 2.0


def end_connections(connections: Iterable[Connection[TupleRow]]) -> None:
    """End what runs on connections that other threads use: cancelled on the server, then cut off here. Never raises.

    Takes two seconds at most, also when the server does not answer; whoever waits on one is woken by an error.
    """
    threads = []
    living = [connection for connection in connections if not connection.closed]
    for connection in living:
        cancelling = threading.Thread(target=_cancel, args=(connection,), name="cancel", daemon=True)
        cancelling.start()
        threads.append(cancelling)
    for thread in threads:
        thread.join(_CANCEL_SECONDS)
    for connection in living:
        cut_off(connection)


def _cancel(connection: Connection[TupleRow]) -> None:
    with contextlib.suppress(psycopg.Error, OSError):
        connection.cancel_safe(timeout=_CANCEL_SECONDS)


def cut_off(connection: Connection[TupleRow]) -> None:
    """Shut a connection's socket, from any thread: what waits on it ends with an error."""
    with (
        contextlib.suppress(psycopg.Error, OSError, ValueError),
        socket.socket(fileno=os.dup(connection.pgconn.socket)) as link,
    ):
        link.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def cut_off_after(seconds: float, connection: Connection[TupleRow]) -> Iterator[None]:
    """Cut the connection off when the block takes longer: what waits in it ends with an error of psycopg."""
    alarm = threading.Timer(seconds, cut_off, [connection])
    alarm.daemon = True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()
