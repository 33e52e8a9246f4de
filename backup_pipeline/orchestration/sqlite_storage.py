"""Dagster's SQLite storage, made cheap enough for runs of a few seconds.

Dagster's own opens and closes each file for each of the hundreds of events of a run, and syncs after each; that was
half of the time of a small backup. Here the connections to the files used last are kept, since the last one to close
moves the whole log into the file, and files are synced at checkpoints. Nothing else is changed.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage, _event_logs_directory
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.event import listens_for
from sqlalchemy.pool import NullPool, Pool, QueuePool

_FILES = 16


@functools.cache
def _relax_syncing() -> None:
    """Sync SQLite files at checkpoints.

    They are in WAL mode: a crash of the machine can lose the last events of the history, and damages nothing. What
    makes a backup is the manifest, which is synced on its own.
    """

    @listens_for(Engine, "connect")
    def pragma(connection: Any, _: object) -> None:
        if type(connection).__module__.startswith("sqlite3"):
            connection.execute("PRAGMA synchronous=NORMAL")


class SqliteEvents(SqliteEventLogStorage):
    """The event log, with a connection to each of the files used last kept open until `dispose()`."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: OrderedDict[str, tuple[Engine, int]] = OrderedDict()
        self._tables: set[str] = set()
        super().__init__(base_dir, inst_data=inst_data)

    def has_table(self, table_name: str) -> bool:
        """Whether the history has a table; one that was there stays, and is asked for with each event of a check."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock, self._engine(shard).connect() as connection, connection.begin():
            yield connection

    def dispose(self) -> None:
        """Close the files."""
        with self._db_lock:
            while self._engines:
                self._engines.popitem()[1][0].dispose()
        super().dispose()

    def _engine(self, shard: str) -> Engine:
        """Return the engine of a file that is there and made; the caller holds the lock."""
        kept, number = self._engines.pop(shard, (None, 0))
        if kept is not None and number != _file_number(self.path_for_shard(shard)):
            # Removed by another process, or made anew: what is written into the old file would be lost.
            kept.dispose()
            kept = None
            self._initialized_dbs.discard(shard)
        if kept is None:
            self._make(shard)
            kept = self._new_engine(shard, QueuePool)
            number = _file_number(self.path_for_shard(shard))
            if len(self._engines) >= _FILES:
                self._engines.popitem(last=False)[1][0].dispose()
        self._engines[shard] = kept, number
        return kept

    def _make(self, shard: str) -> None:
        if shard not in self._initialized_dbs:
            self._initdb(self._new_engine(shard, NullPool))
            self._initialized_dbs.add(shard)

    def _new_engine(self, shard: str, pool: type[Pool]) -> Engine:
        address = self.conn_string_for_shard(shard)
        return create_engine(address, poolclass=pool, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS})


def _file_number(path: str) -> int:
    try:
        return Path(path).stat().st_ino
    except FileNotFoundError:
        return 0


class SqliteStorage(DagsterSqliteStorage):
    """Runs, events and schedules in SQLite files below one folder."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        _relax_syncing()
        super().__init__(base_dir, inst_data=inst_data)
        self._event_log_storage = SqliteEvents(_event_logs_directory(base_dir))
