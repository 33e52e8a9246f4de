"""Opening connections to PostgreSQL, with pinned output settings and errors translated.

The pinned settings make text output the same whatever the server's or role's defaults are.
"""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow

from backup_pipeline.errors import BackupSystemError, CrowdedError, SourceError, TimeLimitError, UnreachableError
from backup_pipeline.postgres.server.cutting import cut_off_after, end_connections
from backup_pipeline.postgres.server.pooling import refuse_pooling
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.system import limits

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
    # Nor how the catalog's functions write names, literals and XML, nor how what is sent is read.
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "escape_string_warning": "off",
    "xmloption": "content",
    "xmlbinary": "base64",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "timezone_abbreviations": "Default",
    # Nor what becomes of our own transactions and temporary tables, nor in which order rows come.
    "exit_on_error": "off",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "default_tablespace": "",
    "default_table_access_method": "heap",
    "synchronize_seqscans": "off",
    # A session whose client has vanished must not hold a snapshot for hours: the server asks after some minutes.
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "6",
}
# The same of a session that runs a dump's statements, which say only some of it themselves: an `alter role … set` of
# these would change what the dump means, or end the session.
SETTINGS_FOR_A_DUMP = {
    name: PINNED_SETTINGS[name]
    for name in (
        "IntervalStyle",
        "array_nulls",
        "transform_null_equals",
        "backslash_quote",
        "exit_on_error",
        "default_transaction_read_only",
    )
}
# Limits that only servers from this version on know. (`alter role … set` would end a session that waits for others.)
_LATER_LIMITS = {"idle_session_timeout": 140000, "transaction_timeout": 170000}
# While a statement runs, the server checks that often whether its client is still there (since 14, and where the system
# can tell).
_CLIENT_CHECK = """case when pg_catalog.current_setting('client_connection_check_interval', true) is not null
 and pg_catalog.version() ~ 'linux' then pg_catalog.set_config('client_connection_check_interval', '5s', false) end"""
_PROBE_SECONDS = 4
_CLEANING_SECONDS = 3
# From the login to the first settings; making the connection itself has the limit `connect_timeout`.
_OPENING_SECONDS = 60.0
_QUESTION_SECONDS = 60.0
APPLICATION_NAME = "backup-pipeline"


def _state_of_refusal(text: str) -> str:
    """Return the SQLSTATE that a refused connection's text means: libpq passes none on while connecting.

    Only servers that speak English are understood; others are reported as unreachable, with their own text.
    """
    missing = "does not exist" in text
    if "authentication failed" in text or "no pg_hba.conf entry" in text or (missing and 'role "' in text):
        return "28000"
    return "3D000" if missing and 'database "' in text else ""


_TLS = re.compile(
    r"does not support SSL|SSL error|certificate|private key|SSL connection is required|tlsv1",
    re.IGNORECASE,
)
_OTHER_KIND = re.compile(r"session is (not )?read-only|server is (not )?in hot standby mode")
_ENDED_STATES = frozenset({"57P01", "57P02", "57P05", "25P03", "25P04", "08006", "08003"})
_ENDED = re.compile(
    r"server closed the connection|terminating connection|connection (is|was) (lost|closed)"
    r"|SSL connection has been closed|no connection to the server|connection has been lost"
    r"|could not receive data from server|could not send data to server|consuming input failed"
    r"|(Broken pipe|Connection reset by peer|SSL SYSCALL error)"
)


class LockNotGrantedError(UnreachableError):
    """A lock was not granted in time: somebody else's stands in the way, or waits for one of ours."""


def was_ended(state: str, text: str) -> bool:
    """Return whether an error means that a connection which stood was ended: by somebody, a restart, the network."""
    return state in _ENDED_STATES or (not state and bool(_ENDED.search(text)))


def connection_ended(text: str, target: PostgresTarget) -> UnreachableError:
    """Return the error for a connection that was ended while it was used."""
    return UnreachableError(
        f"The connection was ended: {' '.join(text.split()).rstrip('.')}.",
        where=target.label,
        remedy="Somebody ended the session, the server was stopped, or the network broke; the server's log says which. "
        "Run it again.",
    )


_NO_ROOM = re.compile(r"too many (connections|clients)|connection slots are reserved|max clients")


def takes_no_more(text: str) -> bool:
    """Return whether a server, or a pooler before it, refuses because it has its fill of connections."""
    return bool(_NO_ROOM.search(text))


