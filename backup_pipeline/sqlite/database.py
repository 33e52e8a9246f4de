"""SQLite files: a consistent copy under a writing application, integrity checks, tables and rows. No formats here.

SQLite is typed by value, not by column, so rows come with the storage classes that they have: None, int, float, str
and bytes. Text that is not UTF-8 comes as str with surrogate escapes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from backup_pipeline.errors import BackupSystemError, SourceError, StoreError, UnreachableError
from backup_pipeline.sqlite.application import Reader, application_of, learn
from backup_pipeline.system.files import translate_os_error

Value = None | int | float | str | bytes
Row = tuple[Value, ...]

BUSY_SECONDS = 60.0
_SMALLEST_LIMIT = 16 << 20
_MAGIC = b"SQLite format 3\0"
SIDECARS = ("-wal", "-shm", "-journal")
"""What stands beside a database file and belongs to it: never to another one put in its place."""


def is_database(path: Path) -> bool:
    """Return whether an ordinary file says of itself that it is a SQLite database; a link is none."""
    try:
        if path.is_symlink() or not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def translate_sqlite_error(error: sqlite3.Error, path: Path | str) -> BackupSystemError:
    """Return the family's error for SQLite's."""
    text = str(error)
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_ROLLBACK:
        return SourceError(
            "A transaction of its application was broken off, and what takes it back still lies in the journal.",
            where=f"{path}-journal",
            remedy="Start its application, or open the file once with `sqlite3 FILE 'SELECT 1 FROM sqlite_schema'` as "
            "a user who may write it; then run again. Never remove the journal by hand.",
        )
    if "malformed" in text:
        return SourceError(
            f"The database is damaged ({text}).",
            where=str(path),
            remedy="Inspect it with `sqlite3 FILE 'PRAGMA integrity_check'`; restore an older set, or save what can be "
            "read with `sqlite3 FILE .recover`.",
        )
    if "too big" in text:
        return SourceError(
            "A generated column makes up a value that is larger than its whole file.",
            where=str(path),
            remedy="Leave that table out of the export: `tables: {exclude: [main.TABLE]}`; the copy has it.",
        )
    if "locked" in text or "busy" in text:
        return UnreachableError(
            f"The database is locked ({text}).",
            where=str(path),
            remedy="Another program holds it in a long transaction; run again later.",
        )
    if "not a database" in text:
        return SourceError(
            f"The database is damaged or encrypted ({text}).",
            where=str(path),
            remedy="Let its application export an encrypted database; restore a damaged one from an older set.",
        )
    if "readonly" in text or "unable to open" in text:
        return SourceError(
            f"The database cannot be opened for reading ({text}).",
            where=str(path),
            remedy="Its folder must let -wal and -shm be made; after a crash open it once with its application.",
        )
    return SourceError(f"SQLite: {text}.", where=str(path), remedy="Check the file and its rights.")


@contextlib.contextmanager
def nameless_database() -> Iterator[sqlite3.Connection]:
    """Give a connection to an empty database for the block, on disk where it grows, removed with the process.

    Raises:
        StoreError: the disk for temporary files is full or fails.
    """
    connection = sqlite3.connect("", isolation_level=None)
    try:
        yield connection
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
            raise
        # Where SQLite writes first: https://www.sqlite.org/tempfiles.html
        place = os.environ.get("SQLITE_TMPDIR") or os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108 - only reported
        raise StoreError(
            f"No room for temporary files ({error}).",
            where=place,
            remedy="Free space there, or set TMPDIR to a folder that has room.",
        ) from error
    finally:
        connection.close()


def check_is_database(path: Path) -> None:
    """Raise SourceError when there is no SQLite database at `path`."""
    if not path.is_file():
        what = "There is no such database file." if not path.exists() else "This is not a file."
        raise SourceError(what, where=str(path), remedy="Correct `path` of the source.")
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except OSError as error:
        raise SourceError(
            f"Cannot be read ({error.strerror}).", where=str(path), remedy="Give this user the right to read it."
        ) from error
    if start != _MAGIC:
        what = "The file is empty." if not start else "This is not a SQLite database (or it is encrypted)."
        raise SourceError(what, where=str(path), remedy="Correct `path` of the source.")


def _lies_on_read_only_disk(path: Path) -> bool:
    """Whether nobody can change a database; then no lock and no -shm are needed, which could not be made either.

    Raises:
        SourceError: what its log holds cannot be read there.
    """
    if not hasattr(os, "ST_RDONLY") or not path.is_file() or not os.statvfs(path).f_flag & os.ST_RDONLY:
        return False
    logs = [Path(f"{path}{suffix}") for suffix in ("-wal", "-journal")]
    if left := [str(log) for log in logs if log.is_file() and log.stat().st_size]:
        raise SourceError(
            "The disk is read-only, and part of the database is still in its log.",
            where=", ".join(left),
            remedy="Copy the database with its -wal and -journal to a disk that can be written, and name that copy.",
        )
    return True


@contextlib.contextmanager
def opened(path: Path, *, immutable: bool = False, lenient: bool = False) -> Iterator[sqlite3.Connection]:
    """Open a database for reading; SQLite's errors inside the block become the family's.

    Args:
        path: the file.
        immutable: promise that nobody writes it (a private copy): no lock, no -wal, no -shm. What only its application
            has is stood in for (see `sqlite.application`).
        lenient: let text that is not UTF-8 through, as surrogate escapes.
    """
    unchanging = immutable or _lies_on_read_only_disk(path)
    uri = path.absolute().as_uri() + ("?mode=ro&immutable=1" if unchanging else "?mode=ro")
    try:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_SECONDS, factory=Reader)
        with contextlib.closing(connection):
            # No stored value is larger than its file; what a generated column makes up could fill the memory.
            most = max(_SMALLEST_LIMIT, min(path.stat().st_size, connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)))
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, most)
            if immutable:
                learn(connection)
            if lenient:
                connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
            yield connection
    except sqlite3.Error as error:
        raise translate_sqlite_error(error, path) from error


def copy_online(source: Path, target: Path, *, wait_seconds: float = BUSY_SECONDS) -> None:
    """Copy a database page by page in one read transaction, while its application goes on writing.

    In WAL mode nobody waits; otherwise writers wait for the copy (about 0.3 s for 100 MB). The copy has all pages, free
    ones too, and the same rowids (`VACUUM INTO` would number them anew).

    Raises:
        SourceError: no database, damaged, or not to be read.
        UnreachableError: locked for longer than `wait_seconds`.
        StoreError: there is no room for the copy.
    """
    check_is_database(source)
    deadline = time.monotonic() + wait_seconds

    def stop_waiting(status: int, remaining: int, total: int) -> None:
        # The library itself would wait for ever. Pages are copied in one step, so anything else is waiting.
        if status != sqlite3.SQLITE_DONE and time.monotonic() > deadline:
            raise TimeoutError

    with opened(source) as reader:
        reader.execute("PRAGMA busy_timeout = 1000")
        try:
            with contextlib.closing(sqlite3.connect(target)) as writer:
                reader.backup(writer, pages=-1, progress=stop_waiting, sleep=0.1)
        except TimeoutError:
            raise _stayed_locked(source, wait_seconds) from None
        except sqlite3.Error as error:
            # The source is only read: it is the copy that has no room, or that cannot be made.
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
                raise translate_os_error(OSError(errno.ENOSPC, ""), target) from error
            if not target.exists():
                raise translate_os_error(OSError(errno.EIO, "The copy cannot be made"), target) from error
            raise


def _stayed_locked(path: Path, wait_seconds: float) -> UnreachableError:
    # Browsers and others set `locking_mode = EXCLUSIVE`: waiting for them never helps.
    openers = openers_of(path)
    by = f" by {', '.join(openers)}" if openers else ""
    return UnreachableError(
        f"The database stayed locked{by} for {wait_seconds:g} s.",
        where=str(path),
        remedy="After a long transaction a later run succeeds. A program that keeps its database locked for as long as "
        "it runs (browsers do) must be stopped for the backup: see `run_before` and `run_after`.",
    )


@dataclass(frozen=True, slots=True)
class SqliteColumn:
    """A column as declared; `generated` ones are computed by SQLite."""

    name: str
    declared: str
    nullable: bool
    key: bool
    generated: bool


@dataclass(frozen=True, slots=True)
class SqliteTable:
    """A table with rows of its own: neither a view, nor virtual, nor SQLite's."""

    name: str
    columns: tuple[SqliteColumn, ...]


