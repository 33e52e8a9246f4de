"""Tables whose data was refused, loaded again after the others.

A CHECK may call a function that reads another table, and a generated column one that names things without their schema.
Whether such a table can be loaded depends on what is there already and on the search_path, both of which a restore
chooses. So what was refused is tried again when everything else is in, under the search_path that the functions were
written for, and at last with the one constraint off, which is then added as NOT VALID, validated, and reported when its
rows do not satisfy it. A column that is NOT NULL and null in a row (a catalog changed by hand) may be null afterwards,
and is reported. A CHECK that passed only because another table was not in yet is tested once more at the end. The same
dump has the same outcome every time, whichever connection was quicker.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from io import BytesIO

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.postgres.catalog.search_path import NOT_FOUND, with_catalog
from backup_pipeline.postgres.load.input import Readable
from backup_pipeline.postgres.load.session import RefusedDataError, copy_rows
from backup_pipeline.postgres.load.stream import CopyBlock, DumpParts
from backup_pipeline.postgres.server.connection import connected, translated
from backup_pipeline.postgres.server.target import PostgresTarget

TableName = tuple[str, str]
OpenAgain = Callable[[], AbstractContextManager[Readable]]
_DEFAULT_PATH = '"$user", public'
_CHECK_VIOLATION, _NULL = "23514", "23502"
# Classes of SQLSTATE: connection, resources, locks, interruption, system, internal.
_NOT_OF_THE_ROW = ("08", "53", "55", "57", "58", "XX")
_DEFINITION = """
select pg_catalog.pg_get_constraintdef(k.oid), pg_catalog.obj_description(k.oid, 'pg_constraint')
  from pg_catalog.pg_constraint k join pg_catalog.pg_class c on c.oid = k.conrelid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname = %s and c.relname = %s and k.conname = %s and k.contype = 'c'
"""

# CHECKs of the database's own functions: they may have read tables that were only half loaded.
_READING = """
select n.nspname, c.relname, k.conname, pg_catalog.pg_get_expr(k.conbin, k.conrelid)
  from pg_catalog.pg_constraint k join pg_catalog.pg_class c on c.oid = k.conrelid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where k.contype = 'c' and k.convalidated and k.coninhcount = 0 and c.relkind in ('r', 'p')
   and exists (select from pg_catalog.pg_depend d join pg_catalog.pg_proc f on f.oid = d.refobjid
                where d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass and d.objid = k.oid
                  and d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                  and not exists (select from pg_catalog.pg_depend e where e.objid = f.oid and e.deptype = 'e'
                                     and e.classid = d.refclassid))
 order by 1, 2, 3
