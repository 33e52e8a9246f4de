"""One exported snapshot for many readers: locks first, then the snapshot, then any number of connections inside it.

The snapshot lives as long as the connection that exported it, and belongs to one database.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.errors import UnreachableError
from backup_pipeline.postgres.server.connection import connected, connection_ended, server_version
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.system import limits
from backup_pipeline.system.threads import start_thread

_LOCK_BATCH = 500
# While one lock is waited for, those granted before are held and may keep others waiting: so not for long at a time.
_LOCK_SECONDS = 2.0
_PAUSE_SECONDS = 0.2
# A reader's own lock is granted at once, since the snapshot's session holds it already, unless somebody waits for that.
READER_LOCK_SECONDS = 3
# A session of ours that hears nothing from us for so long is ended by the server: its client has vanished.
_IDLE_LIMIT = "10min"
_HEARTBEAT_SECONDS = 60.0

# What pg_dump locks: ordinary and partitioned tables outside the system's schemas; of an extension's only those that
# hold rows of the site (pg_extension_config_dump).
LOCKABLE_TABLES = """
select n.nspname, c.relname
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p') and c.relpersistence <> 't'
   and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
   and (not exists (select from pg_catalog.pg_depend d
                     where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid
                       and d.deptype = 'e')
        or exists (select from pg_catalog.pg_extension e where c.oid = any(e.extconfig)))
 order by 1, 2
"""


@dataclass(frozen=True)
class Snapshot:
    """An exported snapshot.

    `connection` is the exporting session, inside the snapshot, which holds the lock of every table. Whoever uses it
    while other threads might holds `guard`.
    """

    id: str
    target: PostgresTarget
    server_major: int
    server_version: str
    connection: Connection[TupleRow]
    lock_timeout_seconds: float
    guard: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def held(self) -> bool:
        """Return whether the session that holds the snapshot still answers."""
        try:
            with self.guard:
                self.connection.execute("select 1")
        except psycopg.Error:
            return False
        return True


def _set_timeouts(connection: Connection[TupleRow], lock_timeout_seconds: float) -> None:
    connection.execute(
        "select set_config('lock_timeout', %s, false)", [f"{max(1, round(lock_timeout_seconds * 1000))}ms"]
    )
    connection.execute("select set_config('idle_in_transaction_session_timeout', %s, false)", [_IDLE_LIMIT])


def _lock(connection: Connection[TupleRow], tables: Iterable[tuple[str, str]]) -> None:
    names = iter(tables)
    while batch := list(itertools.islice(names, _LOCK_BATCH)):
        listed = sql.SQL(", ").join(sql.Identifier(*name) for name in batch)
        connection.execute(sql.SQL("lock table only {} in access share mode").format(listed))


def list_tables(connection: Connection[TupleRow]) -> list[tuple[str, str]]:
    """Return (schema, table) of every ordinary and partitioned user table that a dump holds, by name."""
    return [(str(schema), str(name)) for schema, name in connection.execute(LOCKABLE_TABLES)]


@contextlib.contextmanager
def exported_snapshot(target: PostgresTarget, *, lock_timeout_seconds: float = 60.0) -> Iterator[Snapshot]:
    """Lock every user table (ACCESS SHARE), export one snapshot that holds for the block.

    Args:
        target: the database.
        lock_timeout_seconds: how long to wait for a table that a migration holds.

    Raises:
        UnreachableError: the server is away, or a lock was not granted in time.
        SourceError: the role may not read a table, or row level security would hide rows from it.
    """
    with connected(target) as connection:
        # Of several hosts the one that answered has the snapshot.
        target = target.at(connection.info.host, connection.info.port)
        major, version = server_version(connection)
        known = _begin_locked(connection, target, lock_timeout_seconds)
        # The first query takes the snapshot, after the locks: no table in it can be dropped or rewritten any more.
        row = connection.execute("select pg_catalog.pg_export_snapshot()").fetchone()
        assert row is not None
        _lock(connection, sorted(set(list_tables(connection)) - set(known)))
        snapshot = Snapshot(str(row[0]), target, major, version, connection, lock_timeout_seconds)
        with kept_alive([connection], snapshot.guard):
            yield snapshot


def _begin_locked(connection: Connection[TupleRow], target: PostgresTarget, seconds: float) -> list[tuple[str, str]]:
    """Begin a transaction that holds the lock of every table; return their names.

    Where one is not to be had, all are given back for a moment before the next try: whoever waits for one of ours gets
    it, and nobody waits long for somebody else's.
    """
    until = time.monotonic() + seconds
    while True:
        limits.check()
        _set_timeouts(connection, min(_LOCK_SECONDS, seconds))
        known = list_tables(connection)
        connection.execute("begin transaction isolation level repeatable read read only")
        try:
            _lock(connection, known)
            return known
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            connection.execute("rollback")
            if time.monotonic() >= until:
                raise
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            # A table was dropped between the query and the lock.
            connection.execute("rollback")
            if time.monotonic() >= until:
                raise UnreachableError(
                    "Tables keep disappearing while they are being locked.",
                    where=target.label,
                    remedy="Run the backup when no migration is running.",
                ) from error
        time.sleep(_PAUSE_SECONDS)


@contextlib.contextmanager
def kept_alive(connections: Iterable[Connection[TupleRow]], guard: threading.Lock) -> Iterator[None]:
    """Have the server hear from idle sessions during the block, so that it does not take them for abandoned.

    Args:
        connections: read anew each time.
        guard: held while one of them is used.
    """
    stop = threading.Event()

    def beat() -> None:
        # That the server hears from us is no progress of the work.
        limits.counts_for_nothing()
        while not stop.wait(_HEARTBEAT_SECONDS):
            # Who holds the guard is using them, which the server hears too.
            if guard.acquire(blocking=False):
                try:
                    for connection in tuple(connections):
                        with contextlib.suppress(psycopg.Error):
                            psycopg.Connection.execute(connection, "select 1")
                finally:
                    guard.release()

    start_thread(beat, "snapshot-heartbeat")
    try:
        yield
    finally:
        stop.set()


@contextlib.contextmanager
def in_snapshot(snapshot: Snapshot) -> Iterator[Connection[TupleRow]]:
    """Open a connection of its own that sees exactly what the snapshot sees."""
    with connected(snapshot.target) as connection:
        _set_timeouts(connection, min(READER_LOCK_SECONDS, snapshot.lock_timeout_seconds))
        connection.execute("begin transaction isolation level repeatable read read only")
        try:
            connection.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot.id)))
        except (psycopg.errors.InvalidParameterValue, psycopg.errors.UndefinedObject) as error:
            if snapshot.held():
                raise
            raise connection_ended("the session that held the snapshot is gone", snapshot.target) from error
        yield connection
