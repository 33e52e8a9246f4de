"""A capture beside what others do in the database: DDL that collides with its locks, sessions that are ended."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from backup_pipeline.errors import SourceError, UnreachableError
from backup_pipeline.model.progress import Progress
from backup_pipeline.postgres.export.readers import Readers
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.snapshot import exported_snapshot
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_capture import begin, capture
from backup_pipeline_tests.support.sites import SHOP

Make = Callable[..., PostgresTarget]
_TABLES = """
create table cache (id int primary key, t text);
insert into cache select n, 'row ' || n from generate_series(1, 500) n;
create materialized view totals as select count(*) from cache;
"""


@contextlib.contextmanager
def _busy_application(target: PostgresTarget) -> Iterator[list[int]]:
    """Rewrite and empty a table again and again during the block; give a list whose number grows with each round."""
    stop, rounds = threading.Event(), [0]

    def work() -> None:
        with psycopg.connect(**target.connect_arguments(), autocommit=True) as connection:  # type: ignore[arg-type]
            while not stop.is_set():
                for statement in (
                    "truncate cache",
                    "insert into cache select n, 'row ' || n from generate_series(1, 500) n",
                    "alter table cache alter column t set default 'x'",
                    "cluster cache using cache_pkey",
                    "refresh materialized view totals",
                ):
                    connection.execute(statement)  # type: ignore[arg-type]
                rounds[0] += 1
                stop.wait(2)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield rounds
    finally:
        stop.set()
        thread.join()


def test_a_capture_gets_through_beside_an_application_that_rewrites_its_tables(database: Make, tmp_path: Path) -> None:
    target = database()
    with connected(target, pinned=False) as connection:
        connection.execute((SHOP + _TABLES).encode())
    with _busy_application(target) as rounds:
        done = capture(tmp_path, target, lock_timeout_seconds=30)
        before = rounds[0]
        while rounds[0] == before:  # the application goes on
            pass
    assert done.check("dump_complete", "s", "dump").passed
    assert {key[-1] for key in done.records} >= {"dump", "roles", "cache", "orders", "customers"}


def test_a_table_that_somebody_waits_to_change_is_read_all_the_same(database: Make, tmp_path: Path) -> None:
    target = database()
    with connected(target, pinned=False) as connection:
        connection.execute((SHOP + _TABLES).encode())
        connection.execute("create table last (id int primary key); insert into last values (1), (2)")
    waiting: list[threading.Thread] = []

    def drop() -> None:
        with psycopg.connect(**target.connect_arguments(), autocommit=True) as other:  # type: ignore[arg-type]
            other.execute("truncate last")

    def begin_ddl(event: Progress) -> None:
        # As soon as pg_dump writes, it has its locks; what is read after that queues behind this statement.
        if not waiting and event.name == "s.dump":
            waiting.append(threading.Thread(target=drop))
            waiting[0].start()
            with connected(target) as watching:
                queued = "select count(*) from pg_locks where not granted and relation = 'public.last'::regclass"
                while watching.execute(queued.encode()).fetchone() == (0,):
                    pass

    done = capture(tmp_path, target, connections=1, progress=begin_ddl)
    waiting[0].join()
    assert done.records["s", "public", "last"].rows == 2


@pytest.mark.parametrize("state", ["idle in transaction", "active"])
def test_a_session_that_was_ended_is_told_once_as_what_happened(state: str, database: Make, tmp_path: Path) -> None:
    target = database()
    with connected(target, pinned=False) as connection:
        connection.execute(SHOP.encode())
        connection.execute("create table heavy as select n, md5(n::text) t from generate_series(1, 60000) n")
    ended: list[int] = []

    def end(event: Progress) -> None:
        if ended or event.name != "s.dump":
            return
        with connected(target) as watching:
            rows = watching.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
                " and datname = current_database() and application_name = any(%s) and state = any(%s)",
                [["backup-pipeline", "pg_dump"], [state, "idle in transaction"]],
            ).fetchall()
        ended.extend(1 for _ in rows)

    with pytest.raises(UnreachableError, match=r"The connection was ended") as caught:
        capture(tmp_path, target, into=begin(tmp_path), progress=end)
    assert ended
    assert "invalid snapshot" not in caught.value.what
    assert "disk" not in str(caught.value)


def test_a_reader_keeps_no_lock_of_what_it_has_read(database: Make) -> None:
    target = database()
    locks = "select count(*) from pg_locks where relation = 'cache'::regclass and pid = %s"
    with connected(target, pinned=False) as connection:
        connection.execute(_TABLES.encode())
        with exported_snapshot(target) as snapshot, Readers(snapshot, 1) as readers:
            with readers.borrow() as reader:
                reader.execute("select count(*) from public.cache")
                process = reader.info.backend_pid
                assert connection.execute(locks.encode(), [process]).fetchone() != (0,)
            assert connection.execute(locks.encode(), [process]).fetchone() == (0,)
            connection.execute("insert into cache values (501, 'after the snapshot')")
            with readers.borrow() as reader:
                assert reader.info.backend_pid == process
                assert reader.execute("select count(*) from public.cache").fetchone() == (500,)


def test_a_full_table_of_locks_is_said_with_its_setting(database: Make) -> None:
    with pytest.raises(SourceError, match="table of locks is full") as caught, connected(database()) as connection:
        connection.execute("select count(pg_advisory_xact_lock(n)) from generate_series(1, 1000000) n")
    assert "max_locks_per_transaction" in caught.value.remedy
