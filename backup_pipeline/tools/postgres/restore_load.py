"""Loading a plain dump into a new, empty database over several connections at once.

The dump is read once, in its own order. Statements run one by one on the first connection; the data of a table is
loaded by a worker, a large table by all of them; runs of index builds and keys are spread over them, each table's keys
before its indexes. Everything of the file is executed: nothing is left out or reordered across a statement that is not
understood. The database is not live yet, which is what makes the session settings below safe: a crash means that it is
dropped and made again.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psutil
from psycopg import Connection
from psycopg.pq import ExecStatus
from psycopg.rows import TupleRow

from backup_pipeline.errors import BackupSystemError, SourceError
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.tools.postgres.connection import open_connection, translate_postgres_error, translated
from backup_pipeline.tools.postgres.restore_stream import CopyBlock, DumpParts, Readable, Statement
from backup_pipeline.tools.postgres.target import PostgresTarget

# A table whose data is larger is loaded by all workers; smaller ones by one, frozen.
LARGE_TABLE = 16 << 20
WORTH_FREEZING = 1 << 19
_SET = re.compile(rb"(SET\s(?!SESSION AUTHORIZATION)|SELECT pg_catalog\.set_config\('search_path', '', false\);)")
_NAME = rb'(?:"(?:[^"]|"")+"|[^\s".]+)'
_KEY = re.compile(
    rb"ALTER TABLE (?:ONLY )?(?P<table>" + _NAME + rb"\." + _NAME + rb")\s+ADD CONSTRAINT " + _NAME
    + rb" (?:PRIMARY KEY|UNIQUE|EXCLUDE) "
)  # fmt: skip
_INDEX = re.compile(
    rb"CREATE (?:UNIQUE )?INDEX " + _NAME + rb" ON (?:ONLY )?(?P<table>" + _NAME + rb"\." + _NAME + rb") USING "
)
_AFTER_RUN = re.compile(
    rb"COMMENT ON (?:INDEX|CONSTRAINT) |ALTER TABLE (?:ONLY )?[^\n]+ (?:CLUSTER ON|REPLICA IDENTITY) "
    rb"|ALTER INDEX [^\n]+ ALTER COLUMN "
)


@dataclass
class LoadOutcome:
    """What was loaded: tables with rows as COPY counted them, statements, bytes of table data."""

    rows: dict[tuple[str, str], int] = field(default_factory=dict)
    statements: int = 0
    data_bytes: int = 0


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
    }


Skip = Callable[["Statement | CopyBlock"], bool]
# Told a statement that the server refused and the SQLSTATE; True leaves it out.
Tolerate = Callable[[bytes, str], bool]


class _StoppedError(Exception):
    """Another worker failed."""


class _Pool:
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

    def __enter__(self) -> _Pool:
        try:
            for _ in range(self.jobs):
                connection = open_connection(self.target, pinned=False)
                self.connections.append(connection)
                for name, value in session_settings(self.jobs).items():
                    connection.execute("select set_config(%s, %s, false)", [name, value])
        except BaseException:
            self._close()
            raise
        for connection in self.connections:
            thread = threading.Thread(target=self._work, args=(connection,), name="restore", daemon=True)
            thread.start()
            self._threads.append(thread)
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
            for connection in self.connections:
                with contextlib.suppress(Exception):
                    connection.cancel_safe(timeout=5)
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
                if self._error is None and not isinstance(error, _StoppedError):
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
            raise _StoppedError

    def submit(self, task: Callable[[Connection[TupleRow]], None]) -> None:
        """Hand a task to the next free worker; waits when they are all far behind."""
        with self._idle:
            self._open += 1
        self.put(self._tasks, task)

    def put(self, where: queue.Queue[object] | queue.Queue[Callable[[Connection[TupleRow]], None] | None],
            item: object) -> None:  # fmt: skip
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


def execute_statement(
    connection: Connection[TupleRow], text: bytes, target: PostgresTarget, tolerate: Tolerate | None = None
) -> None:
    """Run one statement as it stands, in whatever encoding the dump set.

    Raises:
        SourceError: the server refused it and `tolerate` did not take that; names the first line, no data.
    """
    result = connection.pgconn.exec_(text)
    if result.status in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK, ExecStatus.EMPTY_QUERY):
        return
    primary = (result.error_field(ord("M")) or b"").decode("utf-8", "replace")
    state = (result.error_field(ord("C")) or b"").decode()
    if tolerate is not None and tolerate(text, state):
        return
    first = text.strip().split(b"\n")[0][:120].decode("utf-8", "replace")
    raise SourceError(
        f"{primary} (SQLSTATE {state}) in: {first}",
        where=target.label,
        remedy="The database that was being restored is not used; the live one is untouched.",
    )


def copy_rows(
    connection: Connection[TupleRow],
    target: PostgresTarget,
    table: tuple[str, str],
    statement: bytes,
    chunks: Iterator[bytes],
) -> tuple[int, int]:
    """Run a COPY … FROM STDIN with these data lines; return rows and bytes.

    Raises:
        SourceError: the data was refused; the error names the table, never a row.
    """
    size = 0
    with connection.cursor() as cursor:
        try:
            with cursor.copy(statement) as copy:
                for chunk in chunks:
                    copy.write(chunk)
                    size += len(chunk)
        except Exception as error:
            diagnosis = getattr(error, "diag", None)
            if diagnosis is not None and diagnosis.message_primary:
                # The context holds the line of data that was refused; it belongs into no message.
                raise SourceError(
                    f"The data of a table was refused (SQLSTATE {diagnosis.sqlstate}).",
                    where=f"{target.label}: {table[0]}.{table[1]}",
                    remedy="The live database is untouched. Look at the server's log for the row.",
                ) from None
            raise
        return max(0, cursor.rowcount), size


class _Loader:
    def __init__(self, pool: _Pool, target: PostgresTarget, progress: ProgressSink, tolerate: Tolerate | None) -> None:
        self._pool = pool
        self._tolerate = tolerate
        self._target = target
        self._progress = progress
        self._lock = threading.Lock()
        self._run: list[Statement] = []
        self._after: list[Statement] = []
        self.outcome = LoadOutcome()

    @property
    def _first(self) -> Connection[TupleRow]:
        return self._pool.connections[0]

    def load(self, parts: DumpParts, skip: Skip | None) -> LoadOutcome:
        waiting = False
        for part in parts:
            self._pool.check()
            if skip is not None and skip(part):
                continue
            if isinstance(part, CopyBlock):
                self._end_run()
                self._copy(part)
                waiting = True
                continue
            if waiting:
                self._pool.wait()
                waiting = False
            self._statement(part)
        self._pool.wait()
        self._end_run()
        self._progress(Progress("restore", self.outcome.data_bytes, None, finished=True))
        return self.outcome

    def _statement(self, statement: Statement) -> None:
        self.outcome.statements += 1
        if _KEY.match(statement.body) or _INDEX.match(statement.body):
            self._run.append(statement)
            return
        if self._run and _AFTER_RUN.match(statement.body):
            self._after.append(statement)
            return
        self._end_run()
        # A session setting concerns every connection; anything else runs once.
        for connection in self._pool.connections if _SET.match(statement.body) else [self._first]:
            execute_statement(connection, statement.body, self._target, self._tolerate)

    def _end_run(self) -> None:
        """Build the keys and indexes gathered so far: by table, keys before indexes, indexes side by side."""
        run, after = self._run, self._after
        self._run, self._after = [], []
        if not run:
            return
        chains: dict[bytes, tuple[list[bytes], list[bytes]]] = {}
        for statement in run:
            key = _KEY.match(statement.body)
            found = key or _INDEX.match(statement.body)
            assert found is not None
            keys, indexes = chains.setdefault(found["table"], ([], []))
            (keys if key else indexes).append(statement.body)
        # A job: statements to run one after the other, and those that may start once they are done.
        ready: queue.Queue[tuple[list[bytes], list[bytes]]] = queue.Queue()
        for keys, indexes in chains.values():
            if keys:
                ready.put((keys, indexes))
            else:
                for text in indexes:
                    ready.put(([text], []))
        left = len(run)
        changed = threading.Condition()

        def work(connection: Connection[TupleRow]) -> None:
            nonlocal left
            while True:
                with changed:
                    while ready.empty() and left and not self._pool.stop.is_set():
                        changed.wait(0.2)
                    if not left or self._pool.stop.is_set():
                        return
                    statements, then = ready.get_nowait()
                for text in statements:
                    execute_statement(connection, text, self._target)
                with changed:
                    left -= len(statements)
                    for text in then:
                        ready.put(([text], []))
                    changed.notify_all()

        for _ in range(self._pool.jobs):
            self._pool.submit(work)
        self._pool.wait()
        for statement in after:
            execute_statement(self._first, statement.body, self._target)

    def _copy(self, block: CopyBlock) -> None:
        table, header = block.table, block.header
        start: list[bytes] = []
        size = 0
        chunks = block.chunks()
        for chunk in chunks:
            start.append(chunk)
            size += len(chunk)
            if size >= LARGE_TABLE and self._pool.jobs > 1:
                self._copy_large(block, start, chunks)
                return
        if start:
            self._pool.submit(lambda connection: self._copy_whole(connection, table, header, iter(start), size))
        else:
            self._count(table, 0, 0)

    def _copy_whole(
        self,
        connection: Connection[TupleRow],
        table: tuple[str, str],
        header: bytes,
        chunks: Iterator[bytes],
        size: int,
    ) -> None:
        """Load a table in one go. An empty ordinary table is truncated first, in the same transaction, so that its
        rows can be written frozen: later reads need not mark them, and with wal_level=minimal nothing is logged."""
        with translated(self._target), connection.transaction():
            # For a few rows the new file that TRUNCATE makes costs more than it saves.
            frozen = size >= WORTH_FREEZING and self._may_freeze(connection, header)
            statement = header.removesuffix(b";") + (b" WITH (FREEZE)" if frozen else b"") + b";"
            if frozen:
                connection.execute(b"truncate table only " + _relation_of(header))
            self._feed(connection, table, statement, chunks)

    def _may_freeze(self, connection: Connection[TupleRow], header: bytes) -> bool:
        relation = _relation_of(header)
        row = connection.execute(
            "select c.relkind = 'r' and not exists (select from pg_catalog.pg_depend d where d.objid = c.oid"
            " and d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.deptype = 'e')"
            " and not exists (select from pg_catalog.pg_constraint f where f.confrelid = c.oid and f.contype = 'f')"
            " and not exists (select from pg_catalog.pg_trigger t where t.tgrelid = c.oid)"
            " from pg_catalog.pg_class c where c.oid = %s::pg_catalog.regclass",
            [relation.decode()],
        ).fetchone()
        return (
            bool(row and row[0])
            and not connection.execute(b"select exists (select from only " + relation + b")").fetchall()[0][0]
        )

    def _copy_large(self, block: CopyBlock, start: list[bytes], rest: Iterator[bytes]) -> None:
        """Load one table over all connections at once; they take turns with its chunks."""
        table, header = block.table, block.header
        pieces: queue.Queue[object] = queue.Queue(maxsize=4 * self._pool.jobs)

        def taken() -> Iterator[bytes]:
            while True:
                try:
                    piece = pieces.get(timeout=0.2)
                except queue.Empty:
                    if self._pool.stop.is_set():
                        raise _StoppedError from None
                    continue
                if piece is None:
                    return
                assert isinstance(piece, bytes)
                yield piece

        def load(connection: Connection[TupleRow]) -> None:
            with translated(self._target):
                self._feed(connection, table, header, taken())

        for _ in range(self._pool.jobs):
            self._pool.submit(load)
        while start:
            self._pool.put(pieces, start.pop(0))
        for chunk in rest:
            self._pool.put(pieces, chunk)
        for _ in range(self._pool.jobs):
            self._pool.put(pieces, None)

    def _feed(
        self, connection: Connection[TupleRow], table: tuple[str, str], statement: bytes, chunks: Iterator[bytes]
    ) -> None:
        self._count(table, *copy_rows(connection, self._target, table, statement, chunks))

    def _count(self, table: tuple[str, str], rows: int, size: int) -> None:
        with self._lock:
            self.outcome.rows[table] = self.outcome.rows.get(table, 0) + rows
            self.outcome.data_bytes += size
            self._progress(Progress("restore", self.outcome.data_bytes))


def _relation_of(header: bytes) -> bytes:
    return CopyBlock(header, iter(())).relation


def default_jobs() -> int:
    """Return the number of connections for loading: the processor's cores, at most 8."""
    return max(2, min(8, os.cpu_count() or 2))


