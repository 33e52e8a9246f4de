"""How many rows repeat a key inside a snapshot, by the server's own equality.

For keys whose types or collations call values equal that are written differently (1.0 and 1.00, citext, a collation
that is not deterministic). The table is read, not the index: it is the index that may be broken.
"""

from __future__ import annotations

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.model.catalog import TableKey


def count_duplicates(
    connection: Connection[TupleRow], schema: str, table: str, key: TableKey, *, partitioned: bool = False
) -> int | None:
    """Return the number of rows beyond the first with the same key; None when the server cannot group by its types.

    Args:
        connection: inside the snapshot.
        schema: the table's schema.
        table: its name.
        key: its columns and their collations.
        partitioned: whether its rows lie in partitions; where one of them is foreign there can be no key.
    """
    names = [sql.Identifier(name) for name in key.columns]
    grouped = [
        sql.SQL("{} collate {}").format(name, sql.SQL(collation)) if collation else name
        for name, collation in zip(names, key.collations or ("",) * len(names), strict=True)
    ]
    # Of a composite value IS NOT NULL asks for its fields; this asks for the value.
    there = [sql.SQL("{} is distinct from null").format(name) for name in names] if key.nulls_distinct else []
    query = sql.SQL(
        "select coalesce(sum(n - 1), 0)::bigint"
        " from (select count(*) as n from {}{}{} group by {} having count(*) > 1) as repeated"
    ).format(
        sql.SQL("" if partitioned else "only "),
        sql.Identifier(schema, table),
        sql.SQL(" where ") + sql.SQL(" and ").join(there) if there else sql.SQL(""),
        sql.SQL(", ").join(grouped),
    )
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("set local enable_indexscan = off")
            connection.execute("set local enable_indexonlyscan = off")
            row = connection.execute(query).fetchone()
    except psycopg.errors.UndefinedFunction:
        return None
    return int(row[0]) if row else 0
