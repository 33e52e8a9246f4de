"""Reading and settling the two Liquibase tables and the version that Keycloak keeps in its database."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from backup_pipeline.tools.postgres.connection import connected
from backup_pipeline.tools.postgres.target import PostgresTarget

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
        found = connection.execute(_FIND).fetchone()
        if found is None:
            return None
        schema = str(found[0])
        version = connection.execute(
            sql.SQL("select version from {} order by update_time desc limit 1").format(
                sql.Identifier(schema, "migration_model")
            )
        ).fetchone()
        change = connection.execute(
            sql.SQL("select id from {} order by orderexecuted desc limit 1").format(
                sql.Identifier(schema, "databasechangelog")
            )
        ).fetchone()
        locked = connection.execute(
            sql.SQL("select coalesce(bool_or(locked), false) from {}").format(
                sql.Identifier(schema, "databasechangeloglock")
            )
        ).fetchone()
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
