"""Statements and rows of a dump into an existing database, inside a transaction that is not committed here.

Which parts are taken is the caller's decision. For a new database `load.load` is the faster way.
"""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.errors import SourceError
from backup_pipeline.model.catalog import Catalog
from backup_pipeline.model.record import Fingerprint
from backup_pipeline.postgres.catalog.read import read_catalog
from backup_pipeline.postgres.export.fingerprint import fingerprint_with
from backup_pipeline.postgres.load.session import Tolerate, copy_rows, execute_statement
from backup_pipeline.postgres.load.stream import CopyBlock, Statement
from backup_pipeline.postgres.server.connection import (
    PINNED_SETTINGS,
    connection_ended,
    was_ended,
    without_values,
)
from backup_pipeline.postgres.server.target import PostgresTarget

TableName = tuple[str, str]


_OBJECTS = {"r": "tables", "S": "sequences", "f": "functions", "T": "types", "n": "schemas"}
# By schema, kind and grantee: privileges with whether they may be passed on.
_DEFAULTS = """
select n.nspname, d.defaclobjtype::text, coalesce(r.rolname, ''),
       jsonb_agg(jsonb_build_array(x.privilege_type, x.is_grantable))
  from pg_catalog.pg_default_acl d cross join lateral pg_catalog.aclexplode(d.defaclacl) x
  left join pg_catalog.pg_roles r on r.oid = x.grantee
  left join pg_catalog.pg_namespace n on n.oid = d.defaclnamespace
 where d.defaclrole = (select oid from pg_catalog.pg_roles where rolname = current_user)
   and d.defaclobjtype in ('r', 'S', 'f', 'T', 'n') and x.grantee <> d.defaclrole
 group by 1, 2, 3
"""


class Filling:
    """What is put into a database within the transaction of `connection`."""

    def __init__(self, connection: Connection[TupleRow], target: PostgresTarget) -> None:
        self._connection = connection
        self._target = target
        self._defaults: list[tuple[str | None, str, str, list[list[Any]]]] = []
        self.rows: dict[TableName, int] = {}

    def run(self, statement: Statement, tolerate: Tolerate | None = None) -> None:
        """Run one statement; one that may be refused (`tolerate`) is taken back alone when it is.

        Raises:
            SourceError: it was refused; the transaction is to be given up.
        """
        if tolerate is None:
            execute_statement(self._connection, statement.body, self._target)
            return
        left: list[bool] = []

        def ask(text: bytes, state: str) -> bool:
            left.append(tolerate(text, state))
            return left[-1]

        # The savepoint keeps what was done before; it is rolled back to where the server refused.
        self._connection.execute("savepoint line")
        execute_statement(self._connection, statement.body, self._target, ask)
        if any(left):
            self._connection.execute("rollback to savepoint line")
        self._connection.execute("release savepoint line")

    def copy(self, block: CopyBlock) -> None:
        """Load the rows of a table that was made a moment ago."""
        rows, _ = copy_rows(self._connection, self._target, block.table, block.header, block.chunks())
        self.rows[block.table] = rows

    def suspend_default_privileges(self) -> None:
        """Have what is made from now on get the rights that the dump says, and no others, until `resume`.

        pg_dump writes rights as they differ from PostgreSQL's own defaults; what this role set here would add to them.
        """
        for schema, kind, grantee, privileges in self._connection.execute(_DEFAULTS).fetchall():
            self._defaults.append((schema, kind, grantee, privileges))
            self._change_default("revoke all on {kind} from {who}", schema, kind, grantee)

    def resume_default_privileges(self) -> None:
        """Give the defaults back that `suspend_default_privileges` took."""
        for schema, kind, grantee, privileges in self._defaults:
            for privilege, grantable in privileges:
                text = f"grant {privilege} on {{kind}} to {{who}}{' with grant option' if grantable else ''}"
                self._change_default(text, schema, kind, grantee)

    def _change_default(self, text: str, schema: str | None, kind: str, grantee: str) -> None:
        where = sql.SQL("in schema {} ").format(sql.Identifier(schema)) if schema else sql.SQL("")
        change = sql.SQL(text).format(
            kind=sql.SQL(_OBJECTS[kind]), who=sql.Identifier(grantee) if grantee else sql.SQL("public")
        )
        self._connection.execute(sql.SQL("alter default privileges {}{}").format(where, change))

    def pin(self) -> None:
        """Set the session back to the pinned settings after the dump's own."""
        for name, value in PINNED_SETTINGS.items():
            self._connection.execute("select pg_catalog.set_config(%s, %s, false)", [name, value])

    def catalog(self) -> Catalog:
        """Return all that the database consists of, as this transaction sees it."""
        return read_catalog(self._connection)

    def fingerprint(self, table: TableName, algorithm: str) -> Fingerprint | str:
        """Return a table's fingerprint as this transaction sees it, or why there is none."""
        try:
            with self._connection.transaction():
                return fingerprint_with(self._connection, *table, algorithm)
        except psycopg.Error as error:
            if was_ended(error.sqlstate or "", str(error)):
                raise connection_ended(without_values(error), self._target) from None
            return f"cannot be read (SQLSTATE {error.sqlstate or 'connection lost'})"
        except SourceError as error:
            return error.what

    def analyze(self) -> None:
        """Gather the planner's statistics of what was filled."""
        for name in self.rows:
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                self._connection.execute(sql.SQL("analyze {}").format(sql.Identifier(*name)))
