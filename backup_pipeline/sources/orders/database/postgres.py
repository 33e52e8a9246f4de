"""`auftraege` in PostgreSQL: read in one snapshot, and replaced as a whole in one transaction with the old rows kept.

The table itself stays (its rights, views, foreign keys and triggers hang on it); only its rows change hands.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.errors import RefusedError, SourceError
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.event_triggers import EventTriggers
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.sources.orders.database.database import UnreadableRow, check_columns
from backup_pipeline.sources.orders.database.rebuild import Filled
from backup_pipeline.sources.orders.format.order import COLUMNS, INTEGER_COLUMNS, TABLE, OrderRow, TextRow

_BATCH = 2000
_BEFORE = f"{TABLE}__before_"
_UNDONE = f"{TABLE}__undone_"
_PLAIN_TYPE = re.compile(r"[a-z][a-z0-9 ]*(?:\([0-9, ]+\))?[a-z ]*")
_LIST = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))


def _find_table(connection: Connection[TupleRow], label: str) -> sql.Identifier | None:
    """Return the table, in `public` or in the one schema that has it; SourceError when several have."""
    found = connection.execute(
        """SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE c.relname = %s AND c.relkind IN ('r', 'p') AND n.nspname !~ '^(pg_|information_schema)'
           ORDER BY n.nspname <> 'public', n.nspname""",
        (TABLE,),
    ).fetchall()
    if not found:
        return None
    if len(found) > 1 and found[0][0] != "public":
        names = ", ".join(str(row[0]) for row in found)
        raise SourceError(f"Several schemas have a table {TABLE}: {names}.", where=label, remedy="Keep one, or public.")
    return sql.Identifier(str(found[0][0]), TABLE)


def _column_types(connection: Connection[TupleRow], table: sql.Identifier) -> dict[str, str]:
    query = """SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
               WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"""
    rows = connection.execute(query, (table.as_string(connection),)).fetchall()
    return {str(name): str(kind) for name, kind in rows}


def _as_kept(name: str, kind: str) -> sql.Composable:
    """Return the expression that gives a column as data.csv holds it: whole numbers, 0 and 1, ISO 8601, text."""
    column = sql.Identifier(name)
    if kind.startswith("timestamp"):
        return sql.SQL("to_json({}) #>> '{{}}'").format(column)
    if name in INTEGER_COLUMNS:
        return sql.SQL("{}::int").format(column) if kind == "boolean" else column
    return sql.SQL("{}::text").format(column)


class PostgresOrders:
    """See `sources.orders.database.database.OrdersSnapshot`. Made by `postgres_orders`."""

    kind = "postgres"
    state = ""
    schema: tuple[str, ...] = ()
    database_folder = None

    def __init__(self, connection: Connection[TupleRow], target: PostgresTarget) -> None:
        self._connection = connection
        self._target = target
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        table = _find_table(connection, target.label)
        known = _column_types(connection, table) if table is not None else {}
        check_columns(known, target.label)
        assert table is not None
        self._table = table
        self.columns = tuple((name, known[name]) for name in COLUMNS)
        self._list = sql.SQL(", ").join(_as_kept(name, kind) for name, kind in self.columns)

    @property
    def label(self) -> str:
        """User, host, port and database."""
        return self._target.label

    def count(self) -> int:
        """Return the number of rows."""
        row = self._connection.execute(sql.SQL("SELECT count(*) FROM {}").format(self._table)).fetchone()
        assert row is not None
        return int(row[0])

    def rows(self) -> Iterator[OrderRow | UnreadableRow]:
        """Yield every row by rising record_id."""
        query = sql.SQL("SELECT {} FROM {} ORDER BY record_id").format(self._list, self._table)
        with self._connection.cursor("orders") as cursor:
            cursor.itersize = _BATCH
            yield from cursor.execute(query)

    def row(self, record_id: int) -> OrderRow | None:
        """Return the row with that key."""
        query = sql.SQL("SELECT {} FROM {} WHERE record_id = %s").format(self._list, self._table)
        return self._connection.execute(query, (record_id,)).fetchone()


@contextlib.contextmanager
def postgres_orders(target: PostgresTarget) -> Iterator[PostgresOrders]:
    """Hold one consistent snapshot of `auftraege` for the block.

    Raises:
        UnreachableError, SourceError: as the server says; no table, or a column is missing.
    """
    with connected(target) as connection:
        yield PostgresOrders(connection, target)


def year_states(target: PostgresTarget) -> dict[str, tuple[int, str]]:
    """Return, by year of datum (else created_at), the number of rows and the newest updated_at."""
    with connected(target) as connection:
        table = _find_table(connection, target.label)
        check_columns(_column_types(connection, table) if table is not None else {}, target.label)
        assert table is not None
        query = sql.SQL(
            """SELECT substr(coalesce(nullif(datum::text, ''), created_at::text, ''), 1, 4), count(*),
                      coalesce(max(updated_at)::text, '') FROM {} GROUP BY 1"""
        ).format(table)
        return {str(year): (int(count), str(newest)) for year, count, newest in connection.execute(query)}


@dataclass(frozen=True)
class Replaced:
    """What a replacement did. `kept` is the table with the old rows, "" when there was no table."""

    filled: Filled
    kept: str
    notes: tuple[str, ...] = ()


def number_is_unique(target: PostgresTarget) -> bool:
    """Return whether the table allows each auftrag_nr only once."""
    with connected(target) as connection:
        table = _find_table(connection, target.label)
        if table is None:
            return False
        return bool(_unique_on(connection, table, "auftrag_nr"))


def _unique_on(connection: Connection[TupleRow], table: sql.Identifier, column: str) -> bool:
    found = connection.execute(
        """SELECT 1 FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
           WHERE i.indrelid = %s::regclass AND i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL
             AND a.attname = %s""",
        (table.as_string(connection), column),
    ).fetchone()
    return found is not None


def _create(connection: Connection[TupleRow], columns: tuple[tuple[str, str], ...]) -> sql.Identifier:
    """Make the table, with the types that the archive's index remembers where this server knows them."""
    known = dict(columns)

    def kind(name: str) -> str:
        if name == "record_id":
            return "bigint PRIMARY KEY"
        usual = "integer" if name in INTEGER_COLUMNS else "text"
        wanted = known.get(name, "")
        if not _PLAIN_TYPE.fullmatch(wanted):
            return usual
        row = connection.execute("SELECT to_regtype(%s) IS NOT NULL", (wanted,)).fetchone()
        return wanted if row and row[0] else usual

    lines = [sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind(name))) for name in COLUMNS]
    table = sql.Identifier("public", TABLE)
    connection.execute(sql.SQL("CREATE TABLE {} ({})").format(table, sql.SQL(", ").join(lines)))
    return table


