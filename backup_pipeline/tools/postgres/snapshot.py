"""One exported snapshot for many readers: locks first, then the snapshot, then any number of connections inside it.

The snapshot lives as long as the connection that exported it, and belongs to one database.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.errors import UnreachableError
from backup_pipeline.tools.postgres.connection import connected, server_version
from backup_pipeline.tools.postgres.target import PostgresTarget

_LOCK_BATCH = 500
_ATTEMPTS = 5

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
    """An exported snapshot. `connection` is the exporting session, inside the snapshot; not for use by two threads."""

    id: str
    target: PostgresTarget
    server_major: int
    server_version: str
    connection: Connection[TupleRow]
    lock_timeout_seconds: float


def _set_timeouts(connection: Connection[TupleRow], lock_timeout_seconds: float) -> None:
    connection.execute(
        "select set_config('lock_timeout', %s, false)", [f"{max(1, round(lock_timeout_seconds * 1000))}ms"]
    )
    # Only servers of 17 and later know it; a limit set for the role would end a long backup in the middle.
    connection.execute(
        "select set_config(name, '0', false) from pg_catalog.pg_settings where name = 'transaction_timeout'"
    )


def _lock(connection: Connection[TupleRow], tables: Iterable[tuple[str, str]]) -> None:
    names = iter(tables)
    while batch := list(itertools.islice(names, _LOCK_BATCH)):
        listed = sql.SQL(", ").join(sql.Identifier(*name) for name in batch)
        connection.execute(sql.SQL("lock table only {} in access share mode").format(listed))


def _table_names(connection: Connection[TupleRow]) -> list[tuple[str, str]]:
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
        major, version = server_version(connection)
        _set_timeouts(connection, lock_timeout_seconds)
        for attempt in range(_ATTEMPTS):
            known = _table_names(connection)
            connection.execute("begin transaction isolation level repeatable read read only")
            try:
                _lock(connection, known)
                break
            except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
                # A table was dropped between the look and the lock.
                connection.execute("rollback")
                if attempt + 1 == _ATTEMPTS:
                    raise UnreachableError(
                        "Tables keep disappearing while they are being locked.",
                        where=target.label,
                        remedy="Run the backup when no migration is running.",
                    ) from error
        # The first query takes the snapshot, after the locks: no table in it can be dropped or rewritten any more.
        row = connection.execute("select pg_catalog.pg_export_snapshot()").fetchone()
        assert row is not None
        _lock(connection, sorted(set(_table_names(connection)) - set(known)))
        yield Snapshot(str(row[0]), target, major, version, connection, lock_timeout_seconds)


@contextlib.contextmanager
def in_snapshot(snapshot: Snapshot) -> Iterator[Connection[TupleRow]]:
    """Open a connection of its own that sees exactly what the snapshot sees."""
    with connected(snapshot.target) as connection:
        _set_timeouts(connection, snapshot.lock_timeout_seconds)
        connection.execute("begin transaction isolation level repeatable read read only")
        connection.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot.id)))
        yield connection
