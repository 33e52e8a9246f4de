"""Order-free content hashes of tables, computed by the server: equal tables have equal sums.

Algorithms (their names are stored with the value):
- `hash_record`: sum of hash_record_extended(row, 0). Follows the types' own equality (1.0 = 1.00). The fastest; needs
  PostgreSQL 14 and column types that have a hash function which is the same in another database: an enum's or a
  regclass's is of its OID, which a restore changes. Hash partitions depend on these functions, so their results
  stay the same from one major version to the next on one byte order.
- `hash_text`: sum of hashtextextended(row::text, 0) under pinned output settings, for all other tables.
"""

from __future__ import annotations

from collections.abc import Collection

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.errors import SourceError
from backup_pipeline.model.record import Fingerprint
from backup_pipeline.postgres.catalog.partitions import read_condition, read_leaves, rows_of

HASH_RECORD = "hash_record"
HASH_TEXT = "hash_text"
_HASH_RECORD_SINCE = 14

_COLUMNS = """
select a.attname, a.atttypid::bigint, pg_catalog.format_type(a.atttypid, a.atttypmod), c.relkind = 'p'
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  left join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
 where n.nspname = %s and c.relname = %s order by a.attnum
"""

# A type and all that it is made of: elements, base types, fields, subtypes of ranges.
_HASHED_BY_OID = """
with recursive part(oid) as (
    select %s::oid
  union
    select inner_type.oid
      from part join pg_catalog.pg_type t on t.oid = part.oid
      cross join lateral (
          select t.typelem where t.typelem <> 0
        union all select t.typbasetype where t.typbasetype <> 0
        union all select a.atttypid from pg_catalog.pg_attribute a
                   where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
        union all select r.rngsubtype from pg_catalog.pg_range r where t.oid in (r.rngtypid, r.rngmultitypid)
      ) as inner_type(oid)
)
select exists (
  select from part join pg_catalog.pg_type t on t.oid = part.oid
   where t.typtype = 'e' or (t.typnamespace = 'pg_catalog'::regnamespace and t.typname ~ '^reg')
)
"""

_LARGE_OBJECTS = """
select coalesce(sum(hashtextextended(loid::text || ':' || pageno::text || ':' || md5(data), 0)::numeric), 0),
       count(distinct loid)
  from pg_catalog.pg_largeobject
"""


def row_alias(columns: Collection[str]) -> str:
    """Return an alias that is no column's name: `f(alias)` means that column where there is one."""
    alias = "whole_row"
    while alias in columns:
        alias += "_"
    return alias


class HashableTypes:
    """Which column types hash_record_extended takes with a lasting result, asked of the server once per type.

    Attributes:
        known: type's OID → whether it can be hashed so that another database gives the same.
    """

    def __init__(self) -> None:
        self.known: dict[int, bool] = {}

    def all_of(self, connection: Connection[TupleRow], types: Collection[tuple[int, str]]) -> bool:
        """Return whether rows of these types (OID, name as SQL) can be hashed."""
        if connection.info.server_version // 10000 < _HASH_RECORD_SINCE:
            return False
        return all(self._hashable(connection, oid, name) for oid, name in types)

    def _hashable(self, connection: Connection[TupleRow], oid: int, name: str) -> bool:
        if oid not in self.known:
            try:
                # A null of the type is enough: the function finds the type's hash before it inspects the value.
                # A transaction of its own, or a savepoint inside the one that is open.
                with connection.transaction():
                    connection.execute(f"select hash_record_extended(row(null::{name}), 0)".encode())
                by_oid = connection.execute(_HASHED_BY_OID, [oid]).fetchone()
                self.known[oid] = by_oid is not None and not by_oid[0]
            except psycopg.OperationalError:
                raise  # gone, or cancelled
            except psycopg.DatabaseError:
                # No hash for the type; or a domain that refuses a null by NOT NULL, a check, or a function's own error.
                self.known[oid] = False
        return self.known[oid]


