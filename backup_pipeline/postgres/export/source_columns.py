"""The columns of tables as the catalog of one snapshot gives them, of one table or of thousands at once."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

from backup_pipeline.postgres.catalog.partitions import read_conditions
from backup_pipeline.postgres.catalog.queries import NULLABLE

# A domain may lie over another: follow them down, keeping the first modifier that is set.
_COLUMNS = f"""
with recursive columns as (
    select n.nspname::text as schema, c.relname::text as table, a.attnum, a.attname::text as name,
           a.atttypid as type, a.atttypmod as modifier,
           a.atttypid as declared, a.atttypmod as declared_modifier, {NULLABLE} as nullable,
           a.attgenerated <> '' as generated,
           coalesce((select (to_jsonb(l) ->> 'collisdeterministic')::boolean from pg_collation l
                      where l.oid = a.attcollation), true) as by_bytes
      from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = any(%s) and (%s::text is null or c.relname = %s) and a.attnum > 0 and not a.attisdropped
    union all
    select k.schema, k."table", k.attnum, k.name, t.typbasetype,
           case when k.modifier = -1 then t.typtypmod else k.modifier end,
           k.declared, k.declared_modifier, k.nullable, k.generated, k.by_bytes
      from columns k join pg_type t on t.oid = k.type where t.typtype = 'd'
)
select k.name, format_type(k.declared, k.declared_modifier), format_type(k.type, k.modifier), k.nullable, k.generated,
       k.declared::bigint, k.schema, k."table", k.by_bytes
  from columns k join pg_type t on t.oid = k.type where t.typtype <> 'd' order by k.attnum
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column as the catalog gives it.

    Attributes:
        base_type: the type below all domains.
        compared_by_bytes: False for a text whose collation calls different bytes equal.
    """

    name: str
    type: str
    base_type: str
    nullable: bool
    generated: bool
    type_id: int
    compared_by_bytes: bool = True


def _columns_by_table(
    connection: Connection[TupleRow], schemas: Sequence[str], table: str | None = None
) -> dict[tuple[str, str], tuple[SourceColumn, ...]]:
    found: dict[tuple[str, str], list[SourceColumn]] = {}
    for name, kind, base, nullable, generated, oid, schema, of, by_bytes in connection.execute(
        _COLUMNS, [list(schemas), table, table]
    ):
        texts = (str(name), str(kind), str(base))
        column = SourceColumn(*texts, bool(nullable), bool(generated), int(oid), bool(by_bytes))
        found.setdefault((str(schema), str(of)), []).append(column)
    return {name: tuple(columns) for name, columns in found.items()}


class KnownTables:
    """What the catalog of one snapshot says of many tables, read at once when first asked for: a query for each of
    thousands takes longer than their rows.

    Args:
        names: schema and name of each table.
    """

    def __init__(self, names: Iterable[tuple[str, str]]) -> None:
        self._names = frozenset(names)
        self._guard = threading.Lock()
        self._columns: dict[tuple[str, str], tuple[SourceColumn, ...]] | None = None
        self._conditions: dict[tuple[str, str], str] = {}

    def of(self, connection: Connection[TupleRow], schema: str, table: str) -> tuple[tuple[SourceColumn, ...], str]:
        """Return a table's columns in order, and its condition (see `read_condition`)."""
        with self._guard:
            if self._columns is None:
                alone = table if len(self._names) == 1 else None
                found = _columns_by_table(connection, sorted({schema for schema, _ in self._names}), alone)
                self._conditions = read_conditions(connection)
                self._columns = {name: columns for name, columns in found.items() if name in self._names}
        return self._columns.get((schema, table), ()), self._conditions.get((schema, table), "")
