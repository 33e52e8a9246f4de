"""One pass of the server over a table inside the snapshot: rows, fingerprint, and figures of every column.

The figures decide how a column can be stored, and what was written is compared with them: number of values, sum of
integers and decimals, bytes of texts, true values, smallest and largest date or time.
"""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.model.record import Fingerprint
from backup_pipeline.postgres.catalog.partitions import Leaf
from backup_pipeline.postgres.export.copy import takes_any_bytes
from backup_pipeline.postgres.export.mark import TableMark, TableRows, mark_of, mark_questions
from backup_pipeline.postgres.export.source_columns import SourceColumn
from backup_pipeline.tables.arrow_types import ColumnForm, family_of

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
        text_forms: see `TableMark`.
    """

    fingerprint: Fingerprint
    columns: tuple[SourceColumn, ...]
    figures: tuple[Figures, ...]
    forms: tuple[ColumnForm, ...]
    rows: sql.Composable
    leaves: tuple[Leaf, ...] | None = None
    text_forms: str = ""


def profile_rows(
    connection: Connection[TupleRow], read: TableRows, *, utf8: bool = True, mark: TableMark | None = None
) -> TableProfile:
    """Read a table once on the server, for its figures; and for its mark, where that is not known."""
    any_bytes = takes_any_bytes(connection)
    # Bytes that come as they are can be counted too.
    asked = [
        part
        for column in read.columns
        for part in (*_questions(column, utf8 or any_bytes), _raw_question(column) if any_bytes else _NONE)
    ]
    # Arrays: a result has at most 1664 columns, fewer than a table may need answers.
    query = sql.SQL("select array[{}]::text[], count(*), array[{}]::text[] from {} as {}").format(
        sql.SQL(", ").join(mark_questions(read) if mark is None else []),
        sql.SQL(", ").join(asked),
        read.rows,
        sql.Identifier(read.alias),
    )
    row = connection.execute(query).fetchone()
    assert row is not None
    mark = mark or mark_of(connection, read, row[0], int(row[1]))
    answers: list[str | None] = row[2]
    figures = tuple(
        Figures(int(answers[at] or 0), answers[at + 1], answers[at + 2], answers[at + 3], answers[at + 4] == "true")
        for at in range(0, len(answers), _ANSWERS)
    )
    forms = tuple(_form(column, found) for column, found in zip(read.columns, figures, strict=True))
    return TableProfile(
        mark.fingerprint, read.columns, figures, forms, read.rows, read.leaves, text_forms=mark.text_forms
    )


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
