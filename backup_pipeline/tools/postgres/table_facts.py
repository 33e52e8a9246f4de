"""What writing rows into an existing table must know of it: key, columns, triggers, rules, row level security."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

TableName = tuple[str, str]


@dataclass(frozen=True)
class TableFacts:
    """What an upsert must know of a table of the target."""

    key: tuple[str, ...]
    columns: tuple[str, ...]
    generated: frozenset[str]
    always_identity: frozenset[str]
    triggers: tuple[tuple[str, str], ...]
    rules: tuple[str, ...]
    row_security: bool
    kind: str


_FACTS = """
select c.relkind, c.relrowsecurity,
       (select array_agg(a.attname order by k.n) from pg_catalog.pg_index i
          cross join unnest(i.indkey::int2[]) with ordinality k(attnum, n)
          join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
         where i.indrelid = c.oid and i.indisprimary),
       (select array_agg(a.attname order by a.attnum) from pg_catalog.pg_attribute a
         where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
       (select array_agg(a.attname) from pg_catalog.pg_attribute a
         where a.attrelid = c.oid and a.attgenerated <> '' and not a.attisdropped),
       (select array_agg(a.attname) from pg_catalog.pg_attribute a
         where a.attrelid = c.oid and a.attidentity = 'a' and not a.attisdropped),
       (select array_agg(array[t.tgname::text, t.tgenabled::text]) from pg_catalog.pg_trigger t
         where t.tgrelid = c.oid and not t.tgisinternal and t.tgenabled in ('O', 'A') and t.tgtype & 20 <> 0),
       (select array_agg(r.rulename) from pg_catalog.pg_rewrite r
         where r.ev_class = c.oid and r.ev_type in ('2', '3') and r.ev_enabled <> 'D')
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname = %s and c.relname = %s
"""


def table_facts(connection: Connection[TupleRow], table: TableName) -> TableFacts | None:
    """Return what is to be known of a table; None when it is not there."""
    row = connection.execute(_FACTS, list(table)).fetchone()
    if row is None:
        return None
    return TableFacts(
        kind=str(row[0]),
        row_security=bool(row[1]),
        key=tuple(row[2] or ()),
        columns=tuple(row[3] or ()),
        generated=frozenset(row[4] or ()),
        always_identity=frozenset(row[5] or ()),
        triggers=tuple((str(name), str(state)) for name, state in row[6] or ()),
        rules=tuple(row[7] or ()),
    )
