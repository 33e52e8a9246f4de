"""Dagster's SQLite storage, made cheap enough for runs of a few seconds.

Dagster's own makes an SQLAlchemy engine for each of the hundreds of events of a run and syncs after each; that was half
of the time of a small backup. Here engines are kept, and files are synced at checkpoints. Nothing else is changed.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage, _event_logs_directory
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.event import listens_for
from sqlalchemy.pool import NullPool

_ENGINES = 16


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
    """The event log, with the engines of the files used last kept; connections are still closed after each use."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        super().__init__(base_dir, inst_data=inst_data)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            engine = self._engine(shard)
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.connect() as connection, connection.begin():
                yield connection

    def _engine(self, shard: str) -> Engine:
        address = self.conn_string_for_shard(shard)
        if address not in self._engines:
            self._engines[address] = create_engine(
                address, poolclass=NullPool, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS}
            )
            if len(self._engines) > _ENGINES:
                self._engines.popitem(last=False)[1].dispose()
        self._engines.move_to_end(address)
        return self._engines[address]


class SqliteStorage(DagsterSqliteStorage):
    """Runs, events and schedules in SQLite files below one folder."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        _relax_syncing()
        super().__init__(base_dir, inst_data=inst_data)
        self._event_log_storage = SqliteEvents(_event_logs_directory(base_dir))
