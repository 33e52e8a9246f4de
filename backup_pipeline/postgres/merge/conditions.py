"""Conditions on the rows of an upsert: SQL as the shell takes it, and comparisons of columns, rendered with quoting."""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import sql

from backup_pipeline.errors import RefusedError
from backup_pipeline.model.restore import RowComparison

TableName = tuple[str, str]


def all_conditions(rows: Iterable[str], where: Iterable[RowComparison]) -> dict[TableName, str]:
    """Return table → SQL condition that its rows must meet; several of one table must all be true.

    Raises:
        RefusedError: one of `rows` has another form than `schema.table: condition`.
    """
    found: dict[TableName, list[str]] = {}
    for name, condition in map(parse_rows, rows):
        found[name] = [condition]
    for comparison in where:
        schema, _, table = comparison.table.partition(".")
        found.setdefault((schema, table), []).append(rendered(comparison))
    return {
        name: parts[0] if len(parts) == 1 else " and ".join(f"({part})" for part in parts)
        for name, parts in found.items()
    }


def rendered(comparison: RowComparison) -> str:
    """Return a comparison as SQL. Its values are literals of unknown type, which the server reads as the column's."""
    column = sql.Identifier(comparison.column)
    values = [sql.Literal(value) for value in comparison.values]
    operator = comparison.operator
    if operator in ("is null", "is not null"):
        query = sql.SQL("{} " + operator).format(column)
    elif operator == "in":
        query = sql.SQL("{} in ({})").format(column, sql.SQL(", ").join(values))
    elif operator == "contains":
        query = sql.SQL("pg_catalog.strpos(({})::pg_catalog.text, {}) > 0").format(column, values[0])
    else:
        query = sql.SQL("{} " + ("<>" if operator == "!=" else operator) + " {}").format(column, values[0])
    return query.as_string(None)


def parse_rows(text: str) -> tuple[TableName, str]:
    """Read `schema.table: condition`; RefusedError when it has another form."""
    table, colon, condition = text.partition(":")
    schema, dot, name = table.strip().partition(".")
    if not dot:
        schema, name = "public", schema
    if not colon or not condition.strip() or not name:
        raise RefusedError(
            "Not a table with a condition.",
            where=f"--rows {text}",
            remedy="Write it as 'public.orders: id in (1, 2)'.",
        )
    return (schema, name), condition.strip()
