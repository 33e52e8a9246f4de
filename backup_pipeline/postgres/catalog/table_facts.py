"""What writing rows into an existing table must know of it: key, columns, triggers, rules, row level security."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

from backup_pipeline.postgres.catalog.queries import NULLABLE

TableName = tuple[str, str]


@dataclass(frozen=True)
class TableFacts:
    """What an upsert must know of a table of the target.

    Attributes:
        key: columns by which rows are distinguished: the primary key's, or where there is none those of a unique index
            over all rows whose columns hold no null.
        key_index: the name of that index; "" for a primary key, and where there is no key.
        nullable_keys: where there is no key, unique indexes that would be one but for columns that allow nulls, each
            with these columns.
    """

    key: tuple[str, ...]
    columns: tuple[str, ...]
    generated: frozenset[str]
    always_identity: frozenset[str]
    triggers: tuple[tuple[str, str], ...]
    rules: tuple[str, ...]
    row_security: bool
    kind: str
    key_index: str = ""
    nullable_keys: tuple[tuple[str, str], ...] = ()


# The index whose columns are the key: the primary key's; else one that is valid, over plain columns and all rows, with
# the types' own equality, and without nulls: the replica identity first, then the fewest columns.
_CANDIDATES = f"""
select i.indexrelid, i.indisprimary, i.indisreplident, i.indnkeyatts, array_agg(a.attname order by k.n) as names,
       string_agg(quote_ident(a.attname), ', ' order by k.n) filter (where {NULLABLE}) as nullable
  from pg_catalog.pg_index i
 cross join unnest(i.indkey::int2[]) with ordinality k(attnum, n)
  left join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
 where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indpred is null and k.n <= i.indnkeyatts
 group by i.indexrelid, i.indisprimary, i.indisreplident, i.indnkeyatts, i.indclass
having bool_and(a.attnum is not null)
   and not exists (select from unnest(i.indclass::oid[]) with ordinality u(class, n)
                     join pg_catalog.pg_opclass o on o.oid = u.class
                    where u.n <= i.indnkeyatts and not o.opcdefault and o.opcname !~ '(pattern|varchar|cidr)_ops$')
"""  # noqa: S608 - put together from constants of this package only
_KEY = f"""
select * from ({_CANDIDATES}) candidate where nullable is null
 order by indisprimary desc, indisreplident desc, indnkeyatts, indexrelid limit 1
"""  # noqa: S608 - put together from constants of this package only
_FACTS = f"""
select c.relkind, c.relrowsecurity, key.names,
       (select array_agg(a.attname order by a.attnum) from pg_catalog.pg_attribute a
         where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
       (select array_agg(a.attname) from pg_catalog.pg_attribute a
         where a.attrelid = c.oid and a.attgenerated <> '' and not a.attisdropped),
       (select array_agg(a.attname) from pg_catalog.pg_attribute a
         where a.attrelid = c.oid and a.attidentity = 'a' and not a.attisdropped),
       (select array_agg(array[t.tgname::text, t.tgenabled::text]) from pg_catalog.pg_trigger t
         where t.tgrelid = c.oid and not t.tgisinternal and t.tgenabled in ('O', 'A') and t.tgtype & 20 <> 0),
       (select array_agg(r.rulename) from pg_catalog.pg_rewrite r
         where r.ev_class = c.oid and r.ev_type in ('2', '3') and r.ev_enabled <> 'D'),
       case when not key.indisprimary
            then (select x.relname from pg_catalog.pg_class x where x.oid = key.indexrelid) end,
       case when key.indexrelid is null
            then (select array_agg(array[x.relname::text, other.nullable] order by x.relname)
                    from ({_CANDIDATES}) other join pg_catalog.pg_class x on x.oid = other.indexrelid) end
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  left join lateral ({_KEY}) key on true
 where n.nspname = %s and c.relname = %s
"""  # noqa: S608 - put together from constants of this package only


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
        key_index=str(row[8] or ""),
        nullable_keys=tuple((str(index), str(columns)) for index, columns in row[9] or ()),
    )
