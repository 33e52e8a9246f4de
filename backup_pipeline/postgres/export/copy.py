"""Rows out of the server by COPY, in pieces of whole rows. What becomes of the bytes is not known here."""

from __future__ import annotations

import select
from collections.abc import Iterator

import psycopg
from psycopg import Connection, pq
from psycopg.rows import TupleRow

from backup_pipeline.system import limits

_WAIT_SECONDS = 30.0
_ANY_BYTES = "SQL_ASCII"

CSV = b"format csv"
CSV_WITH_HEADER = b"format csv, header"
# A value that holds neither of these two control characters nor an end of line comes out as it is; JSON never does.
BARE_LINES = b"format csv, quote e'\\x01', delimiter e'\\x02'"


def takes_any_bytes(connection: Connection[TupleRow]) -> bool:
    """Return whether the database is in SQL_ASCII: its texts are whatever bytes were put in, in no known encoding."""
    return connection.info.parameter_status("server_encoding") == _ANY_BYTES


def with_encoding(options: bytes, connection: Connection[TupleRow]) -> bytes:
    """Return COPY's options for a connection that speaks UTF-8: bytes of no known encoding come as they are."""
    return options + b", encoding 'SQL_ASCII'" if takes_any_bytes(connection) else options


def copy_out(
    connection: Connection[TupleRow], query: bytes, *, options: bytes = CSV, piece: int = 4 << 20
) -> Iterator[bytes]:
    """Yield what `COPY (query) TO STDOUT (options)` sends, in pieces of whole rows of about `piece` bytes.

    A piece is larger only when a single row is. The protocol sends one message per row; they are gathered here with
    libpq's own call, which costs half of what a Python iterator over them does.

    Args:
        connection: idle, or inside a transaction; not to be used otherwise until the last piece has come.
        query: a SELECT, encoded in UTF-8.
        options: of COPY; one of this module's constants.
        piece: bytes.

    Raises:
        psycopg.Error: the server's error, or the connection broke.
    """
    link = connection.pgconn
    link.send_query(b"copy (" + query + b") to stdout (" + with_encoding(options, connection) + b")")
    _wait_for_result(link)
    result = link.get_result()
    if result is None or result.status != pq.ExecStatus.COPY_OUT:
        raise _error(link, result)
    parts: list[bytes | memoryview] = []
    size = 0
    take = link.get_copy_data
    add = parts.append
    while True:
        count, data = take(1)
        if count > 0:
            add(data)
            size += count
            if size >= piece:
                limits.progressed()
                yield b"".join(parts)
                parts.clear()
                size = 0
        elif count == 0:
            select.select([link.socket], [], [], _WAIT_SECONDS)
            link.consume_input()
            limits.moved()
        else:
            break
    while (result := link.get_result()) is not None:
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise _error(link, result)
    if parts:
        yield b"".join(parts)


def _wait_for_result(link: pq.abc.PGconn) -> None:
    while link.flush():
        select.select([], [link.socket], [], _WAIT_SECONDS)
    link.consume_input()
    while link.is_busy():
        select.select([link.socket], [], [], _WAIT_SECONDS)
        link.consume_input()


def _error(link: pq.abc.PGconn, result: pq.abc.PGresult | None) -> psycopg.Error:
    if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
        return psycopg.errors.error_from_result(result)
    return psycopg.OperationalError(link.get_error_message() or "the connection was lost during COPY")
