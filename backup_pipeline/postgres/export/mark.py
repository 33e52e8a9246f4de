"""Whether a table holds what it held before: its fingerprint, and how values are written that have several forms.

The fingerprint follows the types' own equality, by which 1.0 is 1.00 and a jsonb's number may be written in two ways.
An export keeps what is written. So beside the fingerprint stands a second sum, over the text of the columns whose equal
values may differ in it, with the row's hash as seed: no two rows can exchange their forms unnoticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.model.record import Fingerprint
from backup_pipeline.postgres.catalog.partitions import Leaf, read_leaves, rows_of
from backup_pipeline.postgres.export.fingerprint import HASH_RECORD, HASH_TEXT, HashableTypes, row_alias, row_hash
from backup_pipeline.postgres.export.source_columns import KnownTables, SourceColumn
from backup_pipeline.tables.arrow_types import family_of

_ONE_FORM = ("integer", "boolean", "date", "timestamp", "timestamptz", "time", "bytes", "decimal")


@dataclass(frozen=True)
class TableMark:
    """What a table's content is known by.

    Attributes:
        fingerprint: of its rows.
        text_forms: of how its values are written; "" where the fingerprint says all.
    """

    fingerprint: Fingerprint
    text_forms: str


@dataclass(frozen=True)
class TableRows:
    """How a table is read.

    Attributes:
        rows: what stands after FROM.
        leaves: of a partitioned table; None for any other.
        algorithm: of its fingerprint.
        alias: of a row.
    """

    columns: tuple[SourceColumn, ...]
    rows: sql.Composable
    leaves: tuple[Leaf, ...] | None
    algorithm: str
    alias: str


def rows_to_read(
    connection: Connection[TupleRow],
    schema: str,
    table: str,
    *,
    hashable: HashableTypes,
    partitioned: bool = False,
    known: KnownTables | None = None,
) -> TableRows:
    """Return how a table is read, from the catalog.

    Args:
        connection: pinned, inside the snapshot.
        schema: the table's schema.
        table: its name.
        hashable: what is known of the types of this database.
        partitioned: whether its rows lie in partitions; foreign ones are skipped.
        known: what the catalog says of this table among others.
    """
    columns, condition = (known or KnownTables([(schema, table)])).of(connection, schema, table)
    algorithm = HASH_RECORD if hashable.all_of(connection, [(c.type_id, c.type) for c in columns]) else HASH_TEXT
    leaves = read_leaves(connection, schema, table) if partitioned else None
    rows = rows_of(schema, table, [(c.name, c.type) for c in columns], leaves, condition)
    return TableRows(columns, rows, leaves, algorithm, row_alias([c.name for c in columns]))


def mark_questions(read: TableRows) -> list[sql.Composable]:
    """Return what to ask of all rows for a mark: the sum of their hashes, and of their values' forms, as text."""
    row = row_hash(read.algorithm, read.alias)
    return [sql.SQL("coalesce(sum({}), 0)::text").format(row), *_form_questions(read, row)]


def mark_of(connection: Connection[TupleRow], read: TableRows, answers: Sequence[str | None], rows: int) -> TableMark:
    """Return the mark from the answers to `mark_questions`."""
    fingerprint = Fingerprint(
        algorithm=read.algorithm,
        server_major=connection.info.server_version // 10000,
        value=str(answers[0]),
        rows=rows,
    )
    return TableMark(fingerprint, ":".join(answer or "0" for answer in answers[1:]))


def mark_table(connection: Connection[TupleRow], read: TableRows) -> TableMark:
    """Read a table once on the server, for its mark alone."""
    query = sql.SQL("select array[{}]::text[], count(*) from {} as {}").format(
        sql.SQL(", ").join(mark_questions(read)), read.rows, sql.Identifier(read.alias)
    )
    row = connection.execute(query).fetchone()
    assert row is not None
    return mark_of(connection, read, row[0], int(row[1]))


def _form_questions(read: TableRows, row: sql.Composable) -> list[sql.Composable]:
    if read.algorithm == HASH_TEXT:
        return []  # the hash is of the text
    loose: list[sql.Composable] = []
    asked: list[sql.Composable] = []
    for column in read.columns:
        name = sql.Identifier(column.name)
        family = family_of(column.base_type)
        if family == "float":
            # Of equal ones only zero is written in two ways.
            asked.append(
                sql.SQL("sum(case when {0} = 0 then hashtextextended({0}::text, {1}) end)::text").format(name, row)
            )
        elif not (family in _ONE_FORM or column.base_type == "uuid" or (family == "text" and column.compared_by_bytes)):
            loose.append(name)
    if loose:
        text = sql.SQL("row({})::text").format(sql.SQL(", ").join(loose))
        asked.append(sql.SQL("sum(hashtextextended({}, {}))::text").format(text, row))
    return asked
