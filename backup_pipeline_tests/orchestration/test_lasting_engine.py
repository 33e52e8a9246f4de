"""The history's engine: a server that restarts loses no statement, and errors that are not its end are raised."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError, OperationalError

from backup_pipeline.orchestration import lasting_engine as lasting_engine_module
from backup_pipeline.orchestration.lasting_engine import lasting_engine
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline_tests.support.sites import dsn


def _url(server: EmbeddedServer, database: str = "postgres") -> str:
    return dsn(server.target(database)).replace("postgresql://", "postgresql+psycopg2://")


@pytest.fixture
def engine(server: EmbeddedServer, database) -> Iterator[Engine]:
    made = lasting_engine(_url(server, database().database), pool_size=2, max_overflow=-1, pool_pre_ping=True)
    yield made
    made.dispose()


def _end_connection(engine: Engine, connection: Connection) -> None:
    number = connection.execute(text("select pg_backend_pid()")).scalar_one()
    with engine.connect() as other:
        other.execute(text("select pg_terminate_backend(:number, 5000)"), {"number": number})


@pytest.mark.parametrize("in_block", [False, True])
def test_a_statement_whose_connection_is_lost_is_executed_again(engine: Engine, in_block: bool) -> None:
    with engine.connect() as connection:
        connection.execute(text("create table said (word text)"))
        _end_connection(engine, connection)
        if in_block:
            connection.commit()
            with connection.begin():
                added = connection.execute(text("insert into said values (:word) returning word"), {"word": "a"})
                assert added.scalar_one() == "a"
                _end_connection(engine, connection)
                connection.execute(text("insert into said values ('b')"))
        else:
            connection.execute(text("insert into said values ('a'), ('b')"))
    with engine.connect() as connection:
        assert connection.execute(text("select string_agg(word, '' order by word) from said")).scalar_one() == "ab"


def test_an_error_of_the_statement_itself_is_raised_once(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("create table said (word text primary key)"))
        connection.execute(text("insert into said values ('a')"))
        with pytest.raises(IntegrityError):
            connection.execute(text("insert into said values ('a')"))


def test_nothing_is_lost_while_the_server_restarts(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "server")
    server.start()
    try:
        engine = lasting_engine(_url(server), pool_size=2, max_overflow=-1, pool_pre_ping=True)
        with engine.connect() as connection:
            connection.execute(text("create table said (number int)"))
        begun, ended = threading.Event(), threading.Event()

        def write() -> None:
            number = 0
            while not ended.is_set():
                with engine.connect() as connection, connection.begin():
                    for _ in range(50):
                        connection.execute(text("insert into said values (:number)"), {"number": number})
                        number += 1
                begun.set()
            written.append(number)

        written: list[int] = []
        thread = threading.Thread(target=write)
        thread.start()
        assert begun.wait(30)
        for _ in range(3):
            server.stop()
            server.start()
        ended.set()
        thread.join()
        with engine.connect() as connection:
            found = connection.execute(text("select count(distinct number) from said")).scalar_one()
        engine.dispose()
        assert [found] == written
    finally:
        server.remove()


def test_a_server_that_never_answered_is_an_error_at_once() -> None:
    engine = lasting_engine("postgresql+psycopg2://nobody@127.0.0.1:1/nothing")
    with pytest.raises(OperationalError, match="refused"):
        engine.connect()


def test_a_transaction_whose_connection_is_lost_is_executed_again_as_a_whole(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("create table said (word text)"))
    with engine.connect() as connection:
        connection = connection.execution_options(isolation_level="READ COMMITTED")
        with connection.begin():
            connection.execute(text("insert into said values ('a')"))
            connection.execute(text("insert into said values (:word)"), {"word": "b"})
            _end_connection(engine, connection)
            connection.execute(text("insert into said values ('c')"))
    with engine.connect() as connection, engine.connect() as other:
        # Whatever is kept of the connections is in the engine's mode again.
        connection.execute(text("insert into said values ('d')"))
        other.execute(text("insert into said values ('e')"))
    with engine.connect() as connection:
        assert connection.execute(text("select string_agg(word, '' order by word) from said")).scalar_one() == "abcde"


def test_a_transaction_of_a_process_that_is_cut_off_keeps_nobody_waiting(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lasting_engine_module, "FORSAKEN_SECONDS", 1)
    insert = text("insert into said values ('a') on conflict (word) do update set word = excluded.word")
    with engine.connect() as connection:
        connection.execute(text("create table said (word text primary key)"))
    cut_off = engine.connect().execution_options(isolation_level="READ COMMITTED")
    cut_off.begin()
    cut_off.execute(insert)
    with engine.connect() as other:
        # Waits for the row until the server has ended the transaction.
        other.execute(insert)
        assert other.execute(text("select word from said")).scalar_one() == "a"
    cut_off.invalidate()
    cut_off.close()