def quoted(name: str) -> str:
    """Return an identifier for a statement."""
    return '"' + name.replace('"', '""') + '"'


def foreign_key_violations(connection: sqlite3.Connection) -> dict[str, int]:
    """Return how many rows of each table refer to a row that is not there.

    Skipped are tables that compare with an order which only their application has, and those that refer to them.
    """
    counts: dict[str, int] = {}
    theirs = {name.casefold() for name in application_of(connection).tables}
    tables = [each.name for each in tables_of(connection)] if theirs else [""]
    for table in tables:
        parents = {
            str(row[2]).casefold() for row in connection.execute(f"PRAGMA main.foreign_key_list({quoted(table)})")
        }
        if theirs & {table.casefold(), *parents}:
            continue
        check = f"PRAGMA main.foreign_key_check({quoted(table)})" if table else "PRAGMA foreign_key_check"
        for row in connection.execute(check):
            counts[str(row[0])] = counts.get(str(row[0]), 0) + 1
    return counts


def tables_of(connection: sqlite3.Connection) -> list[SqliteTable]:
    """Return the tables of the database `main`, by name, with their columns in order.

    Generated columns that only the application can compute are skipped.
    """
    listed = connection.execute("PRAGMA main.table_list").fetchall()
    names = [str(row[1]) for row in listed if row[2] == "table" and not str(row[1]).startswith("sqlite_")]
    return [SqliteTable(name, _columns(connection, name)) for name in sorted(names)]


