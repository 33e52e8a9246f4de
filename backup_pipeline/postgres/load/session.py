"""What a restore runs in one session: a statement of the dump as it stands, and the rows of one table.

Which statement is run where is `load.load`'s and `fill`'s decision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import psycopg
from psycopg import Connection
from psycopg.pq import ExecStatus
from psycopg.rows import TupleRow

from backup_pipeline.errors import SourceError, UnreachableError
from backup_pipeline.postgres.server.connection import (
    connection_ended,
    message_without_values,
    was_ended,
    without_values,
)
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.system import limits

# Called with a statement that the server refused and the SQLSTATE; True skips it.
Tolerate = Callable[[bytes, str], bool]
# SQLSTATE classes: connection, resources (disk full, too many connections), operator's intervention, system.
_TROUBLE_OF_THE_SERVER = frozenset({"08", "53", "57", "58"})


class RefusedDataError(SourceError):
    """Rows of a table were refused: by which SQLSTATE, which constraint and for which column ("" for none)."""

    def __init__(self, what: str, *, where: str, remedy: str, state: str, constraint: str, column: str) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.state = state
        self.constraint = constraint
        self.column = column


def execute_statement(
    connection: Connection[TupleRow],
    text: bytes,
    target: PostgresTarget,
    tolerate: Tolerate | None = None,
    *,
    alone: bool = False,
) -> None:
    """Run one statement as it stands, in whatever encoding the dump set.

    With `alone` the server itself takes care that it is one: a text that holds a second statement is refused.

    Raises:
        SourceError: the server refused it and `tolerate` did not take that; names the first line, no data.
    """
    result = connection.pgconn.exec_params(text, None) if alone else connection.pgconn.exec_(text)
    if result.status in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK, ExecStatus.EMPTY_QUERY):
        return
    codec = connection.info.encoding
    primary = (result.error_field(ord("M")) or b"").decode(codec, "replace")
    state = (result.error_field(ord("C")) or b"").decode()
    if was_ended(state, primary or connection.pgconn.get_error_message()):
        raise connection_ended(primary or connection.pgconn.get_error_message(), target)
    if tolerate is not None and tolerate(text, state):
        return
    # Only up to the first literal: it may be a password (of a subscription) or data (of a large object).
    first = re.split(rb"['$\n]", text.strip(), maxsplit=1)[0][:120].decode(codec, "replace")
    raise refused(
        f"{message_without_values(primary, state).rstrip('.')} (SQLSTATE {state}) in: {first}",
        state,
        where=target.label,
        remedy="The database that was being restored is not used; the live one is untouched.",
    )


def refused(what: str, state: str, *, where: str, remedy: str) -> SourceError:
    """Return the error for what the server refused: a lasting one, unless it is the server's own trouble."""
    if state[:2] in _TROUBLE_OF_THE_SERVER:
        return UnreachableError(what, where=where, remedy="Check the server (a full disk?), then run it again.")
    return SourceError(what, where=where, remedy=remedy)


def _refused_data(diagnosis: psycopg.errors.Diagnostic, where: str) -> SourceError:
    """Return the error for refused rows. The context holds the line of data, which belongs into no message; nor does
    the primary message of a data exception (class 22) or of the site's own functions (P0)."""
    state, constraint = diagnosis.sqlstate or "", diagnosis.constraint_name or ""
    said = "" if state[:2] in ("22", "P0") else f": {' '.join((diagnosis.message_primary or '').split()).rstrip('.')}"
    what = f"The data of a table was refused (SQLSTATE {state}){said}."
    if state[:2] in _TROUBLE_OF_THE_SERVER:
        return refused(what, state, where=where, remedy="")
    return RefusedDataError(
        what,
        where=where,
        remedy="The live database is untouched. Read the server's log for the row.",
        state=state,
        constraint=constraint,
        column=diagnosis.column_name or "",
    )


def copy_rows(
    connection: Connection[TupleRow],
    target: PostgresTarget,
    table: tuple[str, str],
    statement: bytes,
    chunks: Iterator[bytes],
) -> tuple[int, int]:
    """Run a COPY … FROM STDIN with these data lines; return rows and bytes.

    Raises:
        SourceError: the data was refused; the error names the table, never a row.
    """
    size = 0
    with connection.cursor() as cursor:
        try:
            with cursor.copy(statement) as copy:
                for chunk in chunks:
                    copy.write(chunk)
                    limits.progressed()
                    size += len(chunk)
                    del chunk  # before the next one is read
        except Exception as error:
            if isinstance(error, psycopg.Error) and was_ended(error.sqlstate or "", str(error)):
                raise connection_ended(without_values(error), target) from None
            diagnosis = getattr(error, "diag", None)
            if diagnosis is not None and diagnosis.message_primary:
                raise _refused_data(diagnosis, f"{target.label}: {table[0]}.{table[1]}") from None
            raise
        return max(0, cursor.rowcount), size
