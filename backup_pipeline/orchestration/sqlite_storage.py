"""Dagster's SQLite storage, made cheap enough for runs of a few seconds.

Dagster's own opens and closes each file for each of the hundreds of events of a run, and syncs after each; that was
half of the time of a small backup. Here the connections to the files used last are kept, since the last one to close
moves the whole log into the file, and files are synced at checkpoints. Events of steps, assets and checks that follow
each other closely are written in one transaction: when another event comes, anything is read, or a moment has passed.
What is stored is the same.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster import DagsterEventType, EventLogEntry
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS, EVENT_TYPE_TO_PIPELINE_RUN_STATUS
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage, _event_logs_directory
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.event import listens_for
from sqlalchemy.pool import NullPool, Pool, QueuePool

from backup_pipeline.orchestration.redacted_events import without_secrets
from backup_pipeline.orchestration.sqlite_index import index_events
from backup_pipeline.redaction import may_hold_secrets

_FILES = 16
# So long at most a page of the UI, which another process serves, lags behind; and so much a killed process may lose.
_DELAY_SECONDS = 0.2
_AT_ONCE = 200
_MIRRORED = ASSET_EVENTS | ASSET_CHECK_EVENTS | EVENT_TYPE_TO_PIPELINE_RUN_STATUS.keys()
# Those of which a run has as many as it has sources, assets and checks.
_DELAYED = frozenset(
    {
        DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
        DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED,
        DagsterEventType.STEP_START,
        DagsterEventType.STEP_SUCCESS,
        DagsterEventType.STEP_OUTPUT,
        DagsterEventType.HANDLED_OUTPUT,
        DagsterEventType.ASSET_MATERIALIZATION,
        DagsterEventType.ASSET_CHECK_EVALUATION,
    }
)


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


_INSERTED = SqlEventLogStorageTable.insert()


class SqliteEvents(SqliteEventLogStorage):
    """The event log, with a connection to each of the files used last kept open until `dispose()`."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: OrderedDict[str, tuple[Engine, int]] = OrderedDict()
        self._open: dict[str, Connection] = {}
        self._pending: list[EventLogEntry] = []
        self._failed: Exception | None = None
        self._tables: set[str] = set()
        super().__init__(base_dir, inst_data=inst_data)
        # Of the thread that has it, for Dagster's parts of one transaction ask for the connection each by itself.
        self._db_lock = threading.RLock()  # type: ignore[assignment]

    def has_table(self, table_name: str) -> bool:
        """Whether the history has a table; one that was there stays, and is asked for with each event of a check."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    def has_secondary_index(self, name: str) -> bool:
        """Whether a summary of the history was made; it stays, and is asked for with each asset that is read."""
        summary = f"summary {name}"
        if summary not in self._tables and super().has_secondary_index(name):
            self._tables.add(summary)
        return summary in self._tables

    def _has_asset_key_col_on_connection(self, conn: Connection, column_name: str) -> bool:
        column = f"column {column_name}"
        if column not in self._tables and super()._has_asset_key_col_on_connection(conn, column_name):
            self._tables.add(column)
        return column in self._tables

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            if (already := self._open.get(shard)) is not None:
                yield already
                return
            self._write_pending()
            with self._engine(shard).connect() as connection, connection.begin():
                self._open[shard] = connection
                try:
                    yield connection
                finally:
                    del self._open[shard]

    def store_event(self, event: EventLogEntry) -> None:
        """Store an event, at once or soon; an error of those before is raised here.

        Args:
            event: of a run, or of none.
        """
        with self._db_lock:
            if (failed := self._failed) is not None:
                self._failed = None
                raise failed
            self._pending.append(event)
            delayed = event.run_id and event.dagster_event_type in _DELAYED
            if not delayed or len(self._pending) >= _AT_ONCE:
                self._write_pending()
            elif len(self._pending) == 1:
                timer = threading.Timer(_DELAY_SECONDS, self._write_at_last)
                timer.daemon = True
                timer.start()

    def _write_at_last(self) -> None:
        with self._db_lock:
            try:
                self._write_pending()
            except Exception as error:  # noqa: BLE001 - raised by the next event, as if that could not be stored
                self._failed = error

    def _write_pending(self) -> None:
        """Write what waits: the events of each run into its file, those of assets and of runs' states into the index.

        The caller holds the lock.
        """
        events, self._pending = self._pending, []
        rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        mirrored = []
        for event in events:
            row = self._event_to_row(event)
            if may_hold_secrets(row["event"]):
                event = without_secrets(event)
                row = self._event_to_row(event)
            rows[event.run_id].append(row)
            if event.dagster_event_type in _MIRRORED:
                mirrored.append((event, row))
        for run_id, several in rows.items():
            with self._connect(run_id) as connection:
                connection.execute(_INSERTED, several)
        if mirrored:
            with self._connect(INDEX_SHARD_NAME) as connection:
                index_events(self, connection, mirrored)

    def dispose(self) -> None:
        """Write what waits, and close the files."""
        with self._db_lock:
            try:
                self._write_pending()
            finally:
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
