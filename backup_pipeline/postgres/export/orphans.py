"""How many rows break a foreign key inside a snapshot. A constraint that is valid may still be broken by a load with
triggers off or a damaged index, so the rows are asked, not the catalog."""

from __future__ import annotations

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.model.catalog import ForeignKey

# Whether rows must obey by equality (not those of a constraint that is not valid, nor of a period, which one row or
# several must cover), and whether the rows of the two tables lie in partitions; those of heirs obey no key.
_KIND = """
select bool_or(k.convalidated and not coalesce((to_jsonb(k) ->> 'conperiod')::boolean, false)),
       bool_or(c.relkind = 'p'), bool_or(f.relkind = 'p')
  from pg_constraint k
  join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
  join pg_class f on f.oid = k.confrelid join pg_namespace fn on fn.oid = f.relnamespace
 where k.contype = 'f' and n.nspname = %s and c.relname = %s and fn.nspname = %s and f.relname = %s
   and %s = array(select a.attname::text from unnest(k.conkey) with ordinality u (num, pos)
                    join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.num order by u.pos)
   and %s = array(select a.attname::text from unnest(k.confkey) with ordinality u (num, pos)
                    join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.num order by u.pos)
"""


def count_orphans(connection: Connection[TupleRow], schema: str, table: str, key: ForeignKey) -> int | None:
    """Return the number of rows of a table whose key is not null and refers to no row.

    None when its types compare by an operator of an extension, which the pinned search_path hides. A key that its rows
    need not obey, or not by equality, has none.

    Args:
        connection: inside the snapshot.
        schema: the referring table's schema.
        table: the referring table.
        key: the foreign key.
    """
    kind = connection.execute(
        _KIND, [schema, table, key.to_schema, key.to_table, list(key.columns), list(key.to_columns)]
    ).fetchone()
    by_equality, *partitioned = kind or (False, False, False)
    if not by_equality:
        return 0
    of_heirs, to_heirs = (sql.SQL("" if parted else "only ") for parted in partitioned)
    pairs = list(zip(key.columns, key.to_columns, strict=True))
    there = sql.SQL(" and ").join(sql.SQL("c.{} is not null").format(sql.Identifier(mine)) for mine, _ in pairs)
    equal = sql.SQL(" and ").join(
        sql.SQL("p.{} operator(pg_catalog.=) c.{}").format(sql.Identifier(theirs), sql.Identifier(mine))
        for mine, theirs in pairs
    )
    query = sql.SQL("select count(*) from {}{} c where {} and not exists (select from {}{} p where {})").format(
        of_heirs, sql.Identifier(schema, table), there, to_heirs, sql.Identifier(key.to_schema, key.to_table), equal
    )
    try:
        with connection.transaction():
            row = connection.execute(query).fetchone()
    except psycopg.errors.UndefinedFunction:
        return None
    return int(row[0]) if row else 0
