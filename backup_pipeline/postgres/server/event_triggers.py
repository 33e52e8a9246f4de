"""Keeping a database's own event triggers quiet while temporary tables of ours are made, within one transaction.

A site that logs DDL, or forbids it, means its own schema; rows of ours in its log would stay there for ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from psycopg import Connection
from psycopg.rows import TupleRow

# Those that would fire for temporary tables: name, and whether a replica's session keeps it quiet.
_FIRING = """
select evtname, evtenabled = 'O' from pg_catalog.pg_event_trigger
 where evtenabled <> 'D' and evtevent in ('ddl_command_start', 'ddl_command_end')
   and (evttags is null or evttags && array['CREATE TABLE', 'CREATE TABLE AS', 'CREATE INDEX'])
 order by evtname
"""
_MAY_SET = {
    True: "select pg_catalog.has_parameter_privilege(%s, 'SET')",
    False: "select rolsuper from pg_catalog.pg_roles where rolname = current_user and %s <> ''",
}
_PARAMETER_PRIVILEGES_SINCE = 150000
_SWITCH = "event_triggers"
# What keeps event triggers quiet, and since which version of the server.
_WAYS = ((_SWITCH, "off", 170000), ("session_replication_role", "replica", 0))


class EventTriggers:
    """The event triggers of a connection's database, and whether this role can keep them quiet.

    Attributes:
        firing: names of those that fire for our temporary tables all the same.
    """

    def __init__(self, connection: Connection[TupleRow]) -> None:
        self._connection = connection
        self._setting = self._value = ""
        found = [(str(name), bool(origin)) for name, origin in connection.execute(_FIRING)]
        version = connection.info.server_version
        for setting, value, since in _WAYS:
            if found and not self._setting and version >= since and self._may_set(setting, version):
                self._setting, self._value = setting, value
        everything = self._setting == _SWITCH
        quiet = {name for name, origin in found if self._setting and (everything or origin)}
        self.firing = tuple(name for name, _ in found if name not in quiet)

    def _may_set(self, setting: str, version: int) -> bool:
        row = self._connection.execute(_MAY_SET[version >= _PARAMETER_PRIVILEGES_SINCE], [setting]).fetchone()
        return bool(row and row[0])

    def warning(self) -> str:
        """Return what to report to a user of those that fire; "" when none does."""
        if not self.firing:
            return ""
        return (
            f"event triggers of the database fire for the temporary tables of this restore: {', '.join(self.firing)} "
            "(a role that may set session_replication_role, or event_triggers since PostgreSQL 17, keeps them quiet; "
            "or disable them meanwhile)"
        )

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Keep them quiet for the block, which makes something temporary in the transaction that is open."""
        if not self._setting:
            yield
            return
        change = "select pg_catalog.current_setting(%s), pg_catalog.set_config(%s, %s, true)"
        row = self._connection.execute(change, [self._setting, self._setting, self._value]).fetchone()
        assert row is not None
        # Where the block fails the transaction is given up, and the setting with it.
        yield
        self._connection.execute("select pg_catalog.set_config(%s, %s, true)", [self._setting, str(row[0])])
