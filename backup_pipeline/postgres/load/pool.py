"""A pool of loading sessions on a database that is not live yet, each with a thread."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from functools import partial

import psutil
from psycopg import Connection
from psycopg.rows import TupleRow

from backup_pipeline.postgres.server.connection import SETTINGS_FOR_A_DUMP, open_connection, pin_session
from backup_pipeline.postgres.server.cutting import end_connections
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.system.threads import start_thread


def default_jobs() -> int:
    """Return the number of connections for loading: the processor's cores, at most 8."""
    return max(2, min(8, os.cpu_count() or 2))


def session_settings(jobs: int) -> dict[str, str]:
    """Return settings for sessions that fill a database that is not live yet."""
    memory = int(psutil.virtual_memory().total / 16 / max(1, jobs) / 1024)
    return {
        "synchronous_commit": "off",
        # As many index builds as connections run at once; more helpers than cores only get into each other's way.
        "max_parallel_maintenance_workers": str(max(1, (os.cpu_count() or 2) // max(1, jobs))),
        "maintenance_work_mem": f"{max(65536, min(memory, 1048576))}kB",
        "statement_timeout": "0",
        "lock_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        **SETTINGS_FOR_A_DUMP,
    }


class StoppedError(Exception):
    """Another worker failed."""


class Pool:
    """Worker threads with a connection each. The first error stops all of them and is raised to the reader."""

    def __init__(self, target: PostgresTarget, jobs: int) -> None:
        self.target = target
        self.jobs = jobs
        self.connections: list[Connection[TupleRow]] = []
        self._tasks: queue.Queue[Callable[[Connection[TupleRow]], None] | None] = queue.Queue(maxsize=2 * jobs)
        self._error: BaseException | None = None
        self.stop = threading.Event()
        self._open = 0
        self._idle = threading.Condition()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Pool:
        try:
            for _ in range(self.jobs):
                connection = open_connection(self.target, pinned=False)
                self.connections.append(connection)
                pin_session(connection, session_settings(self.jobs))
        except BaseException:
            self._close()
            raise
        for connection in self.connections:
            self._threads.append(start_thread(partial(self._work, connection), "restore"))
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.stop.set()
        for _thread in self._threads:
            while True:
                with contextlib.suppress(queue.Full):
                    self._tasks.put(None, timeout=0.1)
                    break
                if self.stop.is_set():
                    with contextlib.suppress(queue.Empty):
                        self._tasks.get_nowait()
        if self.stop.is_set():
            end_connections(self.connections)
        for thread in self._threads:
            thread.join()
        self._close()

    def _close(self) -> None:
        for connection in self.connections:
            connection.close()

    def _work(self, connection: Connection[TupleRow]) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                if not self.stop.is_set():
                    task(connection)
            except BaseException as error:  # noqa: BLE001 - carried to the reader's thread
                if self._error is None and not isinstance(error, StoppedError):
                    self._error = error
                self.stop.set()
            finally:
                with self._idle:
                    self._open -= 1
                    self._idle.notify_all()

    def check(self) -> None:
        """Raise the first error of a worker."""
        if self._error is not None:
            raise self._error
        if self.stop.is_set():
            raise StoppedError

    def submit(self, task: Callable[[Connection[TupleRow]], None]) -> None:
        """Hand a task to the next free worker; waits when they are all far behind."""
        with self._idle:
            self._open += 1
        self.put(self._tasks, task)

    def put(
        self, where: queue.Queue[object] | queue.Queue[Callable[[Connection[TupleRow]], None] | None], item: object
    ) -> None:
        """Put an item into a bounded queue, noticing a failure elsewhere."""
        while True:
            self.check()
            with contextlib.suppress(queue.Full):
                where.put(item, timeout=0.2)  # type: ignore[arg-type]
                return

    def wait(self) -> None:
        """Wait until every task is done."""
        with self._idle:
            while self._open and not self.stop.is_set():
                self._idle.wait(0.2)
        self.check()
