"""Which values of a row survive the way through data.csv, which keeps text and knows types only by column."""

from __future__ import annotations

from backup_pipeline.sources.orders.format.order import COLUMNS, INTEGER_COLUMNS, RECORD_ID, OrderRow

_NUMERIC_NAMES = ("INT", "REAL", "FLOA", "DOUB", "NUM", "DEC", "BOOL", "DATE")


class TypeCheck:
    """Says why a row cannot be kept as it is; types found to be right once are not inspected again.

    Args:
        columns: name and declared type of each column; numbers survive where the type makes numbers of text.
    """

    def __init__(self, columns: tuple[tuple[str, str], ...]) -> None:
        self._numbers = tuple(
            name in INTEGER_COLUMNS or any(word in kind.upper() for word in _NUMERIC_NAMES) for name, kind in columns
        )
        self._good: set[tuple[type, ...]] = set()

    def problem(self, row: OrderRow) -> str:
        """Return what is wrong with the row's types, "" when nothing is."""
        types = tuple(map(type, row))
        if types in self._good:
            return ""
        if types[RECORD_ID] is not int:
            return f"record_id is {'NULL' if row[RECORD_ID] is None else 'not a whole number'}."
        for name, kind, numbers in zip(COLUMNS, types, self._numbers, strict=True):
            if kind is bytes:
                return f"{name} holds a BLOB, which data.csv cannot keep."
            if kind in (int, float) and not numbers:
                return f"{name} holds a number in a column without a numeric type, which data.csv cannot keep apart."
        self._good.add(types)
        return ""
