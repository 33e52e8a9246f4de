"""Reading `auftraege` from SQLite in one consistent snapshot while the application writes. Nothing is written here."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from backup_pipeline.errors import BackupSystemError, SourceError, UnreachableError
from backup_pipeline.sources.orders.format.order import COLUMNS, TABLE, OrderRow

_BATCH = 2000
_BUSY_SECONDS = 30.0
_COPY = "temp.snapshot"
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM "  # noqa: S608 - constants


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """A row that the database cannot give: `position` counts from 1 in the order of record_id."""

    position: int
    reason: str


class OrdersSnapshot(Protocol):
    """One consistent view of `auftraege`, whatever is written meanwhile."""

    @property
    def label(self) -> str:
        """Where the table is, without secrets."""

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """Name and declared type of each of COLUMNS."""

    @property
    def kind(self) -> str:
        """`sqlite` or `postgres`."""

    @property
    def schema(self) -> tuple[str, ...]:
        """Statements that make the table and its indexes as they are; () where they are not known."""

    @property
    def database_folder(self) -> Path | None:
        """The folder of the database file, which `file_path` may be relative to; None where it is no file."""

    @property
    def state(self) -> str:
        """A text that is equal later only when nothing was committed since; "" where that cannot be known."""

    def count(self) -> int:
        """Return the number of rows."""

    def rows(self) -> Iterator[OrderRow | UnreadableRow]:
        """Yield every row by rising record_id."""

    def row(self, record_id: int) -> OrderRow | None:
        """Return the row with that key."""


def translate_sqlite_error(error: sqlite3.Error, path: Path) -> BackupSystemError:
    """Return the family's error for SQLite's."""
    text = str(error)
    if "locked" in text or "busy" in text:
        return UnreachableError(
            f"The database is locked ({text}).", where=str(path), remedy="Another program writes; run again later."
        )
    if "malformed" in text or "not a database" in text:
        return SourceError(
            f"The database is damaged ({text}).",
            where=str(path),
            remedy="Restore it from the archive: backup-pipeline orders restore.",
        )
    return SourceError(f"SQLite: {text}.", where=str(path), remedy="Check the file and its rights.")


def open_readonly(path: Path) -> sqlite3.Connection:
    """Open a database for reading only; SourceError when there is none."""
    if not path.is_file():
        raise SourceError("There is no such database file.", where=str(path), remedy="Correct the path of the source.")
    try:
        return sqlite3.connect(
            path.absolute().as_uri() + "?mode=ro", uri=True, isolation_level=None, timeout=_BUSY_SECONDS
        )
    except sqlite3.Error as error:
        raise translate_sqlite_error(error, path) from error


class SqliteOrders:
    """See OrdersSnapshot. Made by `sqlite_orders`."""

    kind = "sqlite"

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        known = {str(row[1]): str(row[2]) for row in connection.execute(f"PRAGMA table_info({TABLE})")}
        check_columns(known, str(path))
        self.columns = tuple((name, known[name]) for name in COLUMNS)
        # The table first, then its indexes; those that SQLite makes by itself have no statement.
        made = "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND type IN ('table', 'index') AND sql IS NOT NULL"
        found = connection.execute(f"{made} ORDER BY type <> 'table', name", (TABLE,))
        self.schema = tuple(str(row[0]) for row in found)
        # Read before the snapshot: a commit in between only makes the next export inspect every row.
        self.state = database_state(path)
        self._name = ""

    @property
    def label(self) -> str:
        """The file's path."""
        return str(self._path)

    @property
    def database_folder(self) -> Path:
        """The folder of the file, as it was named."""
        return self._path.absolute().parent

    @property
    def _table(self) -> str:
        """The table to read; the snapshot is taken when it is first asked for."""
        if not self._name:
            self._connection.execute("BEGIN")
            if self._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                self._name = TABLE
                self._connection.execute(f"SELECT 1 FROM {TABLE} LIMIT 1").fetchall()  # noqa: S608
            else:
                # Outside WAL a reader keeps the application from committing: copy the rows to a temporary table (a
                # file without a name) in one go, and let the database go before the slow part begins.
                self._connection.execute(f"CREATE TEMP TABLE snapshot AS {_SELECT}{TABLE} ORDER BY record_id")
                self._connection.execute("CREATE INDEX temp.snapshot_key ON snapshot (record_id)")
                self._connection.execute("COMMIT")
                self._name = _COPY
        return self._name

    def count(self) -> int:
        """Return the number of rows."""
        return int(self._connection.execute(f"SELECT count(*) FROM {self._table}").fetchone()[0])  # noqa: S608

    def rows(self) -> Iterator[OrderRow | UnreadableRow]:
        """Yield every row by rising record_id."""
        position = 0
        order = "rowid" if self._table == _COPY else "record_id"
        while True:
            cursor = self._connection.execute(f"{_SELECT}{self._table} ORDER BY {order} LIMIT -1 OFFSET {position}")
            cursor.arraysize = _BATCH
            try:
                while batch := cursor.fetchmany():
                    position += len(batch)
                    yield from batch
                return
            except sqlite3.OperationalError as error:
                if "decode" not in str(error):
                    raise translate_sqlite_error(error, self._path) from error
                if self._connection.text_factory is not str:
                    yield UnreadableRow(position + 1, str(error))
                    position += 1
                # Text that is not UTF-8: go on from there with a factory that lets it through, marked by surrogates.
                self._connection.text_factory = _lenient
            except sqlite3.Error as error:
                raise translate_sqlite_error(error, self._path) from error

    def row(self, record_id: int) -> OrderRow | None:
        """Return the row with that key."""
        found: OrderRow | None = self._connection.execute(
            f"{_SELECT}{self._table} WHERE record_id = ?",
            (record_id,),
        ).fetchone()
        return found


