"""Opening connections to PostgreSQL, with pinned output settings and errors translated.

The pinned settings make text output the same whatever the server's or role's defaults are.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow

from backup_pipeline.errors import BackupSystemError, SourceError, UnreachableError
from backup_pipeline.tools.postgres.target import PostgresTarget

PINNED_SETTINGS = {
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "client_encoding": "UTF8",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "60s",
    # A role's setting must neither hide rows nor change what names mean.
    "row_security": "off",
    "search_path": "pg_catalog",
}
APPLICATION_NAME = "backup-pipeline"


def _state_of_refusal(text: str) -> str:
    """Return the SQLSTATE that a refused connection's text means: libpq passes none on while connecting.

    Only servers that speak English are understood; others are told as unreachable, with their own words.
    """
    missing = "does not exist" in text
    if "authentication failed" in text or "no pg_hba.conf entry" in text or (missing and 'role "' in text):
        return "28000"
    return "3D000" if missing and 'database "' in text else ""


_NO_ROOM = re.compile(r"too many (connections|clients)|connection slots are reserved|max clients")


def takes_no_more(text: str) -> bool:
    """Return whether a server, or a pooler before it, refuses because it has its fill of connections."""
    return bool(_NO_ROOM.search(text))


def no_more_connections(text: str, target: PostgresTarget) -> UnreachableError:
    """Return the error for a server that takes no further connection."""
    return UnreachableError(
        f"The server takes no more connections: {text}.",
        where=target.label,
        remedy="Lower `connections` of the source (a backup takes that many and two more), or let the role have more.",
    )


def message_without_values(text: str, state: str) -> str:
    """Return a server's message as one line without quoted data, which belong to customers."""
    if state.startswith("P0"):
        # Words of the site's own functions: `RAISE EXCEPTION 'no stock of %', new.article`.
        return f"a trigger or function of the database raised an error of its own (SQLSTATE {state})"
    # Data exceptions quote the value: `invalid input syntax for type integer: "…"`.
    return " ".join((text.split(': "', 1)[0] if state.startswith("22") else text).split())


def without_values(error: psycopg.Error) -> str:
    """Return what the server says, without its DETAIL and without quoted data."""
    text = message_without_values(error.diag.message_primary or str(error), error.sqlstate or "")
    return (text or type(error).__name__).rstrip(".")


def translate_postgres_error(error: psycopg.Error, target: PostgresTarget) -> BackupSystemError:
    """Return the family's error for a server's error; neither the password nor values of rows are in it."""
    text = without_values(error)
    if target.password:
        text = text.replace(target.password, "***")
    state = error.sqlstate or _state_of_refusal(text)
    if state.startswith("28"):
        return SourceError(
            f"The server refused the login: {text}.", where=target.label, remedy="Check user and password."
        )
    if state == "3D000":
        return SourceError(f"{text}.", where=target.label, remedy="Check the database's name.")
    if state == "42501":
        return SourceError(
            f"No right: {text}.",
            where=target.label,
            remedy="Use a role that may read everything (with BYPASSRLS where row level security is on).",
        )
    if state == "55P03":
        return UnreachableError(
            f"A lock was not granted in time: {text}.",
            where=target.label,
            remedy="Another session holds a conflicting lock (a migration?); run again when it has finished.",
        )
    if takes_no_more(text):
        return no_more_connections(text, target)
    if isinstance(error, psycopg.OperationalError) and (not state or state[:2] in {"08", "57", "53"}):
        return UnreachableError(
            f"The server cannot be reached or went away: {text}.",
            where=target.label,
            remedy="Check that it runs and that host and port are right, then run again.",
        )
    return SourceError(f"{text}.", where=target.label, remedy="Look at the server's log.")


@contextlib.contextmanager
def translated(target: PostgresTarget) -> Iterator[None]:
    """Translate psycopg's errors of the block into the family's."""
    try:
        yield
    except psycopg.Error as error:
        raise translate_postgres_error(error, target) from error


def open_connection(target: PostgresTarget, *, autocommit: bool = True, pinned: bool = True) -> Connection[TupleRow]:
    """Open a connection; with `pinned` its session has PINNED_SETTINGS.

    Raises:
        UnreachableError, SourceError: as the server or network says.
    """
    arguments = {"application_name": APPLICATION_NAME, **target.connect_arguments()}
    with translated(target):
        connection: Connection[TupleRow] = psycopg.connect(**arguments, autocommit=True)  # type: ignore[arg-type]
        try:
            if pinned:
                connection.execute(
                    "select " + ", ".join("set_config(%s, %s, false)" for _ in PINNED_SETTINGS),
                    [part for pair in PINNED_SETTINGS.items() for part in pair],
                )
            connection.autocommit = autocommit
        except BaseException:
            connection.close()
            raise
        return connection


@contextlib.contextmanager
def connected(
    target: PostgresTarget, *, autocommit: bool = True, pinned: bool = True
) -> Iterator[Connection[TupleRow]]:
    """Open a connection for the block, translate its errors, close it."""
    connection = open_connection(target, autocommit=autocommit, pinned=pinned)
    try:
        with translated(target):
            yield connection
    finally:
        connection.close()


def server_version(connection: Connection[TupleRow]) -> tuple[int, str]:
    """Return the server's major version and its version as it says it."""
    row = connection.execute("select current_setting('server_version')").fetchone()
    assert row is not None
    return connection.info.server_version // 10000, str(row[0])
