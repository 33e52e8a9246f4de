"""Rows out of the server by COPY through psql, for large tables: psql gathers the protocol's one message per row in C.

Measured on 0.85 million rows: half of the processor time that the same costs in this process, and beside it, so that
several ranges of a table do not wait for the interpreter's lock. Small tables are read by `copy`, without a program.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from backup_pipeline.errors import SourceError, UnreachableError
from backup_pipeline.postgres.export.copy import CSV, with_encoding
from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.connection import (
    PINNED_SETTINGS,
    LockNotGrantedError,
    connection_ended,
    no_more_connections,
    takes_no_more,
    was_ended,
)
from backup_pipeline.postgres.server.snapshot import READER_LOCK_SECONDS, Snapshot
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.system import processes
from backup_pipeline.tables.csv_rows import CsvRows, FieldTaker, whole_rows

# Linux takes 128 KB for one argument; a query that long names more than a thousand columns.
LONGEST_QUERY = 100_000
_PIECE = 4 << 20
_PIPE_SIZE = 1 << 20
_TRANSACTION_TIMEOUT_SINCE = 17
_AWAY = re.compile(
    r"server closed the connection|connection to server|terminating connection|could not (send|receive)"
    r"|SSL|no connection"
)


@dataclass(frozen=True)
class ReadBy:
    """What a program needs to read a database.

    Attributes:
        target: the database.
        server_major: of its server.
        options: of COPY.
        snapshot: id of the exported snapshot to read in; "" for one of its own.
    """

    target: PostgresTarget
    server_major: int
    options: bytes = CSV
    snapshot: str = ""


def copy_program(snapshot: Snapshot, query: bytes, taker: Callable[[int], FieldTaker]) -> Iterator[CsvRows]:
    """Yield what `COPY (query) TO STDOUT (FORMAT csv)` sends inside the snapshot (see `copy_by_program`)."""
    options = with_encoding(CSV, snapshot.connection)
    way = ReadBy(snapshot.target, snapshot.server_major, options, snapshot.id)
    return copy_by_program(way, query, taker)


def copy_by_program(way: ReadBy, query: bytes, taker: Callable[[int], FieldTaker]) -> Iterator[CsvRows]:
    """Yield what `COPY (query) TO STDOUT (FORMAT csv)` sends, in pieces of whole rows.

    A piece is valid until the next one is asked for: the memory is used again.

    Args:
        way: database and snapshot.
        query: a SELECT in UTF-8, at most LONGEST_QUERY bytes.
        taker: of each long field, by the number of its column (see `csv_rows.whole_rows`).

    Raises:
        UnreachableError: the server went away. SourceError: it refused.
    """
    target = way.target
    psql = choose_client(way.server_major).program("psql")
    pinned = "; ".join(f"set {name} = '{value}'" for name, value in PINNED_SETTINGS.items() if name != "search_path")
    # Rows in the order in which they are stored, every time.
    pinned += "; set max_parallel_workers_per_gather = 0"
    # The snapshot's own session holds the table's lock; who waits here waits for somebody who waits for that.
    pinned += f"; set lock_timeout = '{READER_LOCK_SECONDS}s'"
    if way.server_major >= _TRANSACTION_TIMEOUT_SINCE:
        pinned += "; set transaction_timeout = 0"
    statements = [
        f"{pinned}; set search_path = pg_catalog",
        "begin transaction isolation level repeatable read read only",
        *([f"set transaction snapshot '{way.snapshot}'"] if way.snapshot else []),
        f"copy ({query.decode()}) to stdout ({way.options.decode()})",
    ]
    command: list[str | Path] = [
        psql,
        "-X",
        "-q",
        "--no-password",
        "--set=ON_ERROR_STOP=1",
        *target.program_arguments(),
    ]
    command += [f"--command={statement}" for statement in statements]
    environment = {**target.program_environment(), "PGCLIENTENCODING": "UTF8"}
    with processes.running(command, env=environment) as process:
        _widen(process)
        yield from whole_rows(cast(BinaryIO, process.stdout), _PIECE, taker)
        code, messages = process.finish()
    if code != 0:
        errors = "\n".join(line for line in messages.splitlines() if "ERROR:" in line or "FATAL:" in line) or messages
        text = processes.last_lines(errors.replace(target.password, "***") if target.password else errors, 1)
        if takes_no_more(text):
            raise no_more_connections(text, target)
        if was_ended("", messages) or "invalid snapshot identifier" in messages:
            raise connection_ended(f"{text} (during COPY)", target)
        if "lock timeout" in messages:
            raise LockNotGrantedError(
                f"A lock was not granted in time: {text}.", where=target.label, remedy="Run it again."
            )
        if _AWAY.search(messages):
            raise UnreachableError(
                f"The server cannot be reached or went away during COPY: {text}.",
                where=target.label,
                remedy="Check that the server runs, then run again.",
            )
        raise SourceError(f"COPY failed: {text}.", where=target.label, remedy="Read the server's log.")


def _widen(process: processes.Running) -> None:
    """Make the pipe large where the system can (Linux): fewer changes between the two processes."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(process.stdout.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
