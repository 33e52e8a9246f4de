"""The figures of what a Parquet file really holds, in the form in which the server gave those of the table. Pure.

An order-free comparison of content: per column the number of values, and the sum of integers and decimals, the bytes
of texts, the number of true values, the smallest and the largest date or time. A row lost, doubled or cut, a column
swapped or a value that changed its type is noticed; two texts of one length that changed places inside a column are not
(the file's SHA-256 guards it from then on, and a drill compares the dump row by row).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline.postgres.export.profile import Figures
from backup_pipeline.postgres.export.source_columns import SourceColumn
from backup_pipeline.tables.arrow_types import ColumnForm

# Wide enough for the sum of any decimal that a file can hold.
_EXACT = Context(prec=100)
_LOW = np.uint64(0xFFFFFFFF)


@dataclass
class _Column:
    form: ColumnForm
    values: int = 0
    total: Any = None
    smallest: Any = None
    largest: Any = None

    def add(self, data: pa.ChunkedArray) -> None:
        self.values += len(data) - data.null_count
        if not self.form.exact or len(data) == data.null_count:
            return
        match family := self.form.family:
            case "integer":
                self._plus(_integer_sum(data))
            case "decimal":
                self._plus(_decimal_sum(data))
            case "boolean":
                self._plus(pc.sum(data).as_py())
            case "text" | "bytes":
                self._plus(pc.sum(pc.binary_length(data)).as_py())
            case "date" | "timestamp" | "timestamptz" | "time":
                # Without its zone, which is UTC: for one Arrow loads pandas.
                bounds = pc.min_max(data.cast(pa.timestamp("us")) if family == "timestamptz" else data).as_py()
                self._bound(bounds["min"], bounds["max"])
            case "float":
                bounds = pc.min_max(data.filter(pc.invert(pc.is_nan(data)))).as_py()
                self._bound(bounds["min"], bounds["max"])
                if pc.any(pc.is_nan(data)).as_py():
                    self.total = "NaN"
            case _:
                pass

    def _plus(self, value: Any) -> None:
        if self.total is None:
            self.total = value
        elif isinstance(value, Decimal):
            self.total = _EXACT.add(self.total, value)
        else:
            self.total += value

    def _bound(self, smallest: Any, largest: Any) -> None:
        if smallest is None:
            return
        self.smallest = smallest if self.smallest is None else min(self.smallest, smallest)
        self.largest = largest if self.largest is None else max(self.largest, largest)


def _integer_sum(data: pa.ChunkedArray) -> int:
    total = 0
    for chunk in data.chunks:
        # By DLPack: for any other way to NumPy, and for each value of Python that it takes, Arrow loads pandas.
        plain: Any = np.from_dlpack(chunk.drop_null())
        if plain.dtype.itemsize < 8:
            total += int(plain.sum(dtype=np.int64))
            continue
        # In two halves, so that no sum of 64-bit values runs over.
        total += (int((plain >> 32).sum(dtype=np.int64)) << 32) + int((plain.astype(np.uint64) & _LOW).sum())
    return total


def _decimal_sum(data: pa.ChunkedArray) -> Decimal:
    kind = data.type
    wide = pa.decimal128(38, kind.scale) if kind.precision <= 28 else pa.decimal256(76, kind.scale)
    total = Decimal(0)
    for chunk in data.chunks:
        total = _EXACT.add(total, pc.sum(chunk.cast(wide)).as_py() or Decimal(0))
    return total


class TableFigures:
    """Adds up the figures of a table that comes in pieces."""

    def __init__(self, forms: Sequence[ColumnForm]) -> None:
        self.rows = 0
        self._columns = [_Column(form) for form in forms]

    def add(self, piece: pa.Table) -> None:
        """Take a piece."""
        self.rows += piece.num_rows
        for column, data in zip(self._columns, piece.columns, strict=True):
            column.add(data)

    def differences(self, columns: Sequence[SourceColumn], expected: Sequence[Figures]) -> list[tuple[str, str]]:
        """Return (column, what differs) for every figure that is not the server's; no values, only what kind."""
        found = []
        for mine, source, theirs in zip(self._columns, columns, expected, strict=True):
            if mine.values != theirs.values:
                found.append((source.name, f"{mine.values} values instead of {theirs.values}"))
            elif not mine.form.exact or not mine.values:
                continue
            elif theirs.total is not None and not _equal_total(mine.total, theirs.total):
                found.append((source.name, "another total"))
            elif theirs.smallest is not None and not _equal_bounds(mine, theirs):
                found.append((source.name, "another smallest or largest value"))
        return found


def _equal_total(mine: Any, theirs: str) -> bool:
    return mine is not None and Decimal(str(mine)) == Decimal(theirs)


def _equal_bounds(mine: _Column, theirs: Figures) -> bool:
    assert theirs.smallest is not None
    assert theirs.largest is not None
    if mine.form.family == "float":
        # The server counts NaN as the largest.
        if (theirs.largest == "NaN") != (mine.total == "NaN"):
            return False
        smallest_equal = theirs.smallest == "NaN" or _same_float(mine, mine.smallest, theirs.smallest)
        return smallest_equal and (theirs.largest == "NaN" or _same_float(mine, mine.largest, theirs.largest))
    return _text(mine.smallest) == _bare(theirs.smallest) and _text(mine.largest) == _bare(theirs.largest)


def _same_float(column: _Column, mine: Any, theirs: str) -> bool:
    if mine is None:
        return False
    exact = np.float32(theirs) if column.form.arrow_type == pa.float32() else np.float64(theirs)
    return bool(exact == mine)


def _text(value: Any) -> str:
    """Write a date or time as PostgreSQL does under the pinned settings, without the zone (always UTC)."""
    if isinstance(value, dt.datetime):
        text = value.isoformat(sep=" ")
    else:
        text = str(value.isoformat()) if value is not None else ""
    return text.rstrip("0").rstrip(".") if "." in text else text


def _bare(text: str) -> str:
    return text.removesuffix("+00")
