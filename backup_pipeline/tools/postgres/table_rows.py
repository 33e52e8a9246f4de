"""The queries that read a table's rows: whole, in ranges of pages, as JSON. The reading itself is `copy`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from backup_pipeline.tools.postgres.fingerprint import row_alias

RANGE_BYTES = 32 << 20
# Ranges of row addresses are read without a scan of the whole table since version 14.
_TID_RANGE_SINCE = 14


@dataclass(frozen=True, slots=True)
class PageRange:
    """Pages from `first` up to, not including, `end`; None means to the end of the table."""

    first: int = 0
    end: int | None = None

    @property
    def whole(self) -> bool:
        """Whether it is all of the table."""
        return self.first == 0 and self.end is None


def page_ranges(pages: int, size: int, server_major: int, *, range_bytes: int = RANGE_BYTES) -> list[PageRange]:
    """Cut a table into ranges of about `range_bytes`, TOAST included; one range when it is small.

    Args:
        pages: pages of the table without TOAST.
        size: bytes with TOAST.
        server_major: older servers would scan the whole table for each range.
        range_bytes: bytes of one range.
    """
    count = min(pages, size // range_bytes)
    if count < 2 or server_major < _TID_RANGE_SINCE:
        return [PageRange()]
    bounds = [pages * index // count for index in range(count)]
    return [PageRange(first, end) for first, end in zip(bounds, [*bounds[1:], None], strict=True)]


def select_rows(
    schema: str,
    table: str,
    columns: Sequence[str],
    *,
    partitioned: bool = False,
    pages: PageRange | None = None,
) -> bytes:
    """Return the SELECT of the named columns (generated ones too) as bytes."""
    listed = sql.SQL(", ").join(sql.Identifier(name) for name in columns)
    query = sql.SQL("select {} from {}{}").format(listed, _only(partitioned), sql.Identifier(schema, table))
    if pages is not None and not pages.whole:
        query += sql.SQL(" where ctid >= {}::tid").format(sql.Literal(f"({pages.first},0)"))
        if pages.end is not None:
            query += sql.SQL(" and ctid < {}::tid").format(sql.Literal(f"({pages.end},0)"))
    return query.as_bytes(None)


def select_json(schema: str, table: str, columns: Sequence[str], *, partitioned: bool = False) -> bytes:
    """Return the SELECT of every row as one line of JSON.

    Text of a `json` column may hold line ends between its tokens, never inside a string: a blank says the same.
    """
    alias = row_alias(columns)
    query = sql.SQL("select translate(row_to_json({})::text, e'\\r\\n', '  ') from {}{} as {}").format(
        sql.Identifier(alias), _only(partitioned), sql.Identifier(schema, table), sql.Identifier(alias)
    )
    return query.as_bytes(None)


def _only(partitioned: bool) -> sql.SQL:
    return sql.SQL("" if partitioned else "only ")