def replace_rows(
    target: PostgresTarget,
    rows: Iterator[TextRow],
    now: datetime,
    *,
    commit: bool,
    columns: tuple[tuple[str, str], ...] = (),
) -> Replaced:
    """Make the table's rows these, in one transaction; the old rows stay in a table beside it.

    Args:
        target: the database; the table is made where there is none.
        rows: by rising record_id.
        now: for the name of the table that keeps the old rows.
        commit: False rolls everything back at the end.
        columns: names and types of the table where it has to be made; () when they are not known.

    Raises:
        RefusedError: triggers or rules of the table would act on the rows, and the role may not turn them off.
        SourceError: the server refused a row or a right; nothing was changed.
    """
    with connected(target) as connection:
        connection.execute("BEGIN")
        table = _find_table(connection, target.label)
        kept = ""
        if table is None:
            table = _create(connection, columns)
            only = newer = 0
        else:
            check_columns(_column_types(connection, table), target.label)
            connection.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(table))
            beside = _beside(table, _BEFORE, now)
            connection.execute(sql.SQL("CREATE TABLE {} AS TABLE {}").format(beside, table))
            kept = f"table {beside.as_string(connection)}"
        event_triggers = EventTriggers(connection)
        with event_triggers.quiet():
            connection.execute(
                sql.SQL("CREATE TEMP TABLE staged ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA").format(
                    _LIST, table
                )
            )
        with (
            connection.cursor() as cursor,
            cursor.copy(sql.SQL("COPY pg_temp.staged ({}) FROM STDIN").format(_LIST)) as copy,
        ):
            for row in rows:
                copy.write_row(row)
        with event_triggers.quiet():
            connection.execute("CREATE UNIQUE INDEX ON pg_temp.staged (record_id)")
        connection.execute("ANALYZE pg_temp.staged")
        only, newer = _beyond(connection, table)
        with _quiet(connection, table, target.label):
            _swap_rows(connection, table)
        filled = _compare(connection, table, only, newer)
        connection.execute("COMMIT" if commit and not filled.different else "ROLLBACK")
        return Replaced(filled, kept if commit else "")


