"""Foreign keys that rows on their way into live tables would break: found before anything is written.

A key holds when the row that it refers to is live or among the loaded ones. Other constraints are left to the server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.postgres.merge.statements import NEW, TAKE, Staged, TableName, changed_rows
from backup_pipeline.rules.upsert_order import root_of


@dataclass(frozen=True)
class _Key:
    """A foreign key; `operators` are those that the server compares with, referred column first.

    Of one over periods (since 18) the last column is the period, which the referred rows must cover together.
    """

    name: str
    columns: tuple[str, ...]
    to: TableName
    to_columns: tuple[str, ...]
    operators: tuple[tuple[str, str], ...]
    partitioned: bool
    over_periods: bool


# Without those that the server makes for each partition that is referred to, and those that it does not enforce (since
# 18 like periods, hence by the row's JSON).
_KEYS = """
select k.conname, n.nspname, t.relname, t.relkind = 'p', coalesce(to_jsonb(k) ->> 'conperiod', 'false') = 'true',
       (select array_agg(array[a.attname::text, b.attname::text, m.nspname::text, o.oprname::text] order by u.n)
          from unnest(k.conkey, k.confkey, k.conpfeqop) with ordinality u(own, other, operator, n)
          join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.own
          join pg_catalog.pg_attribute b on b.attrelid = k.confrelid and b.attnum = u.other
          join pg_catalog.pg_operator o on o.oid = u.operator
          join pg_catalog.pg_namespace m on m.oid = o.oprnamespace)
  from pg_catalog.pg_constraint k join pg_catalog.pg_class c on c.oid = k.conrelid
  join pg_catalog.pg_namespace s on s.oid = c.relnamespace
  join pg_catalog.pg_class t on t.oid = k.confrelid join pg_catalog.pg_namespace n on n.oid = t.relnamespace
 where k.contype = 'f' and s.nspname = %s and c.relname = %s
   and not exists (select from pg_catalog.pg_constraint p where p.oid = k.conparentid and p.conrelid = k.conrelid)
   and coalesce(to_jsonb(k) ->> 'conenforced', 'true') = 'true'
 order by k.conname
"""


def missing_references(
    connection: Connection[TupleRow], staged: Mapping[TableName, Staged], leaf_of: Mapping[TableName, TableName]
) -> list[str]:
    """Return in sentences which foreign keys would not hold, with how many rows, by one query for each key.

    Args:
        connection: the merge's; its tables have been compared.
        staged: the tables that take part.
        leaf_of: partition → the table that it is a partition of.
    """
    found = []
    for name, item in sorted(staged.items()):
        if not (item.change.insert or item.change.update):
            continue
        for key in _keys(connection, name):
            there = [one for other, one in staged.items() if key.to in (other, root_of(other, leaf_of))]
            if rows := _count(connection, item, key, there):
                to = ".".join(key.to)
                refer = "row refers" if rows == 1 else "rows refer"
                found.append(
                    f"{rows} {refer} from {'.'.join(name)} to rows of {to} that are neither live nor among what is put "
                    f"back (constraint {key.name}): take {to} along, or choose wider conditions"
                )
    return found


def _keys(connection: Connection[TupleRow], table: TableName) -> list[_Key]:
    found = []
    for name, schema, to, partitioned, over_periods, pairs in connection.execute(_KEYS, list(table)):
        own, other, schemas, operators = zip(*pairs, strict=True)
        found.append(
            _Key(
                name=str(name),
                columns=own,
                to=(str(schema), str(to)),
                to_columns=other,
                operators=tuple(zip(schemas, operators, strict=True)),
                partitioned=bool(partitioned),
                over_periods=bool(over_periods),
            )
        )
    return found


def _count(connection: Connection[TupleRow], item: Staged, key: _Key, there: Sequence[Staged]) -> int:
    """Count the rows to be written whose key refers to nothing; 0 where that cannot be known before."""
    if not set(key.columns) <= set(item.columns):
        return 0
    live = sql.SQL("{}").format(sql.Identifier(*key.to)) if key.partitioned else _only(key.to)
    tables = [live, *(one.stage for one in there if set(key.to_columns) <= set(one.columns))]
    conditions = [sql.SQL("s.{} is not null").format(sql.Identifier(column)) for column in key.columns]
    conditions += _refers_to_none(key, tables)
    if item.facts.key:
        # A row whose key stays as it is live is not checked by the server: it may be older than the constraint.
        same = sql.SQL(" and ").join(
            sql.SQL("t.{0} is not distinct from s.{0}").format(sql.Identifier(column))
            for column in dict.fromkeys((*item.facts.key, *key.columns))
        )
        conditions.append(sql.SQL("({} or not exists (select from {} t where {}))").format(NEW, _only(item.name), same))
    query = sql.SQL("select count(*) from {} where {} and {}").format(
        changed_rows(item), TAKE, sql.SQL(" and ").join(conditions)
    )
    try:
        with connection.transaction():
            row = connection.execute(query).fetchone()
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFunction):
        # The role may not read the table that is referred to: the server checks the key as the rows are written.
        return 0
    return int(row[0]) if row else 0


def _refers_to_none(key: _Key, tables: Sequence[sql.Composable]) -> list[sql.Composed]:
    """Return the conditions under which a row `s` refers to no row of these tables."""
    equal = [
        sql.SQL("r.{} operator({}." + operator + ") s.{}").format(
            sql.Identifier(to), sql.Identifier(schema), sql.Identifier(column)
        )
        for column, to, (schema, operator) in zip(key.columns, key.to_columns, key.operators, strict=True)
    ]
    if not key.over_periods:
        refers = sql.SQL(" and ").join(equal)
        return [sql.SQL("not exists (select from {} r where {})").format(table, refers) for table in tables]
    listed = sql.SQL(", ").join(map(sql.Identifier, key.to_columns))
    rows = sql.SQL(" union all ").join(sql.SQL("select {} from {} r").format(listed, table) for table in tables)
    covered = sql.SQL("select pg_catalog.range_agg(r.{}) from ({}) r where {}").format(
        sql.Identifier(key.to_columns[-1]), rows, sql.SQL(" and ").join(equal[:-1])
    )
    period = sql.Identifier("s", key.columns[-1])
    return [sql.SQL("not coalesce({} operator(pg_catalog.<@) ({}), false)").format(period, covered)]


def _only(table: TableName) -> sql.Composed:
    return sql.SQL("only {}").format(sql.Identifier(*table))