def no_more_connections(text: str, target: PostgresTarget) -> CrowdedError:
    """Return the error for a server that takes no further connection."""
    return CrowdedError(
        f"The server takes no more connections: {text}.",
        where=target.label,
        remedy="Lower `connections` of the source (a backup takes that many and two more), or let the role have more.",
    )


def message_without_values(text: str, state: str) -> str:
    """Return a server's message as one line without quoted data, which belong to customers."""
    if state.startswith("P0"):
        # Messages of the site's own functions: `RAISE EXCEPTION 'no stock of %', new.article`.
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
    if "no password supplied" in text or "password authentication failed: empty password" in text:
        return SourceError(
            f"The server asks for a password, and none is given: {text}.",
            where=target.label,
            remedy="Put it into the connection string, `password_env`, PGPASSWORD, or a password file (PGPASSFILE, "
            "~/.pgpass with mode 0600).",
        )
    if _TLS.search(text):
        return SourceError(
            f"The encrypted connection was not made: {text}.",
            where=target.label,
            remedy="Check `sslmode`, `sslrootcert`, `sslcert` and `sslkey` of the connection string against what the "
            "server offers.",
        )
    if _OTHER_KIND.search(text):
        return UnreachableError(
            f"No server is as `target_session_attrs` asks: {text}.",
            where=target.label,
            remedy="Check which of the hosts is the primary, or ask for another kind of server.",
        )
    if was_ended(state, text):
        return connection_ended(text, target)
    if state.startswith("28"):
        return SourceError(
            f"The server refused the login: {text}.",
            where=target.label,
            remedy="Check user and password."
            if "pg_hba" not in text
            else "Let this user in from here (pg_hba.conf); where only encrypted connections may: `sslmode=require`.",
        )
    if state == "3D000":
        return SourceError(f"{text}.", where=target.label, remedy="Check the database's name.")
    if state == "42501":
        return SourceError(
            f"No right: {text}.",
            where=target.label,
            remedy="Use a role that may read everything (with BYPASSRLS where row level security is on).",
        )
    return _failed_statement(error, state, text, target)


def _failed_statement(error: psycopg.Error, state: str, text: str, target: PostgresTarget) -> BackupSystemError:
    """Return the error for what a server refused after the login; `text` holds no secret."""
    if state == "55P03":
        return LockNotGrantedError(
            f"A lock was not granted in time: {text}.",
            where=target.label,
            remedy="Another session holds a conflicting lock (a migration?); run again when it has finished.",
        )
    if takes_no_more(text):
        return no_more_connections(text, target)
    if LOCKS_FULL in text:
        return SourceError(f"The server's table of locks is full: {text}.", where=target.label, remedy=MORE_LOCKS)
    if isinstance(error, psycopg.OperationalError) and (not state or state[:2] in {"08", "57", "53"}):
        return UnreachableError(
            f"The server cannot be reached or went away: {text}.",
            where=target.label,
            remedy="Check that it runs and that host and port are right, then run again.",
        )
    return SourceError(f"{text}.", where=target.label, remedy="Read the server's log.")


LOCKS_FULL = "out of shared memory"
MORE_LOCKS = (
    "A backup locks every table. Raise `max_locks_per_transaction` in postgresql.conf (64 by default) to the number of "
    "tables divided by that of `max_connections`, and some more; then restart the server."
)


@contextlib.contextmanager
def translated(target: PostgresTarget) -> Iterator[None]:
    """Translate psycopg's errors of the block into the family's."""
    try:
        yield
    except psycopg.Error as error:
        raise translate_postgres_error(error, target) from error


class WatchedConnection(Connection[TupleRow]):
    """A connection that says when it has moved on, and is ended when a limit is reached or an interrupt comes."""

    _forget: Any = None

    def watch(self, target: PostgresTarget) -> None:
        """Have it ended with the work that it is opened for."""
        self._forget = limits.register(lambda: end_connections([self]))
        limits.add_probe(target.with_database(""), lambda: _at_work(target))

    def wait(self, *arguments: Any, **named: Any) -> Any:
        """Wait as psycopg does; every answer is progress."""
        answer = super().wait(*arguments, **named)
        limits.moved()
        return answer

    def forget(self) -> None:
        """Take it from the work that it was used for: it is not ended with it any more."""
        if self._forget is not None:
            self._forget()
            self._forget = None

    def close(self) -> None:
        """Close it; it is not ended any more."""
        self.forget()
        super().close()


