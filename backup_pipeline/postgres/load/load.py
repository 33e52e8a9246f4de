"""Loading a plain dump into a new, empty database over several connections at once.

The dump is read once, in its own order. Statements run one by one on the first connection; the data of a table is
loaded by a worker, a large table by all of them; runs of index builds and keys are spread over them, each table's keys
before its indexes. Everything of the file is executed: nothing is skipped or reordered across a statement that is not
understood. The database is not live yet, which is what makes the session settings below safe: a crash means that it is
dropped and made again.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from psycopg import Connection
from psycopg.rows import TupleRow

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.postgres.catalog.search_path import NOT_FOUND
from backup_pipeline.postgres.load.broken_keys import BrokenKeys
from backup_pipeline.postgres.load.input import Readable
from backup_pipeline.postgres.load.pool import Pool, default_jobs
from backup_pipeline.postgres.load.refused import OpenAgain, RefusedTables
from backup_pipeline.postgres.load.session import RefusedDataError, Tolerate, copy_rows, execute_statement
from backup_pipeline.postgres.load.shared_rows import SharedRows
from backup_pipeline.postgres.load.stream import CopyBlock, DumpParts, Statement
from backup_pipeline.postgres.server.connection import translate_postgres_error, translated
from backup_pipeline.postgres.server.target import PostgresTarget

# A table whose data is larger is loaded by all workers; smaller ones by one, frozen.
LARGE_TABLE = 16 << 20
WORTH_FREEZING = 1 << 19
_SET = re.compile(rb"(SET\s(?!SESSION AUTHORIZATION|ROLE )|SELECT pg_catalog\.set_config\('search_path', '', false\);)")
_NAME = rb'(?:"(?:[^"]|"")+"|[^\s".]+)'
_TABLESPACE = b"SET default_tablespace = "
_KEY = re.compile(
    rb"ALTER TABLE (?:ONLY )?(?P<table>"
    + _NAME
    + rb"\."
    + _NAME
    + rb")\s+ADD CONSTRAINT "
    + _NAME
    + rb" (?:PRIMARY KEY|UNIQUE|EXCLUDE) "
)
_INDEX = re.compile(
    rb"CREATE (?:UNIQUE )?INDEX " + _NAME + rb" ON (?:ONLY )?(?P<table>" + _NAME + rb"\." + _NAME + rb") USING "
)
_AFTER_RUN = re.compile(
    rb"COMMENT ON (?:INDEX|CONSTRAINT) |ALTER TABLE (?:ONLY )?[^\n]+ (?:CLUSTER ON|REPLICA IDENTITY) "
    rb"|ALTER INDEX [^\n]+ ALTER COLUMN "
)


# What pg_dump writes between the data of tables.
_AMONG_DATA = re.compile(rb"SET |RESET |SELECT pg_catalog\.|ALTER TABLE [^\n]+ (?:DISABLE|ENABLE) TRIGGER ")
# What runs functions of the site's own when it is executed.
_CALLS_FUNCTIONS = re.compile(
    rb"CREATE (?:UNIQUE )?INDEX |ALTER TABLE |REFRESH MATERIALIZED VIEW |ANALYZE ", re.IGNORECASE
)


@dataclass
class LoadOutcome:
    """What was loaded: tables with rows as COPY counted them, bytes of table data.

    `not_valid` are CHECKs and foreign keys (schema.table.name) that the rows do not satisfy; `not_made` constraints
    (schema.table.name) and unique indexes (schema.name) that they violate; `nullable` columns that are NOT NULL in the
    dump and null in its rows.
    """

    rows: dict[tuple[str, str], int] = field(default_factory=dict)
    data_bytes: int = 0
    not_valid: list[str] = field(default_factory=list)
    not_made: list[str] = field(default_factory=list)
    nullable: list[str] = field(default_factory=list)


Skip = Callable[["Statement | CopyBlock"], bool]


class Assistant(Protocol):
    """Another session that runs parts of the dump which the loading role may not; see `load.loading_role.Steward`."""

    def takes(self, part: Statement | CopyBlock, /) -> bool:
        """Return whether it runs this part; RefusedError where nobody may."""

    def run(self, part: Statement | CopyBlock, /) -> None:
        """Run it."""

    def as_loaded(self, part: Statement | CopyBlock, /) -> Statement | CopyBlock | None:
        """Return what the loading role runs in its place; None for nothing."""


class _Loader:
    def __init__(
        self,
        pool: Pool,
        target: PostgresTarget,
        progress: ProgressSink,
        tolerate: Tolerate | None,
        assistant: Assistant | None = None,
        refused: RefusedTables | None = None,
    ) -> None:
        self._pool = pool
        self._refused = refused
        self.keys = BrokenKeys()
        self._assistant = assistant
        self._tolerate = tolerate
        self._target = target
        self._progress = progress
        self._lock = threading.Lock()
        self._run: list[Statement] = []
        self._after: list[Statement] = []
        self._copied = False
        self._handed_over = 0
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
            if isinstance(part, Statement) and not _AMONG_DATA.match(part.body):
                # The data is in, but for what was refused; what comes now (keys, views) needs all of it.
                self._load_refused()
            if self._assistant is not None:
                if self._assistant.takes(part):
                    self._pool.wait()
                    self._end_run()
                    waiting = False
                    self._assistant.run(part)
                    continue
                loaded = self._assistant.as_loaded(part)
                if loaded is None:
                    continue
                part = loaded
            if isinstance(part, CopyBlock):
                self._end_run()
                self._copied = True
                self._copy(part)
                waiting = True
                continue
            if waiting:
                self._pool.wait()
                waiting = False
            self._statement(part)
        self._load_refused()
        self._end_run()
        self._progress(Progress("restore", self.outcome.data_bytes, None, finished=True))
        self._progress(Progress("load tables", len(self.outcome.rows), None, "tables", finished=True))
        return self.outcome

    def _load_refused(self) -> None:
        if self._copied:
            self._copied = False
            self._pool.wait()
            if self._refused is not None:
                self._refused.load(self._first, self._recount)

    def _recount(self, table: tuple[str, str], rows: int, size: int) -> None:
        self.outcome.rows.pop(table, None)
        self._hand_over(size)
        self._count(table, rows, size)

    def execute(
        self, connection: Connection[TupleRow], text: bytes, tolerate: Tolerate | None = None, *, alone: bool = False
    ) -> None:
        """Run a statement; where its functions do not see what they name, under their own search_path."""

        def also(refused: bytes, state: str) -> bool:
            if self._refused is not None and self.keys.take(refused, state, again):
                return True
            if self._refused is None or state not in NOT_FOUND or not _CALLS_FUNCTIONS.match(text):
                return tolerate is not None and tolerate(refused, state)
            with self._refused.own_path(connection):
                execute_statement(connection, text, self._target, tolerate, alone=alone)
            return True

        def again(changed: bytes, leave: Tolerate) -> None:
            execute_statement(connection, changed, self._target, leave, alone=alone)

        execute_statement(connection, text, self._target, also, alone=alone)

    def _statement(self, statement: Statement) -> None:
        if _KEY.match(statement.body) or _INDEX.match(statement.body):
            self._run.append(statement)
            return
        if self._run and _AFTER_RUN.match(statement.body):
            self._after.append(statement)
            return
        self._end_run()
        # A session setting concerns every connection; anything else runs once.
        if statement.body.startswith(_TABLESPACE):
            # Where the named one is not to be had, the one before it must not stay.
            for connection in self._pool.connections:
                execute_statement(connection, _TABLESPACE + b"'';", self._target)
        for connection in self._pool.connections if _SET.match(statement.body) else [self._first]:
            self.execute(connection, statement.body, self._tolerate, alone=self._assistant is not None)

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
                    self.execute(connection, text)
                with changed:
                    left -= len(statements)
                    for text in then:
                        ready.put(([text], []))
                    changed.notify_all()

        for _ in range(self._pool.jobs):
            self._pool.submit(work)
        self._pool.wait()
        for statement in after:
            self.execute(self._first, statement.body)

    def _copy(self, block: CopyBlock) -> None:
        table, header, codec = block.table, block.header, block.codec
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
            self._pool.submit(lambda connection: self._copy_whole(connection, table, header, codec, iter(start), size))
        else:
            self._count(table, 0, 0)

    def _copy_whole(
        self,
        connection: Connection[TupleRow],
        table: tuple[str, str],
        header: bytes,
        codec: str,
        chunks: Iterator[bytes],
        size: int,
    ) -> None:
        """Load a table in one go. An empty ordinary table is truncated first, in the same transaction, so that its
        rows can be written frozen: later reads need not mark them, and with wal_level=minimal nothing is logged."""
        with self._kept_back(table), translated(self._target), connection.transaction():
            # For a few rows the new file that TRUNCATE makes costs more than it saves.
            relation = CopyBlock(header, iter(()), codec).relation
            frozen = size >= WORTH_FREEZING and self._may_freeze(connection, relation, codec)
            statement = header.removesuffix(b";") + (b" WITH (FREEZE)" if frozen else b"") + b";"
            if frozen:
                connection.execute(b"truncate table only " + relation)
            self._feed(connection, table, statement, chunks)

    @contextlib.contextmanager
    def _kept_back(self, table: tuple[str, str], *, partly: bool = False) -> Iterator[None]:
        """Keep a table whose rows are refused for later; without a second read of the dump the error ends the load."""
        try:
            yield
        except RefusedDataError as error:
            if self._refused is None:
                raise
            with self._lock:
                self._refused.add(table, error, partly=partly)

    def _may_freeze(self, connection: Connection[TupleRow], relation: bytes, codec: str) -> bool:
        row = connection.execute(
            "select c.relkind = 'r' and not exists (select from pg_catalog.pg_depend d where d.objid = c.oid"
            " and d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.deptype = 'e')"
            " and not exists (select from pg_catalog.pg_constraint f where f.confrelid = c.oid and f.contype = 'f')"
            " and not exists (select from pg_catalog.pg_trigger t where t.tgrelid = c.oid)"
            " from pg_catalog.pg_class c where c.oid = %s::pg_catalog.regclass",
            [relation.decode(codec)],
        ).fetchone()
        return (
            bool(row and row[0])
            and not connection.execute(b"select exists (select from only " + relation + b")").fetchall()[0][0]
        )

    def _copy_large(self, block: CopyBlock, start: list[bytes], rest: Iterator[bytes]) -> None:
        """Load one table over all connections at once; they take turns with its chunks."""
        table, header = block.table, block.header
        shared = SharedRows(self._pool)

        def load(connection: Connection[TupleRow]) -> None:
            ended = threading.Event()
            with (
                self._kept_back(table, partly=True),
                translated(self._target),
                contextlib.closing(shared.taken(ended)) as rows,
            ):
                self._feed(connection, table, header, rows)
            # Of a refused table the rest is passed over.
            for piece in shared.taken(ended):
                del piece

        for _ in range(self._pool.jobs):
            self._pool.submit(load)
        while start:
            shared.put(start.pop(0))
        while (chunk := next(rest, None)) is not None:
            shared.put(chunk)
            del chunk  # before the next one is read
        shared.end()

    def _feed(
        self, connection: Connection[TupleRow], table: tuple[str, str], statement: bytes, chunks: Iterator[bytes]
    ) -> None:
        handed = 0

        def counted() -> Iterator[bytes]:
            nonlocal handed
            for chunk in chunks:
                size = len(chunk)
                yield chunk
                del chunk  # before the next one is read
                handed += size
                self._hand_over(size)

        try:
            rows, size = copy_rows(connection, self._target, table, statement, counted())
        except BaseException:
            self._hand_over(-handed)
            raise
        self._count(table, rows, size)

    def _hand_over(self, size: int) -> None:
        """Count bytes that the server has taken, in the middle of a table too: one may be most of a database."""
        with self._lock:
            self._handed_over += size
            self._progress(Progress("restore", self._handed_over))

    def _count(self, table: tuple[str, str], rows: int, size: int) -> None:
        with self._lock:
            self.outcome.rows[table] = self.outcome.rows.get(table, 0) + rows
            self.outcome.data_bytes += size
            self._progress(Progress("load tables", len(self.outcome.rows), None, "tables"))


@dataclass(frozen=True)
class LoadHooks:
    """What is asked while a dump is loaded.

    Attributes:
        skip: returns which parts are skipped, such as an extension that this server has not got.
        tolerate: asked about every statement of its own that the server refuses; everything else must succeed.
        assistant: runs what the target's role may not, and refuses what no role may.
        again: opens the dump once more, for tables that are refused before others are in (see `load.refused`).
    """

    skip: Skip | None = None
    tolerate: Tolerate | None = None
    assistant: Assistant | None = None
    again: OpenAgain | None = None


def load_plain_dump(
    reader: Readable,
    target: PostgresTarget,
    hooks: LoadHooks = LoadHooks(),
    *,
    jobs: int = 0,
    analyze: bool = True,
    search_path: str = "",
    progress: ProgressSink = no_progress,
) -> LoadOutcome:
    """Load a plain dump into the target's new, empty database.

    Args:
        reader: the dump as plain SQL (see `load.stream.plain_sql`).
        target: a database that nobody else uses.
        hooks: what is asked while it is loaded.
        jobs: connections; the processor's cores (at most 8) by default.
        analyze: gather the planner's statistics of every table at the end.
        search_path: that the database's functions were written for; "" for the server's default.
        progress: receives the bytes of table data loaded so far.

    Raises:
        SourceError: a statement or row was refused; names the statement's first line or the table, never data.
        RefusedError: a meta-command in the dump. ValidationError: not a whole dump.
    """
    jobs = jobs or default_jobs()
    try:
        with Pool(target, jobs) as pool:
            refused = RefusedTables(hooks.again, target, search_path) if hooks.again is not None else None
            loader = _Loader(pool, target, progress, hooks.tolerate, hooks.assistant, refused)
            outcome = loader.load(DumpParts(reader, rows_in_parts=True), hooks.skip)
            if refused is not None:
                outcome.not_valid = refused.not_valid + loader.keys.not_valid
                outcome.not_made = loader.keys.not_made
                outcome.nullable = refused.nullable
            if analyze:
                _analyze(pool, [table for table, rows in outcome.rows.items() if rows], loader.execute)
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
    with Pool(target, min(jobs or default_jobs(), max(1, len(tables)))) as pool:
        _analyze(pool, tables, lambda connection, text: execute_statement(connection, text, target))


def _analyze(pool: Pool, tables: list[tuple[str, str]], execute: Callable[[Connection[TupleRow], bytes], None]) -> None:
    """Gather the planner's statistics, so that the database is fit for work as soon as it is swapped in."""
    from psycopg import sql

    for schema, name in tables:
        text = sql.SQL("analyze {}").format(sql.Identifier(schema, name))
        # Written in the session's encoding, which is the dump's.
        pool.submit(lambda connection, text=text: execute(connection, text.as_bytes(connection)))  # type: ignore[misc]
    pool.wait()