"""


@dataclass
class _Attempt:
    """A table that was refused, why, and how it is tried next."""

    error: RefusedDataError
    partly: bool
    own_path: bool = False
    without: set[str] = field(default_factory=set)


class RefusedTables:
    """Collects refused tables during a load and loads them when the others are in.

    Args:
        again: opens the dump once more.
        target: the database.
        search_path: that its functions were written for; "" for the server's default.

    Attributes:
        not_valid: constraints (schema.table.name, quoted where needed) that the rows do not satisfy.
        nullable: columns (schema.table.name) that are NOT NULL in the dump and null in its rows.
    """

    def __init__(self, again: OpenAgain, target: PostgresTarget, search_path: str) -> None:
        self._again = again
        self._target = target
        self._path = with_catalog(search_path) or with_catalog(_DEFAULT_PATH)
        self._open: dict[TableName, _Attempt] = {}
        self.not_valid: list[str] = []
        self.nullable: list[str] = []

    def add(self, table: TableName, error: RefusedDataError, *, partly: bool) -> None:
        """Take a table; `partly` when some of its rows may be in."""
        self._open.setdefault(table, _Attempt(error, partly))

    @contextlib.contextmanager
    def own_path(self, connection: Connection[TupleRow]) -> Iterator[None]:
        """Have the functions' own search_path in force, and the dump's empty one after it."""
        connection.execute("select pg_catalog.set_config('search_path', %s, false)", [self._path])
        try:
            yield
        finally:
            connection.execute("select pg_catalog.set_config('search_path', '', false)")

    def load(self, connection: Connection[TupleRow], loaded: Callable[[TableName, int, int], None]) -> None:
        """Load what was refused.

        Args:
            connection: of the load, idle.
            loaded: receives table, rows and bytes.

        Raises:
            RefusedDataError: a table is refused in every way; the first one's reason.
        """
        dropped: list[tuple[TableName, str, str, str | None]] = []
        patient = True
        while self._open:
            moved = False
            with self._again() as reader:
                for part in DumpParts(reader):
                    if isinstance(part, CopyBlock) and part.table in self._open:
                        done = self._try(connection, part, loaded)
                        moved = done or moved
            if not moved and patient:
                # Whatever could wait for another table has waited for it: now the constraints themselves.
                patient = False
            moved = self._prepare(connection, dropped, patient=patient) or moved
            if self._open and not moved:
                raise next(iter(self._open.values())).error
        for table, name, definition, comment in dropped:
            self._bring_back(connection, table, name, definition, comment)
        self.check_again(connection)

    def check_again(self, connection: Connection[TupleRow]) -> None:
        """Test CHECKs that read other tables, now that these are whole; what does not hold becomes NOT VALID."""
        with translated(self._target):
            found = connection.execute(_READING).fetchall()
        for schema, table, name, expression in found:
            count = sql.SQL("select exists (select from {} where not ({}))").format(
                sql.Identifier(schema, table), sql.SQL(expression)
            )
            with translated(self._target):
                try:
                    with self.own_path(connection), connection.transaction():
                        violated = bool(connection.execute(count.as_bytes(connection)).fetchall()[0][0])
                except psycopg.DatabaseError as error:
                    if connection.closed or (error.sqlstate or "08")[:2] in _NOT_OF_THE_ROW:
                        raise
                    # A function that fails on a row does not let it pass either.
                    violated = True
            if violated and (dropped := self._drop(connection, (schema, table), name)) is not None:
                self._bring_back(connection, (schema, table), name, *dropped)

    def _try(
        self, connection: Connection[TupleRow], block: CopyBlock, loaded: Callable[[TableName, int, int], None]
    ) -> bool:
        """Load one table whole or not at all; return whether it is in."""
        table = block.table
        attempt = self._open[table]
        path = self.own_path(connection) if attempt.own_path else contextlib.nullcontext()
        try:
            with translated(self._target), path, connection.transaction():
                if attempt.partly:
                    connection.execute(sql.SQL("truncate only {}").format(sql.Identifier(*table)).as_bytes(connection))
                rows, size = copy_rows(connection, self._target, table, block.header, block.chunks())
        except RefusedDataError as error:
            attempt.error = error
            return False
        del self._open[table]
        loaded(table, rows, size)
        return True

    def _prepare(
        self,
        connection: Connection[TupleRow],
        dropped: list[tuple[TableName, str, str, str | None]],
        *,
        patient: bool,
    ) -> bool:
        """Choose another way for what is still refused; return whether there is one."""
        changed = False
        for table, attempt in self._open.items():
            error = attempt.error
            if not attempt.own_path and (error.state in NOT_FOUND or error.state.startswith("P0")):
                attempt.own_path = changed = True
            elif not patient and error.state == _CHECK_VIOLATION and error.constraint not in attempt.without:
                attempt.without.add(error.constraint)
                if (found := self._drop(connection, table, error.constraint)) is not None:
                    dropped.append((table, error.constraint, *found))
                    changed = True
            elif error.state == _NULL and error.column and error.column not in attempt.without:
                attempt.without.add(error.column)
                changed = self._allow_nulls(connection, table, error.column) or changed
        return changed

    def _allow_nulls(self, connection: Connection[TupleRow], table: TableName, column: str) -> bool:
        """Drop a column's NOT NULL; return whether that was possible (not in a primary key, an identity, inherited)."""
        change = sql.SQL("alter table {} alter column {} drop not null").format(
            sql.Identifier(*table), sql.Identifier(column)
        )
        with translated(self._target):
            try:
                connection.execute(change.as_bytes(connection))
            except psycopg.DatabaseError:
                return False
        self.nullable.append(self._named(connection, *table, column))
        return True

    def _named(self, connection: Connection[TupleRow], schema: str, table: str, name: str) -> str:
        query = "select pg_catalog.format('%%I.%%I.%%I', %s::text, %s::text, %s::text)"
        return str(connection.execute(query, [schema, table, name]).fetchall()[0][0])

    def _drop(self, connection: Connection[TupleRow], table: TableName, name: str) -> tuple[str, str | None] | None:
        """Drop a CHECK of the table itself; return definition and comment, None where it is another's."""
        with translated(self._target):
            row = connection.execute(_DEFINITION, [*table, name]).fetchone()
            if row is None:
                return None
            change = sql.SQL("alter table {} drop constraint {}").format(sql.Identifier(*table), sql.Identifier(name))
            try:
                connection.execute(change.as_bytes(connection))
            except psycopg.DatabaseError:
                return None  # inherited from a parent
            return str(row[0]), None if row[1] is None else str(row[1])

    def _bring_back(
        self, connection: Connection[TupleRow], table: TableName, name: str, definition: str, comment: str | None
    ) -> None:
        what = sql.SQL("alter table {} ").format(sql.Identifier(*table))
        text = definition if definition.endswith(" NOT VALID") else f"{definition} NOT VALID"
        with translated(self._target), self.own_path(connection):
            added = what + sql.SQL("add constraint {} ").format(sql.Identifier(name)) + sql.SQL(text)
            connection.execute(added.as_bytes(connection))
            if comment is not None:
                said = sql.SQL("comment on constraint {} on {} is {}").format(
                    sql.Identifier(name), sql.Identifier(*table), sql.Literal(comment)
                )
                connection.execute(said.as_bytes(connection))
            if text == definition:
                return  # it was not valid where it came from
            try:
                connection.execute(
                    (what + sql.SQL("validate constraint {}").format(sql.Identifier(name))).as_bytes(connection)
                )
            except psycopg.DatabaseError:
                self.not_valid.append(self._named(connection, *table, name))


def checks_that_do_not_hold(target: PostgresTarget, search_path: str) -> list[str]:
    """Test the CHECKs of a database that another program has loaded, as `RefusedTables` does after a load of its own.

    Returns:
        The constraints that its rows do not satisfy, NOT VALID now.
    """
    tables = RefusedTables(lambda: contextlib.nullcontext(BytesIO()), target, search_path)
    with connected(target) as connection:
        connection.execute("select pg_catalog.set_config('search_path', '', false)")
        tables.check_again(connection)
    return tables.not_valid
