"""SQLAlchemy engine that outlasts a restart of its server: a statement whose connection is lost is executed again.

After SQLAlchemy's recipe "transparent reconnect" (https://docs.sqlalchemy.org/en/20/faq/connections.html). Dagster
tries again only while it connects: a statement that was under way failed the step, and with it a backup that had
nothing to do with the history. In AUTOCOMMIT mode each statement stands alone; of a transaction all statements are
executed again. What the server committed just before it ended, without a word of it, is written twice.

A process that is cut off in the middle of a transaction would keep its rows locked for as long as the server believes
in its connection, two hours by default, while every run that writes events of the same assets waits: the server ends
such sessions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import ExecuteStyle

_log = logging.getLogger("backup-pipeline.history")
_PAUSE_SECONDS = 0.25
PATIENCE_SECONDS = 60.0
FORSAKEN_SECONDS = 30
"""After so long without a statement a transaction is ended by the server."""


_Sent = tuple[Callable[..., None], tuple[Any, ...]]


def lasting_engine(url: str, patience: float = PATIENCE_SECONDS, **options: Any) -> Engine:
    """Return an engine in AUTOCOMMIT mode that waits for a server that goes away after it has answered once.

    Args:
        url: SQLAlchemy's URL of a PostgreSQL server, with the driver psycopg2.
        patience: for how many seconds a server is waited for; its error is raised afterwards.
        options: those of `sqlalchemy.create_engine`.
    """
    engine = create_engine(url, isolation_level="AUTOCOMMIT", **options)
    dialect: Any = engine.dialect
    answered = False

    @event.listens_for(engine, "do_connect")
    def connect(_: Any, __: Any, arguments: list[Any], named: dict[str, Any]) -> Any:
        nonlocal answered
        end = time.monotonic() + (patience if answered else 0)
        while True:
            try:
                connection = dialect.connect(*arguments, **named)
                with connection.cursor() as cursor:
                    cursor.execute(f"set idle_in_transaction_session_timeout = '{FORSAKEN_SECONDS}s'")
                connection.commit()
            except (dialect.dbapi.OperationalError, dialect.dbapi.InterfaceError):
                if time.monotonic() >= end:
                    raise
                time.sleep(_PAUSE_SECONDS)
            else:
                answered = True
                return connection

    @event.listens_for(engine, "checkin")
    def checkin(connection: Any, _: Any) -> None:
        # One that was opened for the rest of a transaction is in its mode.
        if connection is not None:
            connection.autocommit = True

    _send_again(engine, patience)
    return engine


def _send_again(engine: Engine, patience: float) -> None:
    """Have what an engine sends be sent again, with all of its transaction, when its connection is lost."""
    dialect: Any = engine.dialect
    transactions: WeakKeyDictionary[Connection, list[_Sent]] = WeakKeyDictionary()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        transactions[connection] = []

    def again(execute: Callable[..., None], cursor: Any, context: Any, *statement: Any) -> bool:
        end = time.monotonic() + patience
        connection = context.root_connection
        alone = connection.connection.dbapi_connection.autocommit
        before: list[_Sent] = [] if alone else transactions.setdefault(connection, [])
        repeated: list[_Sent] = []
        while True:
            try:
                for repeat, earlier in repeated:
                    repeat(cursor, *earlier)
                execute(cursor, *statement, context=context)
                before.append((execute, statement))
                return True
            except dialect.dbapi.Error as error:
                lost = dialect.is_disconnect(error, connection.connection.dbapi_connection, cursor)
                # Many rows by one statement: SQLAlchemy reads the answer from the first cursor.
                if not lost or time.monotonic() >= end or context.execute_style is ExecuteStyle.INSERTMANYVALUES:
                    raise
                _log.warning("the history's server closed a connection; what was sent is sent again")
                connection.connection.invalidate()
                # As `Connection.invalidate` and `rollback` would, without ending the block that the statement is in.
                connection._dbapi_connection = engine.raw_connection()
                connection.connection.dbapi_connection.autocommit = alone
                context.cursor = cursor = connection.connection.cursor()
                repeated = before

    @event.listens_for(engine, "do_execute")
    def do_execute(cursor: Any, statement: str, values: Any, context: Any) -> bool:
        return again(dialect.do_execute, cursor, context, statement, values)

    @event.listens_for(engine, "do_execute_no_params")
    def do_execute_no_params(cursor: Any, statement: str, context: Any) -> bool:
        return again(dialect.do_execute_no_params, cursor, context, statement)
