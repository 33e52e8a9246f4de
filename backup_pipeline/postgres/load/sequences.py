"""Moving a sequence forward, never back, after rows were brought into its table."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.postgres.load.stream import split_qualified

TableName = tuple[str, str]
_SEQUENCE = """
select s.seqincrement, q.last_value, q.is_called, n.nspname, t.relname, a.attname
  from pg_catalog.pg_sequence s
 cross join lateral (select last_value, is_called from {sequence}) q
  left join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = s.seqrelid
       and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.deptype in ('a', 'i')
  left join pg_catalog.pg_class t on t.oid = d.refobjid
  left join pg_catalog.pg_namespace n on n.oid = t.relnamespace
  left join pg_catalog.pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
 where s.seqrelid = %s::pg_catalog.regclass
"""


def raise_sequence(
    connection: Connection[TupleRow], sequence: str, last: int, called: bool, tables: Iterable[TableName] | None
) -> str:
    """Set a sequence to the furthest of what it is, what the backup says, and the largest value in its column.

    Sequences are not transactional: a rollback leaves this one further, which harms nobody.

    Args:
        connection: the transaction in which the rows were written.
        sequence: its name as the dump writes it, quoted where needed.
        last: the backup's value.
        called: whether that value had been handed out.
        tables: only sequences of these tables' columns; every sequence when None.

    Returns:
        What was done, "" when nothing.
    """
    try:
        # Taken apart and quoted again: what stands in a dump is never run as it is.
        name = sql.Identifier(*split_qualified(sequence))
    except ValueError:
        return "a sequence whose name pg_dump would not write is left as it is"
    try:
        with connection.transaction():
            query = sql.SQL(_SEQUENCE).format(sequence=name)
            row = connection.execute(query, [sequence]).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return f"sequence {sequence} is not in the target"
    if row is None:
        return ""
    increment, now, now_called, schema, table, column = row
    owner = (str(schema), str(table)) if table is not None else None
    if tables is not None and owner not in set(tables):
        return ""
    sign = 1 if increment > 0 else -1
    best = max([(sign * now, bool(now_called)), (sign * last, called)])
    if owner is not None:
        found = connection.execute(
            sql.SQL("select {}({}) from {}").format(
                sql.SQL("max" if sign > 0 else "min"), sql.Identifier(str(column)), sql.Identifier(*owner)
            )
        ).fetchone()
        if found and found[0] is not None:
            best = max(best, (sign * int(found[0]), True))
    if best == (sign * now, bool(now_called)):
        return ""
    connection.execute("select pg_catalog.setval(%s::pg_catalog.regclass, %s, %s)", [sequence, sign * best[0], best[1]])
    return f"sequence {sequence} set to {sign * best[0]}"
