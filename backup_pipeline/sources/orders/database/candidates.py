"""Orders read from an archive, kept on disk until the newest of each is written into a database.

A nameless SQLite file holds them, so that memory stays flat; it is removed by the system with the process.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator

from backup_pipeline.sources.orders.format.order import COLUMNS, TextRow
from backup_pipeline.sqlite.database import nameless_database

_NAMES = ", ".join(COLUMNS)
_REST = ", ".join(COLUMNS[1:])
# Only the key has a type: everything else stays the text that data.csv held.
_TABLE = f"CREATE TABLE candidate (path, instant INTEGER, exported, record_id INTEGER, {_REST})"
_NEWEST = "instant DESC, exported DESC, path"
Candidate = tuple[object, ...]


class Candidates:
    """Copies of orders. Add, settle, then read the winners or attach the connection's other database and fill it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -8000;")
        connection.execute(_TABLE)
        self._insert = f"INSERT INTO candidate VALUES ({', '.join('?' * (len(COLUMNS) + 3))})"  # noqa: S608

    def add(self, items: Iterable[Candidate]) -> None:
        """Add copies: path, instant of updated_at, exported_at, then the values of COLUMNS as text."""
        self.connection.execute("BEGIN")
        self.connection.executemany(self._insert, items)
        self.connection.execute("COMMIT")

    def settle(self, key: str) -> list[tuple[object, str, str]]:
        """Keep the newest of all copies with the same key; return key, path and winner's path of each that lost.

        Args:
            key: `record_id`, or `auftrag_nr` where the table allows each number only once.
        """
        connection = self.connection
        connection.execute(f"CREATE INDEX by_{key} ON candidate ({key})")
        ranked = connection.execute(
            f"""SELECT {key}, path, rowid, first_value(path) OVER (PARTITION BY {key} ORDER BY {_NEWEST}),
                       row_number() OVER (PARTITION BY {key} ORDER BY {_NEWEST})
                FROM candidate WHERE {key} IN (
                    SELECT {key} FROM candidate WHERE {key} IS NOT NULL GROUP BY {key} HAVING count(*) > 1)"""  # noqa: S608
        ).fetchall()
        lost = [row for row in ranked if row[4] > 1]
        connection.executemany("DELETE FROM candidate WHERE rowid = ?", [(row[2],) for row in lost])
        return [(row[0], str(row[1]), str(row[3])) for row in lost]

    def count(self) -> int:
        """Return how many there are."""
        return int(self.connection.execute("SELECT count(*) FROM candidate").fetchone()[0])

    def rows(self) -> Iterator[TextRow]:
        """Yield the values of every order by rising record_id; record_id as a number."""
        cursor = self.connection.execute(f"SELECT {_NAMES} FROM candidate ORDER BY record_id")  # noqa: S608
        cursor.arraysize = 1000
        while batch := cursor.fetchmany():
            yield from batch


@contextlib.contextmanager
def candidates() -> Iterator[Candidates]:
    """Give an empty place for copies of orders for the block; StoreError where temporary files have no room."""
    with nameless_database() as connection:
        yield Candidates(connection)
