"""Databases and roles that live for one drill on a server that is not ours: recognised and removed when it was killed.

A drill's database has a name of its own and its process holds an advisory lock of that name, which ends with it. Roles
that it made carry the name in their comment.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable, Iterator

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.errors import RefusedError, SourceError
from backup_pipeline.postgres.load.check import drop_subscriptions
from backup_pipeline.postgres.load.loading_role import quiet
from backup_pipeline.postgres.server.databases import drop_database, drop_roles, maintenance
from backup_pipeline.postgres.server.target import PostgresTarget

_NAME = re.compile(r"drill_[0-9a-f]{16}")
_COMMENT = "made by backup-pipeline for "
_LOCK = "select pg_try_advisory_lock(hashtextextended(%s, 0))"
_MADE_ROLES = """
select r.rolname, pg_catalog.shobj_description(r.oid, 'pg_authid') from pg_catalog.pg_roles r
 where pg_catalog.shobj_description(r.oid, 'pg_authid') like %s
"""


@contextlib.contextmanager
def scratch_database(
    server: PostgresTarget, passed_over: Callable[[str], None] | None = None
) -> Iterator[PostgresTarget]:
    """Give a database to make on a scratch server; it and the roles marked for it are removed whatever happens.

    First what killed drills have left on the server is removed.

    Args:
        server: any database of the server.
        passed_over: receives the name of each that a killed drill left and that this role may not remove.
    """
    with maintenance(server) as connection:
        major = connection.info.server_version // 10000
        remove_abandoned(connection, server, passed_over)
        target = server.with_database(f"drill_{secrets.token_hex(8)}")
        connection.execute(_LOCK, [_key(target.database)])
        try:
            yield target
        finally:
            # Not over this connection: an interrupt or a limit has cut it off.
            _remove(target, major)


def mark_roles(target: PostgresTarget, roles: tuple[str, ...]) -> None:
    """Write into the roles' comments that they were made for this scratch database."""
    with maintenance(target) as connection:
        for role in roles:
            connection.execute(
                sql.SQL("comment on role {} is {}").format(
                    sql.Identifier(role), sql.Literal(f"{_COMMENT}{target.database}")
                )
            )


def remove_abandoned(
    connection: Connection[TupleRow], server: PostgresTarget, passed_over: Callable[[str], None] | None = None
) -> tuple[str, ...]:
    """Remove databases and roles of drills whose process is gone; return the databases' names."""
    databases = [str(row[0]) for row in connection.execute("select datname from pg_catalog.pg_database").fetchall()]
    roles = connection.execute(_MADE_ROLES, [f"{_COMMENT}%"]).fetchall()
    names = {name for name in databases if _NAME.fullmatch(name)}
    names |= {name for _, comment in roles if _NAME.fullmatch(name := str(comment).removeprefix(_COMMENT))}
    removed = []
    for name in sorted(names):
        row = connection.execute(_LOCK, [_key(name)]).fetchone()
        if row and row[0]:
            # Somebody else's scratch database, where this role may not drop it, is left to them.
            try:
                _remove(server.with_database(name), connection.info.server_version // 10000)
                removed.append(name)
            except (psycopg.errors.InsufficientPrivilege, SourceError, RefusedError):
                if passed_over is not None:
                    passed_over(name)
            connection.execute("select pg_advisory_unlock(hashtextextended(%s, 0))", [_key(name)])
    return tuple(removed)


def _key(name: str) -> str:
    return f"backup-pipeline {name}"


def _remove(target: PostgresTarget, major: int) -> None:
    drop_subscriptions(quiet(target, major))
    drop_database(target)
    with maintenance(target) as connection:
        roles = connection.execute(_MADE_ROLES, [f"{_COMMENT}{target.database}"]).fetchall()
    drop_roles(target, [str(role) for role, _ in roles])
