"""Reading and settling the two Liquibase tables and the version that Keycloak keeps in its database."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget

_FIND = """
select n.nspname from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where c.relname = 'databasechangeloglock' and c.relkind = 'r'
   and exists (select from pg_catalog.pg_class m where m.relnamespace = n.oid and m.relname = 'migration_model')
 limit 1
"""


@dataclass(frozen=True, slots=True)
class KeycloakState:
    """Schema of Keycloak's tables, its version, the last change set, and whether Liquibase's lock is taken."""

    schema: str
    version: str
    last_change: str
    locked: bool


def keycloak_state(target: PostgresTarget) -> KeycloakState | None:
    """Return what a Keycloak database says of itself; None for any other database."""
    with connected(target) as connection:
        return keycloak_state_in(connection)


def keycloak_state_in(connection: Connection[TupleRow]) -> KeycloakState | None:
    """Return what a Keycloak database says of itself in this session, as in a snapshot; None for any other database.

    Also None where tables of these names have other columns, or this role may not read them.
    """
    try:
        with connection.transaction():
            return _read(connection)
    except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        return None


def _read(connection: Connection[TupleRow]) -> KeycloakState | None:
    found = connection.execute(_FIND).fetchone()
    if found is None:
        return None
    schema = str(found[0])

    def first(query: str, table: str) -> TupleRow | None:
        return connection.execute(sql.SQL(query).format(sql.Identifier(schema, table))).fetchone()

    version = first("select version from {} order by update_time desc limit 1", "migration_model")
    change = first("select id from {} order by orderexecuted desc limit 1", "databasechangelog")
    locked = first("select coalesce(bool_or(locked), false) from {}", "databasechangeloglock")
    return KeycloakState(
        schema, str(version[0] or "") if version else "", str(change[0]) if change else "", bool(locked and locked[0])
    )


def free_lock(target: PostgresTarget, schema: str) -> None:
    """Free Liquibase's lock."""
    with connected(target) as connection:
        connection.execute(
            sql.SQL("update {} set locked = false, lockgranted = null, lockedby = null where locked").format(
                sql.Identifier(schema, "databasechangeloglock")
            )
        )
