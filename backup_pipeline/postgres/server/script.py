"""Running SQL scripts and making databases and roles, for set-up work. Not for dumps: those go through psql."""

from __future__ import annotations

from psycopg import sql

from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget


def run_script(target: PostgresTarget, script: str) -> None:
    """Run a script of several statements in one transaction; errors are the family's."""
    with connected(target, pinned=False) as connection, connection.transaction():
        connection.execute(script.encode())


def database_exists(server: PostgresTarget, name: str) -> bool:
    """Return whether the server has a database of that name."""
    with connected(server) as connection:
        return connection.execute("select 1 from pg_database where datname = %s", [name]).fetchone() is not None


def create_database(server: PostgresTarget, name: str, *, owner: str | None = None) -> None:
    """Create an empty database, owned by `owner` where named."""
    statement = sql.SQL("create database {} template template0 encoding 'UTF8'").format(sql.Identifier(name))
    if owner:
        statement += sql.SQL(" owner {}").format(sql.Identifier(owner))
    with connected(server) as connection:
        connection.execute(statement)


def create_login(server: PostgresTarget, name: str, password: str) -> None:
    """Create a role that may log in, or give the one that exists this password."""
    with connected(server) as connection:
        known = connection.execute("select 1 from pg_roles where rolname = %s", [name]).fetchone()
        verb = "alter" if known else "create"
        connection.execute(
            sql.SQL(verb + " role {} login password {}").format(sql.Identifier(name), sql.Literal(password))
        )
