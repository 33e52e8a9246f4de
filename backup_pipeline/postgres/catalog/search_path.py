"""Reading under the search_path that the site's own functions were written for.

Sessions here have `search_path = pg_catalog`. But planning a query loads a table's index expressions, statistics and
policies and inlines their SQL functions, and a function that names another one without its schema is then not
understood. `pg_dump` is spared that, because its COPY of a table is not planned. So what was refused in this way is
read again under the role's and database's own path.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.postgres.server.connection import PINNED_SETTINGS

# Function, table, object, schema, column: not there, as far as this search_path shows; or of another type.
NOT_FOUND = frozenset({"42883", "42P01", "42704", "3F000", "42703", "42725", "42804"})
_OWN = "select reset_val from pg_catalog.pg_settings where name = 'search_path'"


def is_not_found(error: BaseException) -> bool:
    """Return whether an error, or the server's behind it, may come of the pinned search_path."""
    server = error if isinstance(error, psycopg.Error) else error.__cause__
    if isinstance(error, (psycopg.Error, BackupSystemError)) and isinstance(server, psycopg.Error):
        return server.sqlstate in NOT_FOUND
    return False


def with_catalog(path: str) -> str:
    """Return a search_path with pg_catalog first: nothing of the site may stand for a function of the server's."""
    return f"pg_catalog, {path}" if path and path != '""' else ""


def own_search_path(connection: Connection[TupleRow]) -> str:
    """Return the role's and database's own search_path, as its setting is written."""
    row = connection.execute(_OWN.encode()).fetchone()
    return (with_catalog(str(row[0])) if row else "") or PINNED_SETTINGS["search_path"]


@contextlib.contextmanager
def under_search_path(connection: Connection[TupleRow], path: str) -> Iterator[None]:
    """Have a search_path in force for the block, and the pinned one after it."""
    connection.execute("select pg_catalog.set_config('search_path', %s, false)", [path])
    try:
        yield
    finally:
        # A session in a failed transaction is not used again.
        with contextlib.suppress(psycopg.Error):
            connection.execute(
                "select pg_catalog.set_config('search_path', %s, false)", [PINNED_SETTINGS["search_path"]]
            )