def _at_work(target: PostgresTarget) -> bool:
    """Return whether the server is at work for a session of ours: not idle, and waiting neither for us nor for a lock.

    An index that takes hours to build is progress, though no byte comes from the server meanwhile.
    """
    arguments = {**target.connect_arguments(), "connect_timeout": _PROBE_SECONDS}
    try:
        with psycopg.connect(**arguments, autocommit=True) as connection:  # type: ignore[arg-type]
            with cut_off_after(_PROBE_SECONDS, connection):
                row = connection.execute(_AT_WORK, [[APPLICATION_NAME, "pg_dump", "pg_restore", "psql"]]).fetchone()
            return bool(row and row[0])
    except (psycopg.Error, OSError):
        return False


_AT_WORK = """
select exists (select from pg_catalog.pg_stat_activity
                where usename = current_user and pid <> pg_catalog.pg_backend_pid() and state = 'active'
                  and application_name = any(%s) and coalesce(wait_event_type, '') not in ('Client', 'Lock'))
"""


def pin_session(connection: Connection[TupleRow], settings: Mapping[str, str]) -> None:
    """Give a session these settings, and no limits of time that the server's version may have besides."""
    pinned = {**settings, **_no_later_limits(connection.info.server_version)}
    connection.execute(
        "select " + ", ".join("pg_catalog.set_config(%s, %s, false)" for _ in pinned),
        [part for pair in pinned.items() for part in pair],
    )


def _no_later_limits(version: int) -> dict[str, str]:
    return {name: "0" for name, since in _LATER_LIMITS.items() if version >= since}


@functools.cache
def _first_statement(version: int) -> bytes:
    """Return what pins a session of a server of this version: one statement, since each waits for the network."""
    pinned = PINNED_SETTINGS | _no_later_limits(version)
    values = [f"pg_catalog.set_config('{name}', '{value}', false)" for name, value in pinned.items()]
    return f"select {', '.join([*values, _CLIENT_CHECK])}".encode()


def _logged_in(arguments: Mapping[str, str | int]) -> WatchedConnection:
    """Connect; an attempt that failed or was interrupted leaves no half-open connection.

    While a login waits for its client, the server can drop no database. psycopg keeps the attempt in its frame, which
    an exception's traceback keeps for as long as it is handled: clean-up after an interrupt waited for the server's
    `authentication_timeout`.
    """
    try:
        return WatchedConnection.connect(**arguments, autocommit=True)  # type: ignore[arg-type]
    except BaseException as error:  # noqa: BLE001
        raise error.with_traceback(None) from None


def open_connection(target: PostgresTarget, *, autocommit: bool = True, pinned: bool = True) -> Connection[TupleRow]:
    """Open a connection; with `pinned` its session has PINNED_SETTINGS.

    Raises:
        UnreachableError, SourceError: as the server or network says; also for a pooler that keeps no sessions.
        TimeLimitError: the work was ended meanwhile.
    """
    arguments = {"application_name": APPLICATION_NAME, **target.connect_arguments()}
    if limits.ending():
        arguments["connect_timeout"] = _CLEANING_SECONDS
    with translated(target):
        connection = _logged_in(arguments)
        try:
            connection.watch(target)
            with cut_off_after(_OPENING_SECONDS, connection):
                refuse_pooling(connection, target)
                if pinned:
                    connection.execute(_first_statement(connection.info.server_version))
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


@contextlib.contextmanager
def asking(target: PostgresTarget, *, seconds: float = _QUESTION_SECONDS) -> Iterator[Connection[TupleRow]]:
    """Open a connection for short questions that belong to no limited work; a server that does not answer is cut off.

    Args:
        target: the database.
        seconds: how long all of the block's questions may take.

    Raises:
        TimeLimitError: they took longer.
    """
    began = time.monotonic()
    try:
        with connected(target) as connection, cut_off_after(seconds, connection):
            yield connection
    except UnreachableError as error:
        if time.monotonic() - began < seconds:
            raise
        raise TimeLimitError(
            f"The server did not answer within {limits.seconds_text(seconds)}.",
            where=target.label,
            remedy="Check the server and the network between.",
        ) from error


def server_version(connection: Connection[TupleRow]) -> tuple[int, str]:
    """Return the server's major version and its version as it says it."""
    return connection.info.server_version // 10000, connection.info.parameter_status("server_version") or ""