def load_plain_dump(
    reader: Readable,
    target: PostgresTarget,
    *,
    jobs: int = 0,
    skip: Skip | None = None,
    tolerate: Tolerate | None = None,
    analyze: bool = True,
    progress: ProgressSink = no_progress,
) -> LoadOutcome:
    """Load a plain dump into the target's new, empty database.

    Args:
        reader: the dump as plain SQL (see `restore_stream.plain_sql`).
        target: a database that nobody else uses.
        jobs: connections; the processor's cores (at most 8) by default.
        skip: tells which parts are left out, such as an extension that this server has not got.
        tolerate: asked about every statement of its own that the server refuses; everything else must succeed.
        analyze: gather the planner's statistics of every table at the end.
        progress: told the bytes of table data loaded so far.

    Raises:
        SourceError: a statement or row was refused; names the statement's first line or the table, never data.
        RefusedError: a meta-command in the dump. ValidationError: not a whole dump.
    """
    jobs = jobs or default_jobs()
    try:
        with _Pool(target, jobs) as pool:
            loader = _Loader(pool, target, progress, tolerate)
            outcome = loader.load(DumpParts(reader), skip)
            if analyze:
                _analyze(pool, target, [table for table, rows in outcome.rows.items() if rows])
            return outcome
    except BackupSystemError:
        raise
    except Exception as error:
        import psycopg

        if isinstance(error, psycopg.Error):
            raise translate_postgres_error(error, target) from error
        raise


def analyze_database(target: PostgresTarget, tables: list[tuple[str, str]], *, jobs: int = 0) -> None:
    """Gather the planner's statistics of these tables over several connections."""
    with _Pool(target, min(jobs or default_jobs(), max(1, len(tables)))) as pool:
        _analyze(pool, target, tables)


def _analyze(pool: _Pool, target: PostgresTarget, tables: list[tuple[str, str]]) -> None:
    """Gather the planner's statistics, so that the database is fit for work as soon as it is swapped in."""
    from psycopg import sql

    for schema, name in tables:
        text = sql.SQL("analyze {}").format(sql.Identifier(schema, name)).as_bytes()
        pool.submit(lambda connection, text=text: execute_statement(connection, text, target))  # type: ignore[misc]
    pool.wait()
