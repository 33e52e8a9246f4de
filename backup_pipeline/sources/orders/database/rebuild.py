"""A new SQLite database beside the old one, with `auftraege` made of the archive's orders. Swapping is done elsewhere.

The new file begins as a copy of the old one where that can be read, so that the application's other tables, indexes
and triggers are in it too; otherwise with the one table.
"""

from __future__ import annotations

import os
import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from backup_pipeline.errors import BackupSystemError, RefusedError, SourceError, ValidationError
from backup_pipeline.sources.orders.database.candidates import Candidates
from backup_pipeline.sources.orders.database.database import check_columns, open_readonly, translate_sqlite_error
from backup_pipeline.sources.orders.format.order import COLUMNS, INTEGER_COLUMNS, TABLE
from backup_pipeline.system.files import translate_os_error

_NAMES = ", ".join(COLUMNS)
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_ ]*(?:\([0-9, ]+\))?")


@dataclass(frozen=True)
class NewDatabase:
    """A database that is being built.

    Attributes:
        path: the file.
        from_old: whether it began as a copy of the old one.
        unique_number: whether its table allows each auftrag_nr only once.
        wal: whether the old one was in WAL mode.
        notes: what a person should know.
    """

    path: Path
    from_old: bool
    unique_number: bool = False
    wal: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Filled:
    """What the new table holds, and what the old one had beyond it."""

    rows: int
    different: int
    only_in_old: int
    newer_in_old: int


def table_definition(columns: tuple[tuple[str, str], ...]) -> str:
    """Return the statement that makes the table, with the types that the index remembers where they are plain."""
    known = dict(columns)
    lines = []
    for name in COLUMNS:
        usual = "INTEGER" if name in INTEGER_COLUMNS else "TEXT"
        kind = known.get(name, usual)
        if not _TYPE.fullmatch(kind) or name == "record_id":
            kind = usual
        lines.append(f"    {name} {kind}{' PRIMARY KEY' if name == 'record_id' else ''}")
    return f"CREATE TABLE {TABLE} (\n" + ",\n".join(lines) + "\n)"


_MAKES = re.compile(rf"\s*CREATE\s+(TABLE\s+[\"'`\[]?{TABLE}\b|(UNIQUE\s+)?INDEX\s)", re.IGNORECASE)


def _make_table(connection: sqlite3.Connection, columns: tuple[tuple[str, str], ...], schema: tuple[str, ...]) -> str:
    """Make the table as the index's statements say, else with the types alone; return a note where that was needed."""
    try:
        if schema:
            connection.execute("BEGIN")
            for statement in schema:
                # One statement at a time, and none but these: whoever wrote the index wrote nothing else into it.
                if not _MAKES.match(statement):
                    raise sqlite3.DatabaseError("a statement makes neither the table nor an index")
                connection.execute(statement)
            check_columns({str(row[1]): str(row[2]) for row in connection.execute(f"PRAGMA table_info({TABLE})")}, "")
            connection.execute("COMMIT")
            return ""
    except (sqlite3.Error, sqlite3.Warning, BackupSystemError) as error:
        connection.execute("ROLLBACK")
        connection.execute(table_definition(columns))
        return f"The table was made without its constraints and indexes: the archive's index does not fit ({error})."
    connection.execute(table_definition(columns))
    return ""


def _unique_number(connection: sqlite3.Connection) -> bool:
    return any(
        row[2] and [r[2] for r in connection.execute(f'PRAGMA index_info("{row[1]}")')] == ["auftrag_nr"]
        for row in connection.execute(f"PRAGMA index_list({TABLE})").fetchall()
    )


def begin_database(
    new: Path, old: Path, columns: tuple[tuple[str, str], ...], schema: tuple[str, ...] = ()
) -> NewDatabase:
    """Make the new file: a copy of the old database where it can be read whole, else an empty one.

    Args:
        new: where; must not exist.
        old: the present database, may be missing or damaged.
        columns: types from the archive's index, () when unknown.
        schema: statements from the archive's index that make the table and its indexes, () when unknown.
    """
    notes: list[str] = []
    try:
        os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _mode_of(old)))
    except OSError as error:
        raise translate_os_error(error, new) from error
    if old.exists():
        try:
            return _copied(new, old)
        except (BackupSystemError, sqlite3.Error) as error:
            reason = error.what if isinstance(error, BackupSystemError) else str(error)
            notes.append(f"The present database cannot be copied ({reason}); other tables are only in the kept file.")
            new.write_bytes(b"")
    connection = sqlite3.connect(new, isolation_level=None)
    try:
        if note := _make_table(connection, columns, schema):
            notes.append(note)
        unique = _unique_number(connection)
    finally:
        connection.close()
    return NewDatabase(new, from_old=False, unique_number=unique, notes=tuple(notes))