def _columns(connection: sqlite3.Connection, table: str) -> tuple[SqliteColumn, ...]:
    rows = connection.execute(f"PRAGMA main.table_xinfo({quoted(table)})").fetchall()
    keys = [row for row in rows if row[5]]
    unknown = application_of(connection).columns
    return tuple(
        SqliteColumn(
            name=str(name),
            declared=str(declared),
            nullable=not (not_null or (key and len(keys) == 1 and str(declared).upper() == "INTEGER")),
            key=bool(key),
            generated=hidden in (2, 3),
        )
        for _, name, declared, not_null, _, key, hidden in rows
        if hidden != 1 and f"{table}.{name}" not in unknown
    )


def objects_of(connection: sqlite3.Connection) -> dict[str, dict[str, str]]:
    """Return the definition of every table, index, view and trigger: kind → name → SQL."""
    objects: dict[str, dict[str, str]] = {}
    for kind, name, sql in connection.execute("SELECT type, name, sql FROM main.sqlite_schema WHERE sql IS NOT NULL"):
        objects.setdefault(str(kind), {})[str(name)] = str(sql)
    return objects


def row_count(connection: sqlite3.Connection, table: str) -> int:
    """Return the number of rows of a table."""
    return int(connection.execute(f"SELECT count(*) FROM main.{quoted(table)}").fetchone()[0])  # noqa: S608


def storage_classes(connection: sqlite3.Connection, table: SqliteTable) -> list[frozenset[str]]:
    """Return the storage classes ("null", "integer", "real", "text", "blob") that occur in each column."""
    wanted = ", ".join(f"group_concat(DISTINCT typeof({quoted(column.name)}))" for column in table.columns)
    row = connection.execute(f"SELECT {wanted} FROM main.{quoted(table.name)}").fetchone()  # noqa: S608
    return [frozenset(str(found).split(",")) if found else frozenset() for found in row]


def rows_of(connection: sqlite3.Connection, table: SqliteTable) -> Iterator[Row]:
    """Yield every row of a table, its columns in order."""
    wanted = ", ".join(quoted(column.name) for column in table.columns)
    cursor = connection.execute(f"SELECT {wanted} FROM main.{quoted(table.name)}")  # noqa: S608
    cursor.arraysize = 1000
    yield from cursor


def text_is_utf8(connection: sqlite3.Connection, table: SqliteTable) -> bool:
    """Return whether every text of a table is UTF-8, as SQLite promises and does not check."""
    try:
        for _ in rows_of(connection, table):
            pass
    except sqlite3.OperationalError as error:
        if "decode" in str(error):
            return False
        raise
    return True


def openers_of(path: Path) -> list[str]:
    """Return the processes of this machine that have the file open, as "name (pid)"; only those that we may inspect."""
    wanted = str(path.resolve())
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if any(file.path == wanted for file in process.open_files()):
                found.append(f"{process.name()} ({process.pid})")
    return found


def fold_in_log(path: Path) -> bool:
    """Bring what stands in a database's -wal into the file itself; False when that was not possible.

    A damaged database is left alone with its log: SQLite would throw away a log that it cannot use.
    """
    uri = path.absolute().as_uri()
    try:
        with contextlib.closing(sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=5.0)) as reader:
            if reader.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                return False
        with contextlib.closing(sqlite3.connect(path, timeout=5.0, isolation_level=None)) as connection:
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy
    except sqlite3.Error:
        return False
