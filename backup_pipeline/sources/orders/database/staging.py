"""A nameless SQLite file in which an archive's folders, index and rows are compared, so that memory stays flat.

It is removed by the system with the process. What a difference means is decided by the caller.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from backup_pipeline.sqlite.database import nameless_database

_TABLES = """
CREATE TABLE found (path TEXT, record_id INTEGER, auftrag_nr TEXT, checksum TEXT, meta TEXT);
CREATE TABLE indexed (path TEXT, record_id INTEGER, checksum TEXT, meta TEXT, row_deleted INTEGER);
CREATE TABLE rows (record_id INTEGER, folder TEXT, checksum TEXT);
"""
_INDEXES = """
CREATE INDEX found_path ON found (path);
CREATE INDEX found_id ON found (record_id);
CREATE INDEX indexed_path ON indexed (path);
CREATE INDEX rows_id ON rows (record_id);
"""

Found = tuple[str, int | None, str | None, str, str]
Indexed = tuple[str, int, str, str, int]
Row = tuple[int, str, str]


class Staging:
    """Three lists and the questions between them. Fill, then `prepare`, then ask."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -4000;" + _TABLES
        )
        connection.execute("BEGIN")

    def add_found(self, items: Iterable[Found]) -> None:
        """Add folders: path, record_id and number (None where unreadable), checksums of data.csv and meta.json."""
        self._connection.executemany("INSERT INTO found VALUES (?, ?, ?, ?, ?)", items)

    def add_indexed(self, items: Iterable[Indexed]) -> None:
        """Add entries of the index: path, record_id, checksums of data.csv and meta.json, whether the row is gone."""
        self._connection.executemany("INSERT INTO indexed VALUES (?, ?, ?, ?, ?)", items)

    def add_rows(self, items: Iterable[Row]) -> None:
        """Add rows of the database: record_id, folder, checksum of the data.csv that they would make."""
        self._connection.executemany("INSERT INTO rows VALUES (?, ?, ?)", items)

    def prepare(self) -> None:
        """Make the questions fast."""
        self._connection.execute("COMMIT")
        self._connection.executescript(_INDEXES)

    def _ask(self, query: str) -> Iterator[tuple[str, ...]]:
        cursor = self._connection.execute(query)
        cursor.arraysize = 1000
        while batch := cursor.fetchmany():
            yield from batch

    def same_record(self) -> Iterator[tuple[str, ...]]:
        """Yield record_id and path of folders that hold the same record."""
        return self._ask(
            """SELECT record_id, path FROM found WHERE record_id IN (
                   SELECT record_id FROM found WHERE record_id IS NOT NULL GROUP BY record_id HAVING count(*) > 1)
               ORDER BY record_id, path"""
        )

    def same_number(self) -> Iterator[tuple[str, ...]]:
        """Yield number and path of folders of different records with the same auftrag_nr."""
        return self._ask(
            """SELECT auftrag_nr, path FROM found WHERE auftrag_nr IN (
                   SELECT auftrag_nr FROM found WHERE auftrag_nr IS NOT NULL
                   GROUP BY auftrag_nr HAVING count(DISTINCT record_id) > 1)
               ORDER BY auftrag_nr, path"""
        )

    def missing(self) -> Iterator[tuple[str, int, str | None]]:
        """Yield path and record_id of entries of the index without a folder, and a folder unknown to it that has it."""
        found: Iterator[Any] = self._ask(
            """SELECT i.path, i.record_id, (
                   SELECT min(g.path) FROM found g
                   WHERE g.record_id = i.record_id AND NOT EXISTS (SELECT 1 FROM indexed k WHERE k.path = g.path))
               FROM indexed i LEFT JOIN found f ON f.path = i.path WHERE f.path IS NULL ORDER BY i.path"""
        )
        return found

    def unlike_index(self) -> Iterator[tuple[str, ...]]:
        """Yield path and which file ("data.csv", "meta.json") is another than the index says."""
        return self._ask(
            """SELECT i.path, CASE WHEN f.checksum <> i.checksum THEN 'data.csv' ELSE 'meta.json' END
               FROM indexed i JOIN found f ON f.path = i.path
               WHERE f.record_id IS NOT NULL AND (f.checksum <> i.checksum OR f.meta <> i.meta) ORDER BY i.path"""
        )

    def not_indexed(self) -> Iterator[tuple[str, ...]]:
        """Yield the path of folders that the index does not know."""
        return self._ask(
            """SELECT f.path FROM found f LEFT JOIN indexed i ON i.path = f.path
               WHERE i.path IS NULL AND f.record_id IS NOT NULL ORDER BY f.path"""
        )

    def without_folder(self) -> Iterator[tuple[str, ...]]:
        """Yield folder and record_id of rows that no folder holds."""
        return self._ask(
            """SELECT r.folder, r.record_id FROM rows r LEFT JOIN found f ON f.record_id = r.record_id
               WHERE f.path IS NULL ORDER BY r.record_id"""
        )

    def without_row(self) -> Iterator[tuple[str, ...]]:
        """Yield path and record_id of folders whose record the database does not have."""
        return self._ask(
            """SELECT f.path, f.record_id FROM found f LEFT JOIN rows r ON r.record_id = f.record_id
               WHERE f.record_id IS NOT NULL AND r.record_id IS NULL ORDER BY f.path"""
        )

    def outdated(self) -> Iterator[tuple[str, ...]]:
        """Yield path and record_id of folders that hold other content than the row."""
        return self._ask(
            """SELECT f.path, f.record_id FROM found f JOIN rows r ON r.record_id = f.record_id AND (
                   r.folder = f.path OR NOT EXISTS (SELECT 1 FROM found g WHERE g.path = r.folder))
               WHERE f.checksum <> r.checksum ORDER BY f.path"""
        )

    def same_folder(self) -> Iterator[tuple[str, ...]]:
        """Yield folder and record_id of rows that claim the same folder."""
        return self._ask(
            """SELECT folder, record_id FROM rows WHERE folder IN (
                   SELECT folder FROM rows GROUP BY folder HAVING count(*) > 1) ORDER BY folder, record_id"""
        )


@contextlib.contextmanager
def staging() -> Iterator[Staging]:
    """Give an empty Staging for the block; StoreError where temporary files have no room."""
    with nameless_database() as connection:
        yield Staging(connection)