def _mode_of(old: Path) -> int:
    try:
        return old.stat().st_mode & 0o777
    except OSError:
        return 0o600


def _copied(new: Path, old: Path) -> NewDatabase:
    source = open_readonly(old)
    target = sqlite3.connect(new, isolation_level=None)
    try:
        known = {str(row[1]): str(row[2]) for row in source.execute(f"PRAGMA table_info({TABLE})")}
        check_columns(known, str(old))
        wal = source.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE").fetchall()
        found = target.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise SourceError(f"damaged: {found}", where=str(old))
        notes = []
        if extra := [name for name in known if name not in COLUMNS]:
            notes.append(f"Columns that orders do not carry stay only in the kept file: {', '.join(extra)}.")
        return NewDatabase(new, from_old=True, unique_number=_unique_number(target), wal=wal, notes=tuple(notes))
    finally:
        target.close()
        source.close()


def fill_database(new: NewDatabase, orders: Candidates) -> Filled:
    """Replace the rows of the new file's table by these orders, in one transaction, and compare them afterwards.

    Raises:
        ValidationError: the table's own constraints refuse a row, or the file is not whole afterwards.
    """
    connection = orders.connection
    connection.execute("ATTACH ? AS built", (str(new.path),))
    try:
        connection.execute("PRAGMA built.synchronous = OFF")
        connection.execute("BEGIN")
        only, newer = connection.execute(
            f"""SELECT count(*) FILTER (WHERE c.record_id IS NULL),
                       count(*) FILTER (WHERE coalesce(b.updated_at, '') > coalesce(c.updated_at, ''))
                FROM built.{TABLE} b LEFT JOIN candidate c ON c.record_id = b.record_id"""  # noqa: S608
        ).fetchone()
        triggers = connection.execute(
            "SELECT name, sql FROM built.sqlite_master WHERE type = 'trigger' AND tbl_name = ?", (TABLE,)
        ).fetchall()
        for name, _ in triggers:
            quoted = str(name).replace('"', '""')
            connection.execute(f'DROP TRIGGER built."{quoted}"')
        connection.execute(f"DELETE FROM built.{TABLE}")  # noqa: S608
        connection.execute(
            f"INSERT INTO built.{TABLE} ({_NAMES}) SELECT {_NAMES} FROM candidate ORDER BY record_id"  # noqa: S608
        )
        rows = connection.execute(f"SELECT count(*) FROM built.{TABLE}").fetchone()[0]  # noqa: S608
        unlike = " OR ".join(
            f"NOT (CAST(b.{name} AS TEXT) IS CAST(c.{name} AS TEXT)"
            f" OR (typeof(b.{name}) = 'real' AND b.{name} = CAST(c.{name} AS REAL)))"
            for name in COLUMNS
        )
        different = connection.execute(
            f"""SELECT count(*) FROM candidate c LEFT JOIN built.{TABLE} b ON b.record_id = c.record_id
                WHERE {unlike}"""  # noqa: S608
        ).fetchone()[0]
        connection.execute("COMMIT")
    except sqlite3.IntegrityError as error:
        connection.execute("ROLLBACK")
        raise ValidationError(
            f"The table refuses a row: {error}.",
            where=str(new.path),
            remedy="Correct the folder, or the table's rules.",
        ) from error
    except sqlite3.Error as error:
        raise translate_sqlite_error(error, new.path) from error
    finally:
        if not connection.in_transaction:
            connection.execute("DETACH built")
    _finish(new, [str(sql) for _, sql in triggers])
    return Filled(int(rows), int(different), int(only) if new.from_old else 0, int(newer) if new.from_old else 0)


def _finish(new: NewDatabase, triggers: list[str]) -> None:
    connection = sqlite3.connect(new.path, isolation_level=None)
    try:
        for statement in triggers:
            connection.execute(statement)
        found = connection.execute("PRAGMA integrity_check(5)").fetchall()
        if found != [("ok",)]:
            raise ValidationError(
                f"The new database is not whole: {found[0][0]}.", where=str(new.path), remedy="Check the disk."
            )
        if new.wal:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
    except sqlite3.Error as error:
        raise translate_sqlite_error(error, new.path) from error
    finally:
        connection.close()
    descriptor = os.open(new.path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def settle_old(old: Path) -> None:
    """Bring what lies in the old database's log into its file, and make sure that nobody works with it.

    Raises:
        RefusedError: another program holds it. A damaged database is left as it is.
    """
    if not old.exists():
        return
    connection = sqlite3.connect(old, isolation_level=None, timeout=2.0)
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("ROLLBACK")
    except sqlite3.DatabaseError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise RefusedError(
                "Another program works with the database.", where=str(old), remedy="Stop the application, then restore."
            ) from error
    finally:
        connection.close()
