"""One pass of the server over a table inside the snapshot: rows, fingerprint, and figures of every column.

The figures decide how a column can be stored, and what was written is compared with them: number of values, sum of
integers and decimals, bytes of texts, true values, smallest and largest date or time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.model.record import Fingerprint
from backup_pipeline.postgres.catalog.partitions import Leaf, read_conditions, read_leaves, rows_of
from backup_pipeline.postgres.catalog.queries import NULLABLE
from backup_pipeline.postgres.export.copy import takes_any_bytes
from backup_pipeline.postgres.export.fingerprint import HASH_RECORD, HASH_TEXT, HashableTypes, row_alias, row_hash
from backup_pipeline.tables.arrow_types import ColumnForm, family_of

# A domain may lie over another: follow them down, keeping the first modifier that is set.
_COLUMNS = f"""
with recursive columns as (
    select n.nspname::text as schema, c.relname::text as table, a.attnum, a.attname::text as name,
           a.atttypid as type, a.atttypmod as modifier,
           a.atttypid as declared, a.atttypmod as declared_modifier, {NULLABLE} as nullable,
           a.attgenerated <> '' as generated
      from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = any(%s) and (%s::text is null or c.relname = %s) and a.attnum > 0 and not a.attisdropped
    union all
    select k.schema, k."table", k.attnum, k.name, t.typbasetype,
           case when k.modifier = -1 then t.typtypmod else k.modifier end,
           k.declared, k.declared_modifier, k.nullable, k.generated
      from columns k join pg_type t on t.oid = k.type where t.typtype = 'd'
)
select k.name, format_type(k.declared, k.declared_modifier), format_type(k.type, k.modifier), k.nullable, k.generated,
       k.declared::bigint, k.schema, k."table"
  from columns k join pg_type t on t.oid = k.type where t.typtype <> 'd' order by k.attnum
