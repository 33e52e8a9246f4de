"""Rows that a merge would write, read from a table that was compared: key and some columns, before and after."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.model.changed_rows import LONGEST_VALUE, SHOWN_COLUMNS, Cell, ChangedRows, RowsView
from backup_pipeline.postgres.merge.statements import (
    NEW,
    TAKE,
    Staged,
    changed_rows,
    rows_differ,
    written_columns,
)


def page_of_rows(connection: Connection[TupleRow], item: Staged, view: RowsView) -> ChangedRows:
    """Return one page of the rows of a table that would be added or replaced; what is long is cut.

    Args:
        connection: the merge's.
        item: the table, compared.
        view: which rows.
    """
    replaced = view.kind == "replaced"
    source, condition = _source(item, replaced=replaced)
    known = written_columns(item)
    key = [column for column in item.facts.key if column in known]
    concerned = [column for column in known if column not in key]
    if replaced:
        concerned = _that_differ(connection, concerned, source, condition)
    hidden = set(view.hidden([*key, *concerned]))
    open_columns = [column for column in concerned if column not in hidden]
    shown = [*(column for column in key if column not in hidden), *open_columns[:SHOWN_COLUMNS]]
    order = sql.SQL(", ").join([*(sql.Identifier("s", column) for column in key), sql.SQL("s.ctid")])
    query = sql.SQL("select {} from {} where {} order by {} limit {} offset {}").format(
        sql.SQL(", ").join(part for column in shown for part in _cell(column, replaced=replaced)) or sql.SQL("1"),
        source,
        condition,
        order,
        view.size + 1,
        view.page * view.size,
    )
    found = connection.execute(query).fetchall()
    return ChangedRows(
        columns=tuple(shown),
        key=tuple(key),
        hidden=tuple(column for column in [*key, *concerned] if column in hidden),
        others=len(open_columns[SHOWN_COLUMNS:]),
        rows=tuple(_cells(row, len(shown)) for row in found[: view.size]),
        more=len(found) > view.size,
    )


def _source(item: Staged, *, replaced: bool) -> tuple[sql.Composable, sql.Composable]:
    """Return what stands after FROM and after WHERE: rows `s` of the backup, and `t`, which they replace."""
    if not replaced:
        return changed_rows(item), NEW
    on = sql.SQL(" and ").join(sql.SQL("t.{0} = s.{0}").format(sql.Identifier(column)) for column in item.facts.key)
    source = sql.SQL("{} join only {} t on {}").format(
        changed_rows(item), sql.Identifier(*item.name), on if item.facts.key else sql.SQL("false")
    )
    return source, sql.SQL("not {} and {}").format(NEW, TAKE)


def _that_differ(
    connection: Connection[TupleRow], columns: Sequence[str], source: sql.Composable, condition: sql.Composable
) -> list[str]:
    if not columns:
        return []
    each = sql.SQL(", ").join(sql.SQL("bool_or({})").format(rows_differ([column])) for column in columns)
    row = connection.execute(sql.SQL("select {} from {} where {}").format(each, source, condition)).fetchone()
    return [column for column, differs in zip(columns, row or (), strict=False) if differs]


def _cell(column: str, *, replaced: bool) -> tuple[sql.Composable, ...]:
    now, then = (
        sql.SQL("pg_catalog.left({}::pg_catalog.text, {})").format(sql.Identifier(side, column), LONGEST_VALUE + 1)
        for side in ("t", "s")
    )
    return (now, then, rows_differ([column])) if replaced else (sql.SQL("null"), then, sql.SQL("false"))


def _cells(row: TupleRow, count: int) -> tuple[Cell, ...]:
    return tuple(Cell(row[3 * number], row[3 * number + 1], row[3 * number + 2]) for number in range(count))
