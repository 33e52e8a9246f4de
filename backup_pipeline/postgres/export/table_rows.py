"""The queries that read a table's rows: whole, in ranges of pages, as JSON. The reading itself is `copy`."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from psycopg import sql

from backup_pipeline.postgres.catalog.partitions import Leaf, rows_of_leaves
from backup_pipeline.postgres.export.fingerprint import row_alias

RANGE_BYTES = 32 << 20
# Ranges of row addresses are read without a scan of the whole table since version 14.
_TID_RANGE_SINCE = 14
# So that a query stays short enough to be an argument of psql, and quick to plan.
_LEAVES_TOGETHER = 50
_BYTES_IN_JSON = sql.SQL(
    "case when {0} is distinct from null then json_build_object('$text', "
    "translate(encode(convert_to({0}::text, 'SQL_ASCII'), 'base64'), e'\\n', '')) end as {0}"
)


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

    A range has a power of two pages, so that the ranges of a table that grows stay the same.

    Args:
        pages: pages of the table without TOAST.
        size: bytes with TOAST.
        server_major: older servers would scan the whole table for each range.
        range_bytes: bytes of one range.
    """
    if size < 2 * range_bytes or pages < 2 or server_major < _TID_RANGE_SINCE:
        return [PageRange()]
    step = 1 << max(0, round(math.log2(range_bytes * pages / size)))
    bounds = range(0, pages, step)
    return [PageRange(first, end) for first, end in zip(bounds, [*bounds[1:], None], strict=True)]


@dataclass(frozen=True)
class RowRange:
    """A share of a table's rows: what stands after FROM, which pages of it, and about how many bytes that is."""

    rows: sql.Composable
    pages: PageRange
    bytes: int


def row_ranges(
    rows: sql.Composable, pages: int, size: int, server_major: int, *, range_bytes: int = RANGE_BYTES
) -> list[RowRange]:
    """Return the ranges of a table that is not partitioned; arguments as of `page_ranges`."""
    found = page_ranges(pages, size, server_major, range_bytes=range_bytes)
    return [RowRange(rows, part, size // len(found)) for part in found]


def leaf_ranges(
    columns: Sequence[str], leaves: Sequence[Leaf], server_major: int, *, range_bytes: int = RANGE_BYTES
) -> list[RowRange]:
    """Return the ranges of a partitioned table: large leaves in ranges of pages, small ones several in one."""
    # In the order that they come in, by name: by size it would change from set to set.
    local = [leaf for leaf in leaves if not leaf.foreign]
    found = []
    together: list[Leaf] = []

    def flush() -> None:
        if together:
            size = sum(leaf.bytes for leaf in together)
            found.append(RowRange(rows_of_leaves(columns, together), PageRange(), size))
            together.clear()

    for leaf in local:
        if leaf.bytes >= range_bytes:
            flush()
            own = rows_of_leaves(columns, [leaf])
            found += row_ranges(own, leaf.pages, leaf.bytes, server_major, range_bytes=range_bytes)
            continue
        if sum(other.bytes for other in together) + leaf.bytes > range_bytes or len(together) == _LEAVES_TOGETHER:
            flush()
        together.append(leaf)
    flush()
    return found


def select_rows(rows: sql.Composable, columns: Sequence[str], *, pages: PageRange | None = None) -> bytes:
    """Return the SELECT of the named columns (generated ones too) as bytes.

    Args:
        rows: what stands after FROM (`partitions.rows_of`).
        columns: in the order wanted.
        pages: of one table.
    """
    listed = sql.SQL(", ").join(sql.Identifier(name) for name in columns)
    query = sql.SQL("select {} from {} as t").format(listed, rows)
    if pages is not None and not pages.whole:
        query += sql.SQL(" where ctid >= {}::tid").format(sql.Literal(f"({pages.first},0)"))
        if pages.end is not None:
            query += sql.SQL(" and ctid < {}::tid").format(sql.Literal(f"({pages.end},0)"))
    return query.as_bytes(None)


def select_json(rows: sql.Composable, columns: Sequence[str], *, raw: Collection[str] = ()) -> bytes:
    """Return the SELECT of every row as one line of JSON.

    Text of a `json` column may hold line ends between its tokens, never inside a string: a blank says the same.

    Args:
        rows: what stands after FROM (`partitions.rows_of`).
        columns: the table's, in order.
        raw: columns whose text is not UTF-8, which JSON must be: `{"$text": "<base64 of its bytes>"}` stands for it.
    """
    alias = sql.Identifier(row_alias(columns))
    if raw:
        listed = sql.SQL(", ").join(
            _BYTES_IN_JSON.format(sql.Identifier(name)) if name in raw else sql.Identifier(name) for name in columns
        )
        rows = sql.SQL("(select {} from {} as {})").format(listed, rows, alias)
    query = sql.SQL("select translate(row_to_json({})::text, e'\\r\\n', '  ') from {} as {}").format(alias, rows, alias)
    return query.as_bytes(None)
