"""Whether an order's folder agrees with the row that a backup set holds. Both change while time passes; no I/O here."""

from __future__ import annotations

from enum import StrEnum

from backup_pipeline.sources.orders.format.newest import instant_of
from backup_pipeline.sources.orders.format.order import CREATED_AT, UPDATED_AT, OrderRow

_DAY = 86_400 * 1_000_000
"""Microseconds by which a row's time may be off: applications write it without its zone."""


class Agreement(StrEnum):
    """EQUAL; AHEAD: the folder is newer than the set; BEHIND: the row is newer than the last export, and so not in the
    folder yet. LOST: the archive lacks the order; UNLIKE: it holds something else, and no time explains that."""

    EQUAL = "equal"
    AHEAD = "ahead"
    BEHIND = "behind"
    LOST = "lost"
    UNLIKE = "unlike"


def agreement(in_set: OrderRow, in_archive: OrderRow | None, *, same: bool, captured: int, exported: int) -> Agreement:
    """Judge one order.

    Args:
        in_set: the row that the set holds.
        in_archive: the row as restored from the folders; None when no folder has it.
        same: whether both would make the same data.csv.
        captured: when the set was begun; microseconds since 1970.
        exported: when the archive was last written, likewise.
    """
    if same:
        return Agreement.EQUAL
    changed = max(_instant(in_set, UPDATED_AT), _instant(in_set, CREATED_AT))
    not_yet = changed > exported - _DAY
    if in_archive is None:
        return Agreement.BEHIND if not_yet else Agreement.LOST
    ours, theirs = _instant(in_set, UPDATED_AT), _instant(in_archive, UPDATED_AT)
    if theirs > ours or (theirs == ours and exported > captured):
        return Agreement.AHEAD
    return Agreement.BEHIND if theirs < ours and not_yet else Agreement.UNLIKE


def _instant(row: OrderRow, column: int) -> int:
    value = row[column]
    return instant_of(value if isinstance(value, str) else None)
