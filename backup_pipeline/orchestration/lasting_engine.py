"""SQLAlchemy engine that outlasts a restart of its server: a statement whose connection is lost is executed again.

For connections in AUTOCOMMIT mode only, where each statement stands alone; after SQLAlchemy's recipe "transparent
reconnect" (https://docs.sqlalchemy.org/en/20/faq/connections.html). Dagster tries again only while it connects: a
statement that was under way failed the step, and with it a backup that had nothing to do with the history. What the
server committed just before it ended, without a word of it, is written twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine.interfaces import ExecuteStyle

_log = logging.getLogger("backup-pipeline.history")
_PAUSE_SECONDS = 0.25
PATIENCE_SECONDS = 60.0


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
            except dialect.dbapi.OperationalError:
                if time.monotonic() >= end:
                    raise
                time.sleep(_PAUSE_SECONDS)
            else:
                answered = True
                return connection

    def again(execute: Callable[..., None], cursor: Any, context: Any, *statement: Any) -> bool:
        end = time.monotonic() + patience
        while True:
            try:
                execute(cursor, *statement, context=context)
                return True
            except dialect.dbapi.Error as error:
                connection = context.root_connection
                lost = dialect.is_disconnect(error, connection.connection.dbapi_connection, cursor)
                # Many rows by one statement: SQLAlchemy reads the answer from the first cursor.
                if not lost or time.monotonic() >= end or context.execute_style is ExecuteStyle.INSERTMANYVALUES:
                    raise
                _log.warning("the history's server closed a connection; what was sent is sent again")
                connection.connection.invalidate()
                # As `Connection.invalidate` and `rollback` would, without ending the block that the statement is in.
                connection._dbapi_connection = engine.raw_connection()
                context.cursor = cursor = connection.connection.cursor()

    @event.listens_for(engine, "do_execute")
    def do_execute(cursor: Any, statement: str, values: Any, context: Any) -> bool:
        return again(dialect.do_execute, cursor, context, statement, values)

    @event.listens_for(engine, "do_execute_no_params")
    def do_execute_no_params(cursor: Any, statement: str, context: Any) -> bool:
        return again(dialect.do_execute_no_params, cursor, context, statement)

    return engine
