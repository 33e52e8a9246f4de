"""How many rows break a foreign key inside a snapshot. A constraint that is valid may still be broken by a load with
triggers off or a damaged index, so the rows are asked, not the catalog."""

from __future__ import annotations

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.model.catalog import ForeignKey


def count_orphans(connection: Connection[TupleRow], schema: str, table: str, key: ForeignKey) -> int | None:
    """Return the number of rows of a table whose key is not null and refers to no row.

    None when its types compare by an operator of an extension, which the pinned search_path hides.

    Args:
        connection: inside the snapshot.
        schema: the referring table's schema.
        table: the referring table.
        key: the foreign key.
    """
    pairs = list(zip(key.columns, key.to_columns, strict=True))
    there = sql.SQL(" and ").join(sql.SQL("c.{} is not null").format(sql.Identifier(mine)) for mine, _ in pairs)
    equal = sql.SQL(" and ").join(
        sql.SQL("p.{} operator(pg_catalog.=) c.{}").format(sql.Identifier(theirs), sql.Identifier(mine))
        for mine, theirs in pairs
    )
    query = sql.SQL("select count(*) from {} c where {} and not exists (select from {} p where {})").format(
        sql.Identifier(schema, table), there, sql.Identifier(key.to_schema, key.to_table), equal
    )
    try:
        with connection.transaction():
            row = connection.execute(query).fetchone()
    except psycopg.errors.UndefinedFunction:
        return None
    return int(row[0]) if row else 0