def _beside(table: sql.Identifier, prefix: str, now: datetime) -> sql.Identifier:
    schema = table._obj[0]
    return sql.Identifier(schema, f"{prefix}{now:%Y%m%d_%H%M%S_%f}")


def _beyond(connection: Connection[TupleRow], table: sql.Identifier) -> tuple[int, int]:
    row = connection.execute(
        sql.SQL(
            """SELECT count(*) FILTER (WHERE s.record_id IS NULL), count(*) FILTER (WHERE t.updated_at > s.updated_at)
               FROM {} t LEFT JOIN pg_temp.staged s ON s.record_id = t.record_id"""
        ).format(table)
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


_TRIGGERS = """SELECT tgname, tgenabled::text FROM pg_trigger
               WHERE tgrelid = %s::regclass AND NOT tgisinternal AND tgenabled IN ('O', 'A') ORDER BY tgname"""
_RULES = """SELECT rulename, ev_enabled::text FROM pg_rewrite
            WHERE ev_class = %s::regclass AND ev_type <> '1' AND ev_enabled IN ('O', 'A') ORDER BY rulename"""
_MAY_ALTER = """SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = %s::regclass"""


@contextlib.contextmanager
def _quiet(connection: Connection[TupleRow], table: sql.Identifier, label: str) -> Iterator[None]:
    """Keep the table's own triggers and rules from acting on the rows of the block; as they were afterwards.

    They would change what is put back (`updated_at = now()`) or write each row into a log. Those of its foreign keys
    go on. All in the caller's transaction: whoever else reads the table sees them as they always were.

    Raises:
        RefusedError: there are some, and the role does not own the table; they are named.
    """
    name = table.as_string(connection)
    objects = [
        (kind, str(found), "ENABLE ALWAYS" if state == "A" else "ENABLE")
        for kind, query in (("TRIGGER", _TRIGGERS), ("RULE", _RULES))
        for found, state in connection.execute(query.encode(), (name,)).fetchall()
    ]
    row = connection.execute(_MAY_ALTER.encode(), (name,)).fetchone()
    if objects and not (row and row[0]):
        reported = ", ".join(f"{kind.lower()} {found}" for kind, found, _ in objects)
        raise RefusedError(
            f"The table's own {reported} would act on every row that is put back, and this role may not turn them off.",
            where=label,
            remedy="Restore as the owner of the table.",
        )

    def alter(action: str, kind: str, found: str) -> None:
        statement = sql.SQL("ALTER TABLE {} " + action + " " + kind + " {}")
        connection.execute(statement.format(table, sql.Identifier(found)))

    for kind, found, _ in objects:
        alter("DISABLE", kind, found)
    yield
    for kind, found, action in objects:
        alter(action, kind, found)


def _swap_rows(connection: Connection[TupleRow], table: sql.Identifier) -> None:
    """Delete, update and insert what differs from `staged`; all of it where record_id is not unique."""
    if _unique_on(connection, table, "record_id"):
        connection.execute(
            sql.SQL(
                "DELETE FROM {} t WHERE NOT EXISTS (SELECT FROM pg_temp.staged s WHERE s.record_id = t.record_id)"
            ).format(table)
        )
        rest = [sql.Identifier(name) for name in COLUMNS[1:]]
        connection.execute(
            sql.SQL(
                """UPDATE {} t SET {} FROM pg_temp.staged s
                   WHERE s.record_id = t.record_id AND ({}) IS DISTINCT FROM ({})"""
            ).format(
                table,
                sql.SQL(", ").join(sql.SQL("{0} = s.{0}").format(name) for name in rest),
                sql.SQL(", ").join(sql.SQL("t.{}::text").format(name) for name in rest),
                sql.SQL(", ").join(sql.SQL("s.{}::text").format(name) for name in rest),
            )
        )
    else:
        connection.execute(sql.SQL("DELETE FROM {}").format(table))
    connection.execute(
        sql.SQL(
            """INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM pg_temp.staged s
               WHERE NOT EXISTS (SELECT FROM {} t WHERE t.record_id = s.record_id) ORDER BY s.record_id"""
        ).format(table, _LIST, _LIST, table)
    )
    name = table.as_string(connection)
    sequence = connection.execute("SELECT pg_get_serial_sequence(%s, 'record_id')", (name,)).fetchone()
    if sequence is not None and sequence[0]:
        connection.execute(
            sql.SQL("SELECT setval(%s, greatest((SELECT coalesce(max(record_id), 1) FROM {}), nextval(%s)))").format(
                table
            ),
            (sequence[0], sequence[0]),
        )


def _compare(connection: Connection[TupleRow], table: sql.Identifier, only: int, newer: int) -> Filled:
    row = connection.execute(
        sql.SQL(
            """SELECT (SELECT count(*) FROM {table}),
                      (SELECT count(*) FROM ((SELECT {columns} FROM {table} EXCEPT ALL SELECT {columns} FROM staged)
                       UNION ALL (SELECT {columns} FROM staged EXCEPT ALL SELECT {columns} FROM {table})) AS unlike)"""
        ).format(
            table=table,
            columns=sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in COLUMNS),
        )
    ).fetchone()
    assert row is not None
    return Filled(int(row[0]), int(row[1]), only, newer)