def _lenient(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def check_columns(known: dict[str, str], where: str) -> None:
    """Raise SourceError when the table or one of its columns is missing."""
    if not known:
        raise SourceError(f"There is no table {TABLE}.", where=where, remedy="Name the workshop's database.")
    if missing := [name for name in COLUMNS if name not in known]:
        raise SourceError(
            f"Table {TABLE} lacks {', '.join(missing)}.",
            where=where,
            remedy="Bring the database to the version of the application that this archive belongs to.",
        )


@contextlib.contextmanager
def sqlite_orders(path: Path) -> Iterator[SqliteOrders]:
    """Hold one consistent snapshot of `auftraege` for the block; the application can write meanwhile.

    Raises:
        SourceError: no such file, damaged, no table, or a column is missing.
        UnreachableError: locked for longer than half a minute.
    """
    connection = open_readonly(path)
    try:
        try:
            snapshot = SqliteOrders(connection, path)
        except sqlite3.Error as error:
            raise translate_sqlite_error(error, path) from error
        yield snapshot
    finally:
        connection.close()


def year_states(path: Path) -> dict[str, tuple[int, str]]:
    """Return, by year of datum (else created_at), the number of rows and the newest updated_at: one cheap query."""
    connection = open_readonly(path)
    try:
        check_columns({str(r[1]): str(r[2]) for r in connection.execute(f"PRAGMA table_info({TABLE})")}, str(path))
        query = f"""SELECT substr(coalesce(nullif(datum, ''), created_at, ''), 1, 4) AS year, count(*),
                           coalesce(max(updated_at), '') FROM {TABLE} GROUP BY year"""  # noqa: S608
        return {str(year): (int(count), str(newest)) for year, count, newest in connection.execute(query)}
    except sqlite3.Error as error:
        raise translate_sqlite_error(error, path) from error
    finally:
        connection.close()


def database_state(path: Path) -> str:
    """Return a text that changes whenever something is committed to the database; no query is made.

    The file's size, times, inode and change counter (bytes 24 to 27, see SQLite's file format); in WAL mode also the
    log's size and time and the head of the shared index, which every commit rewrites. "" where a file cannot be read.
    """
    log, shared = path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            counter = file.read(28)[24:].hex()
        parts = [f"{found.st_size}.{found.st_mtime_ns}.{found.st_ctime_ns}.{found.st_ino}.{counter}"]
        if log.exists() and log.stat().st_size:
            state = log.stat()
            parts.append(f"{state.st_size}.{state.st_mtime_ns}")
            if shared.exists():
                with shared.open("rb") as file:
                    parts.append(file.read(48).hex())
    except OSError:
        return ""
    return "/".join(parts)