"""  # noqa: S608


_NONE = sql.SQL("null::text")
_BYTES = "sum(octet_length({}))::text"
_ANSWERS = 5

# RFC 3629, section 4, byte for byte: what a database in SQL_ASCII holds need not be UTF-8. The text is inspected with
# four bytes for each of its own, so a very long one is not: it counts as bytes.
_UTF8 = (
    r"^([\u0001-\u007f]|[\u00c2-\u00df][\u0080-\u00bf]|\u00e0[\u00a0-\u00bf][\u0080-\u00bf]"
    r"|[\u00e1-\u00ec\u00ee\u00ef][\u0080-\u00bf]{2}|\u00ed[\u0080-\u009f][\u0080-\u00bf]"
    r"|\u00f0[\u0090-\u00bf][\u0080-\u00bf]{2}|[\u00f1-\u00f3][\u0080-\u00bf]{3}"
    r"|\u00f4[\u0080-\u008f][\u0080-\u00bf]{2})*$"
)
_LONGEST_INSPECTED = 64 << 20


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column as the catalog gives it; `base_type` is the type below all domains."""

    name: str
    type: str
    base_type: str
    nullable: bool
    generated: bool
    type_id: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of a column's values.

    `total` is a sum, a number of bytes, or a number of true values; `raw` whether some text is not UTF-8.
    """

    values: int
    total: str | None = None
    smallest: str | None = None
    largest: str | None = None
    raw: bool = False


@dataclass(frozen=True)
class TableProfile:
    """A table as the snapshot has it.

    Attributes:
        rows: what stands after FROM for the rows that were inspected.
        leaves: of a partitioned table; None for any other.
    """

    fingerprint: Fingerprint
    columns: tuple[SourceColumn, ...]
    figures: tuple[Figures, ...]
    forms: tuple[ColumnForm, ...]
    rows: sql.Composable
    leaves: tuple[Leaf, ...] | None = None


def read_columns(connection: Connection[TupleRow], schema: str, table: str) -> tuple[SourceColumn, ...]:
    """Return the columns of a table, in order."""
    return _columns_by_table(connection, [schema], table).get((schema, table), ())


def _columns_by_table(
    connection: Connection[TupleRow], schemas: Sequence[str], table: str | None = None
) -> dict[tuple[str, str], tuple[SourceColumn, ...]]:
    found: dict[tuple[str, str], list[SourceColumn]] = {}
    for name, kind, base, nullable, generated, oid, schema, of in connection.execute(
        _COLUMNS, [list(schemas), table, table]
    ):
        column = SourceColumn(str(name), str(kind), str(base), bool(nullable), bool(generated), int(oid))
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


def profile_table(
    connection: Connection[TupleRow],
    schema: str,
    table: str,
    *,
    hashable: HashableTypes,
    partitioned: bool = False,
    utf8: bool = True,
    known: KnownTables | None = None,
) -> TableProfile:
    """Read a table once on the server.

    Args:
        connection: pinned, inside the snapshot.
        schema: the table's schema.
        table: its name.
        hashable: what is known of the types of this database.
        partitioned: whether its rows lie in partitions; foreign ones are skipped.
        utf8: whether the server's encoding is UTF-8, so that numbers of bytes agree with the file's.
        known: what the catalog says of this table among others.
    """
    columns, condition = (known or KnownTables([(schema, table)])).of(connection, schema, table)
    algorithm = HASH_RECORD if hashable.all_of(connection, [(c.type_id, c.type) for c in columns]) else HASH_TEXT
    alias = row_alias([c.name for c in columns])
    any_bytes = takes_any_bytes(connection)
    # Bytes that come as they are can be counted too.
    asked = [
        part
        for column in columns
        for part in (*_questions(column, utf8 or any_bytes), _raw_question(column) if any_bytes else _NONE)
    ]
    leaves = read_leaves(connection, schema, table) if partitioned else None
    rows = rows_of(schema, table, [(c.name, c.type) for c in columns], leaves, condition)
    # One array: a result has at most 1664 columns, fewer than a table may need answers.
    query = sql.SQL("select coalesce(sum({}), 0)::text, count(*), array[{}]::text[] from {} as {}").format(
        row_hash(algorithm, alias),
        sql.SQL(", ").join(asked),
        rows,
        sql.Identifier(alias),
    )
    row = connection.execute(query).fetchone()
    assert row is not None
    fingerprint = Fingerprint(
        algorithm=algorithm,
        server_major=connection.info.server_version // 10000,
        value=str(row[0]),
        rows=int(row[1]),
    )
    answers: list[str | None] = row[2]
    figures = tuple(
        Figures(int(answers[at] or 0), answers[at + 1], answers[at + 2], answers[at + 3], answers[at + 4] == "true")
        for at in range(0, len(answers), _ANSWERS)
    )
    forms = tuple(_form(column, found) for column, found in zip(columns, figures, strict=True))
    return TableProfile(fingerprint, columns, figures, forms, rows, leaves)


def _raw_question(column: SourceColumn) -> sql.Composable:
    """Return whether any text of a column is not UTF-8; `null` for a type whose text is always ASCII."""
    if family_of(column.base_type) not in ("text", "other"):
        return _NONE
    return sql.SQL("bool_or(case when octet_length({0}::text) > {1} then true else {0}::text !~ {2} end)::text").format(
        sql.Identifier(column.name), sql.Literal(_LONGEST_INSPECTED), sql.Literal(_UTF8)
    )


def _questions(column: SourceColumn, utf8: bool) -> list[sql.Composable]:
    """Return four expressions: number of values, total, smallest, largest; `null` where there is none."""
    name = sql.Identifier(column.name)
    count = sql.SQL("count({})::text").format(name)
    none = _NONE
    match family_of(column.base_type):
        case "integer" if column.base_type == "oid":
            return [count, sql.SQL("sum({}::bigint)::text").format(name), none, none]
        case "integer" | "decimal":
            return [count, sql.SQL("sum({})::text").format(name), none, none]
        case "boolean":
            return [count, sql.SQL("(count(*) filter (where {}))::text").format(name), none, none]
        case "float":
            return [count, none, *_bounds(name)]
        case "date" | "timestamp" | "timestamptz" | "time":
            return [count, none, *_bounds(name)]
        case "bytes":
            return [count, sql.SQL("sum(octet_length({}))::text").format(name), none, none]
        case "text" if utf8 and column.base_type != "xml":
            # Of json the text is stored as it was written, so its bytes can be counted without converting anything.
            bare = sql.SQL("sum(octet_length({}::text))::text" if column.base_type == "json" else _BYTES)
            return [count, bare.format(name), none, none]
        case _:
            return [count, none, none, none]


def _bounds(name: sql.Identifier) -> list[sql.Composable]:
    return [sql.SQL("min({})::text").format(name), sql.SQL("max({})::text").format(name)]


def _form(column: SourceColumn, figures: Figures) -> ColumnForm:
    """Decide the column's form from its figures: text where a value does not fit the exact type, bytes of no text."""
    form = ColumnForm(column.name, column.type, column.base_type, family_of(column.base_type))
    if figures.raw:
        return form.as_raw()
    fits = True
    match form.family:
        case "decimal":
            fits = figures.total != "NaN"
        case "date" | "timestamp" | "timestamptz":
            fits = all(_in_calendar(bound) for bound in (figures.smallest, figures.largest))
        case "time":
            fits = figures.largest is None or figures.largest < "24:00:00"
        case _:
            pass
    return form if fits else form.as_text()


def _in_calendar(bound: str | None) -> bool:
    """Whether a date or time has a four-digit year of our era: what ISO 8601 and Arrow's reader know."""
    return bound is None or (bound[:4].isdigit() and bound[4:5] == "-" and not bound.endswith("BC"))
