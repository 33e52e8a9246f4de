"""Recognising a pooler that gives each transaction or statement another session of the server, before anything is done.

Through such a pooler a snapshot, a lock or a setting belongs to nobody, and what we set stays behind in sessions that
the application is given next. It is recognised by what it does, whatever its name or port; only process ids of the
server's sessions are compared, nothing is set.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow

from backup_pipeline.errors import SourceError
from backup_pipeline.postgres.server.cutting import cut_off_after
from backup_pipeline.postgres.server.target import PostgresTarget

_OTHERS = 2
_WAIT_SECONDS = 3.0
_SESSION = "select pg_catalog.pg_backend_pid()"
# Servers, as users reach them, of which it is known that a connection has a session of its own.
_KEEPS_SESSIONS: set[PostgresTarget] = set()


def refuse_pooling(connection: Connection[TupleRow], target: PostgresTarget) -> None:
    """Raise SourceError where connections of `target` have no session of the server of their own.

    Asked once for each server, user and database; where no pooler stands between, that is one short query.

    Args:
        connection: a new connection, in autocommit.
        target: how it was opened.
    """
    if target in _KEEPS_SESSIONS:
        return
    session = _session_of(connection)
    # A server gives its connections the process id of their session; a pooler makes one up.
    if session != connection.info.backend_pid and (kind := _pooling(connection, target, session)):
        raise SourceError(
            f"A pooler stands before the server that keeps no sessions ({kind} pooling): a snapshot, a lock or a "
            "setting would be lost or would reach the application.",
            where=target.label,
            remedy="Connect to the server itself, or to a pooler in session mode (Supabase: the session pooler or the "
            "direct connection; PgBouncer: pool_mode = session).",
        )
    _KEEPS_SESSIONS.add(target)


def _session_of(connection: Connection[TupleRow]) -> int:
    row = connection.execute(_SESSION).fetchone()
    assert row is not None
    return int(row[0])


def _pooling(connection: Connection[TupleRow], target: PostgresTarget, session: int) -> str:
    """Return "transaction" or "statement", or "" where the connection keeps its session.

    Others begin transactions at the same time: one that is given this connection's session, or a session that changes
    while they hold theirs, is the proof.
    """
    with contextlib.ExitStack() as others:
        for _ in range(_OTHERS):
            try:
                other = others.enter_context(_plain_connection(target))
                with cut_off_after(_WAIT_SECONDS, other):
                    other.execute("begin")
                    held = _session_of(other)
            except psycopg.Error as error:
                if "statement pooling" in str(error) or "transaction blocks not allowed" in str(error):
                    return "statement"
                if session != _session_of(connection):
                    return "transaction"
                # The pooler waits for a session to come free: this connection holds its own.
                return ""
            if session == held or session != _session_of(connection):
                return "transaction"
    return ""


@contextlib.contextmanager
def _plain_connection(target: PostgresTarget) -> Iterator[Connection[TupleRow]]:
    connection: Connection[TupleRow] = psycopg.connect(**target.connect_arguments(), autocommit=True)  # type: ignore[arg-type]
    try:
        yield connection
    finally:
        with contextlib.suppress(psycopg.Error):
            connection.close()
