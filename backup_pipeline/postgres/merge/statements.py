"""The SQL of a merge, built from a table's facts: which rows differ, and how they are written. Nothing is run here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from psycopg import sql

from backup_pipeline.model.restore import ConflictRule, TableChange
from backup_pipeline.postgres.catalog.table_facts import TableFacts

TableName = tuple[str, str]
# The columns of a table of changes: which of the loaded rows, whether the target lacks it, whether it is written.
ROW, NEW, TAKE = sql.Identifier("d", "loaded"), sql.Identifier("d", "is_new"), sql.Identifier("d", "is_taken")


@dataclass
class Staged:
    """A table whose rows of the backup are loaded: where they are, what differs, and what is known of the table.

    Attributes:
        live: where a condition selects rows: how many live rows meet it, and how many of these the backup has not got.
    """

    name: TableName
    columns: tuple[str, ...]
    facts: TableFacts
    stage: sql.Identifier
    diff: sql.Identifier
    change: TableChange
    live: tuple[int, int] | None = None
    notes: list[str] = field(default_factory=list)


def changed_rows(item: Staged) -> sql.Composed:
    """Return what stands after FROM for the loaded rows `s` that differ, each with what is to be done with it, `d`."""
    return sql.SQL("{} d join {} s on s.ctid = {}").format(item.diff, item.stage, ROW)


def column_list(names: Sequence[str]) -> sql.Composed:
    """Return the names as SQL, separated by commas."""
    return sql.SQL(", ").join(sql.Identifier(name) for name in names)


def written_columns(item: Staged) -> list[str]:
    """Return the columns that can be compared and written: the block's, in its order."""
    return [c for c in item.columns if c not in item.facts.generated]


def row_text(columns: Sequence[str], alias: str) -> sql.Composed:
    """Return the text of a row of these columns."""
    listed = sql.SQL(", ").join(sql.Identifier(alias, name) for name in columns)
    return sql.SQL("row({})::text").format(listed)


def rows_differ(columns: Sequence[str]) -> sql.Composable:
    """Return the condition that two rows' images differ: exact for every type, with or without an equality operator;
    NULL equals NULL."""
    if not columns:
        return sql.SQL("false")
    left, right = (sql.SQL(", ").join(sql.Identifier(alias, name) for name in columns) for alias in ("t", "s"))
    return sql.SQL("pg_catalog.record_image_ne(row({}), row({}))").format(left, right)


def rows_taken(item: Staged, rule: ConflictRule, newer_column: str) -> tuple[sql.Composable, bool]:
    """Return the condition under which the backup's row wins, and whether the rule keeps all for want of the column."""
    if rule is ConflictRule.BACKUP:
        return sql.SQL("true"), False
    if rule is ConflictRule.NEWER and newer_column in item.columns and newer_column in item.facts.columns:
        column = sql.Identifier(newer_column)
        return sql.SQL("coalesce(s.{0} > t.{0}, t.{0} is null and s.{0} is not null)").format(column), False
    return sql.SQL("false"), rule is ConflictRule.NEWER


def update_statement(item: Staged) -> sql.Composed | None:
    """Return the statement that writes changed rows; None when there is nothing to write."""
    fixed = set(item.facts.key) | item.facts.always_identity
    columns = [name for name in written_columns(item) if name not in fixed]
    if not item.change.update or not columns:
        return None
    sets = sql.SQL(", ").join(sql.SQL("{0} = s.{0}").format(sql.Identifier(name)) for name in columns)
    on = sql.SQL(" and ").join(sql.SQL("t.{0} = s.{0}").format(sql.Identifier(c)) for c in item.facts.key)
    return sql.SQL("update only {} t set {} from {} where not {} and {} and {}").format(
        sql.Identifier(*item.name), sets, changed_rows(item), NEW, TAKE, on
    )


def insert_statement(item: Staged) -> sql.Composed:
    """Return the statement that writes the rows that only the backup has."""
    table, rows, columns = sql.Identifier(*item.name), changed_rows(item), written_columns(item)
    if not columns:
        return sql.SQL("insert into {} select from {} where {}").format(table, rows, NEW)
    values = sql.SQL(", ").join(sql.Identifier("s", name) for name in columns)
    return sql.SQL("insert into {} ({}) overriding system value select {} from {} where {}").format(
        table, column_list(columns), values, rows, NEW
    )