def row_hash(algorithm: str, alias: str) -> sql.Composed:
    """Return the expression that hashes one whole row; SourceError when the algorithm is unknown."""
    row = sql.Identifier(alias)
    if algorithm == HASH_RECORD:
        return sql.SQL("hash_record_extended({}, 0)").format(row)
    if algorithm == HASH_TEXT:
        return sql.SQL("hashtextextended({}::text, 0)").format(row)
    raise SourceError(
        f"The fingerprint algorithm {algorithm} is not known to this release.",
        remedy="Use the release of backup-pipeline that made the set, or a newer one.",
    )


def _described(connection: Connection[TupleRow], schema: str, table: str) -> tuple[list[tuple[str, int, str]], bool]:
    rows = connection.execute(_COLUMNS, [schema, table]).fetchall()
    if not rows:
        raise SourceError(
            "The table does not exist.", where=f"{schema}.{table}", remedy="It was there before; check the server."
        )
    return [(str(r[0]), int(r[1]), str(r[2])) for r in rows if r[0] is not None], bool(rows[0][3])


def _compute(
    connection: Connection[TupleRow],
    schema: str,
    table: str,
    algorithm: str,
    columns: list[tuple[str, int, str]],
    partitioned: bool,
) -> Fingerprint:
    alias = row_alias([name for name, _, _ in columns])
    leaves = read_leaves(connection, schema, table) if partitioned else None
    # The sum of 64-bit numbers is numeric by itself, and adds them without making each one numeric.
    query = sql.SQL("select coalesce(sum({}), 0), count(*) from {} as {}").format(
        row_hash(algorithm, alias),
        rows_of(
            schema,
            table,
            [(name, kind) for name, _, kind in columns],
            leaves,
            read_condition(connection, schema, table),
        ),
        sql.Identifier(alias),
    )
    row = connection.execute(query).fetchone()
    assert row is not None
    return Fingerprint(
        algorithm=algorithm,
        server_major=connection.info.server_version // 10000,
        value=str(row[0]),
        rows=int(row[1]),
    )


def fingerprint_table(
    connection: Connection[TupleRow], schema: str, table: str, hashable: HashableTypes | None = None
) -> Fingerprint:
    """Return a table's fingerprint by the fastest algorithm that its column types allow.

    A partitioned table's is that of all its rows in this database; any other table's skips its inheritors.

    Args:
        connection: pinned (see `connection.PINNED_SETTINGS`), inside a snapshot where that matters.
        schema: the table's schema.
        table: its name.
        hashable: what is known of types already; pass one for many tables of a database.
    """
    columns, partitioned = _described(connection, schema, table)
    types = hashable if hashable is not None else HashableTypes()
    fits = types.all_of(connection, [(oid, name) for _, oid, name in columns])
    algorithm = HASH_RECORD if fits else HASH_TEXT
    return _compute(connection, schema, table, algorithm, columns, partitioned)


def fingerprint_with(connection: Connection[TupleRow], schema: str, table: str, algorithm: str) -> Fingerprint:
    """Return a table's fingerprint by a recorded algorithm; SourceError when it is unknown or the table is missing."""
    columns, partitioned = _described(connection, schema, table)
    return _compute(connection, schema, table, algorithm, columns, partitioned)


def fingerprint_large_objects(connection: Connection[TupleRow]) -> Fingerprint | None:
    """Return count and content hash of all large objects; None when this role may not read pg_largeobject."""
    allowed = connection.execute("select has_table_privilege('pg_catalog.pg_largeobject', 'select')").fetchone()
    if allowed is None or not allowed[0]:
        return None
    row = connection.execute(_LARGE_OBJECTS).fetchone()
    assert row is not None
    return Fingerprint(
        algorithm="large_object_pages",
        server_major=connection.info.server_version // 10000,
        value=str(row[0]),
        rows=int(row[1]),
    )
