"""Keycloak databases: version, and Liquibase's lock, which a restore must leave free.

A dump that was taken while Keycloak migrated its schema holds a taken lock, and a Keycloak that starts on it waits
for ever. A realm export alone holds no users; that is why the database is what is backed up.
"""

from __future__ import annotations

from collections.abc import Mapping

from backup_pipeline.model.base import JsonValue
from backup_pipeline.postgres.catalog.keycloak_schema import KeycloakState, free_lock, keycloak_state
from backup_pipeline.postgres.server.target import PostgresTarget

TableName = tuple[str, str]

VERSION_TABLE = "databasechangelog"
LOCK_TABLE = "databasechangeloglock"


def is_lock(table: TableName) -> bool:
    """Return whether this is Liquibase's lock, which is never written by an upsert."""
    return table[1] == LOCK_TABLE


def is_version(table: TableName) -> bool:
    """Return whether this table says which version the schema has."""
    return table[1] == VERSION_TABLE


def recorded(details: Mapping[str, JsonValue]) -> KeycloakState | None:
    """Return what the record of a dump says of its Keycloak; None for any other database, and in older sets."""
    found = details.get("keycloak")
    if not isinstance(found, dict):
        return None
    return KeycloakState("", str(found.get("version") or ""), str(found.get("last_change") or ""), locked=False)


def settle(target: PostgresTarget) -> tuple[KeycloakState | None, list[str]]:
    """Free Liquibase's lock in a restored database; return its Keycloak version and what was done."""
    state = keycloak_state(target)
    if state is None:
        return None, []
    reported = [f"Keycloak {state.version or 'of unknown version'}, last change {state.last_change}"]
    if state.locked:
        free_lock(target, state.schema)
        reported.append("Liquibase's lock was taken in the backup; it is free now")
    return state, reported


def version_warning(backup: KeycloakState | None, live: KeycloakState | None) -> str:
    """Return what a person should know when the live Keycloak has another version than the backup; "" otherwise."""
    if backup is None or live is None or backup.last_change == live.last_change:
        return ""
    return (
        f"the live database is of Keycloak {live.version} ({live.last_change}), the backup of {backup.version} "
        f"({backup.last_change}): start the Keycloak version of the backup, or a newer one that migrates it"
    )
