"""Rows that a restore would write, as a page shows them. Never part of a plan, and stored nowhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

SHOWN_COLUMNS = 8
"""How many columns besides the key are shown."""
LONGEST_VALUE = 300
"""Characters of a value that are shown."""


@dataclass(frozen=True, slots=True)
class RowsView:
    """Which rows a person asks to see.

    Attributes:
        kind: `added`, rows that only the backup has; `replaced`, rows that differ and take the backup's values.
        hidden: returns which of these columns are not to be shown.
        page: counted from 0.
        size: rows of a page.
    """

    kind: Literal["added", "replaced"]
    hidden: Callable[[Sequence[str]], Collection[str]]
    page: int = 0
    size: int = 25


@dataclass(frozen=True, slots=True)
class Cell:
    """A value as text: as it is live (None also where the row is not there), and as it would be."""

    now: str | None
    then: str | None
    differs: bool = False


@dataclass(frozen=True, slots=True)
class ChangedRows:
    """One page of rows.

    Attributes:
        columns: those that are shown, the key's first.
        key: by which rows are distinguished; empty where the table has none.
        hidden: further columns that are concerned and not to be shown.
        others: how many further columns are concerned, for which there is no room.
        rows: a cell for each column.
        more: whether further rows follow.
    """

    columns: tuple[str, ...]
    key: tuple[str, ...]
    hidden: tuple[str, ...]
    others: int
    rows: tuple[tuple[Cell, ...], ...]
    more: bool