def undo(target: PostgresTarget, now: datetime) -> str:
    """Put the rows that the newest restore kept back into the table, in one transaction; keep the restored ones.

    Returns:
        The name of the table that keeps what had been restored.

    Raises:
        RefusedError: no restore has kept anything.
    """
    with connected(target) as connection:
        connection.execute("BEGIN")
        table = _find_table(connection, target.label)
        found = None
        if table is not None:
            found = connection.execute(
                """SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = %s AND c.relname LIKE %s ESCAPE '!' AND c.relkind = 'r'
                   ORDER BY c.relname DESC LIMIT 1""",
                (table._obj[0], _BEFORE.replace("_", "!_") + "%"),
            ).fetchone()
        if table is None or found is None:
            raise RefusedError("There is no restore to undo.", where=target.label, remedy="")
        before = sql.Identifier(table._obj[0], str(found[0]))
        connection.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(table))
        beside = _beside(table, _UNDONE, now)
        connection.execute(sql.SQL("CREATE TABLE {} AS TABLE {}").format(beside, table))
        connection.execute(
            sql.SQL("CREATE TEMP TABLE staged ON COMMIT DROP AS SELECT {} FROM {}").format(_LIST, before)
        )
        with _quiet(connection, table, target.label):
            _swap_rows(connection, table)
        filled = _compare(connection, table, 0, 0)
        if filled.different:
            connection.execute("ROLLBACK")
            raise SourceError("The rows could not be put back as they were.", where=target.label, remedy="")
        connection.execute(sql.SQL("DROP TABLE {}").format(before))
        connection.execute("COMMIT")
        return f"table {beside.as_string(connection)}"
