"""Where a table's rows are stored: in itself, or in its partitions.

Partitions that are foreign tables are skipped: their rows are on another server, and pg_dump does not hold them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import Connection, sql
from psycopg.rows import TupleRow

_LEAVES = """
with recursive below(oid) as (
    select i.inhrelid from pg_catalog.pg_inherits i join pg_catalog.pg_class p on p.oid = i.inhparent
      join pg_catalog.pg_namespace n on n.oid = p.relnamespace
     where n.nspname = %s and p.relname = %s and p.relkind = 'p'
  union all
    select i.inhrelid from below b join pg_catalog.pg_inherits i on i.inhparent = b.oid
)
select n.nspname, c.relname, c.relkind = 'f',
       case when c.relkind = 'r' then pg_relation_size(c.oid) / current_setting('block_size')::int else 0 end,
       case when c.relkind = 'r' then pg_table_size(c.oid) else 0 end
  from below b join pg_catalog.pg_class c on c.oid = b.oid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'f') order by 1, 2
"""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A table that holds rows of a partitioned one; `pages` without TOAST, `bytes` with it."""

    schema: str
    name: str
    foreign: bool
    pages: int
    bytes: int


def read_leaves(connection: Connection[TupleRow], schema: str, table: str) -> tuple[Leaf, ...]:
    """Return the partitions of a table that hold rows themselves, at any depth, by name."""
    return tuple(
        Leaf(str(schema), str(name), bool(foreign), int(pages or 0), int(size or 0))
        for schema, name, foreign, pages, size in connection.execute(_LEAVES, [schema, table])
    )


def read_condition(connection: Connection[TupleRow], schema: str, table: str) -> str:
    """Return the WHERE clause of an extension's configuration table that selects the site's own rows; "" for any other.

    The other rows of such a table come with the extension: pg_dump writes only those that meet the clause.
    """
    return read_conditions(connection).get((schema, table), "")


def read_conditions(connection: Connection[TupleRow]) -> dict[tuple[str, str], str]:
    """Return the WHERE clauses of all extensions' configuration tables (see `read_condition`), by schema and name."""
    rows = connection.execute(
        "select n.nspname, c.relname, e.extcondition[array_position(e.extconfig, c.oid)]"
        " from pg_catalog.pg_extension e join pg_catalog.pg_class c on c.oid = any(e.extconfig)"
        " join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
    )
    return {(str(schema), str(table)): str(condition or "") for schema, table, condition in rows}


def rows_of(
    schema: str,
    table: str,
    columns: Sequence[tuple[str, str]],
    leaves: Sequence[Leaf] | None,
    condition: str = "",
) -> sql.Composable:
    """Return what stands after FROM for all rows of a table that lie in this database; needs an alias after it.

    Args:
        schema: the table's schema.
        table: its name.
        columns: name and type (as SQL) of each column.
        leaves: of a partitioned table; None for any other, whose inheritors are skipped.
        condition: see `read_condition`.
    """
    whole = sql.Identifier(schema, table)
    if condition:
        # The extension's author wrote it for exactly this place.
        return sql.SQL("(select * from {}{} {})").format(
            sql.SQL("only " if leaves is None else ""), whole, sql.SQL(condition)
        )
    if leaves is None:
        return sql.SQL("only {}").format(whole)
    if not any(leaf.foreign for leaf in leaves):
        return whole
    local = [leaf for leaf in leaves if not leaf.foreign]
    return rows_of_leaves([name for name, _ in columns], local) if local else _no_rows(columns)


def rows_of_leaves(columns: Sequence[str], leaves: Sequence[Leaf]) -> sql.Composable:
    """Return what stands after FROM for the rows of some leaves; their columns may stand in another order there."""
    if len(leaves) == 1:
        return sql.SQL("only {}").format(sql.Identifier(leaves[0].schema, leaves[0].name))
    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    parts = [
        sql.SQL("select {} from only {}").format(listed, sql.Identifier(leaf.schema, leaf.name)) for leaf in leaves
    ]
    return sql.SQL("({})").format(sql.SQL(" union all ").join(parts))


def _no_rows(columns: Sequence[tuple[str, str]]) -> sql.Composable:
    # The types come from format_type(), which quotes them.
    nulls = [sql.SQL("null::{} as {}").format(sql.SQL(kind), sql.Identifier(name)) for name, kind in columns]
    return sql.SQL("(select {} where false)").format(sql.SQL(", ").join(nulls))
