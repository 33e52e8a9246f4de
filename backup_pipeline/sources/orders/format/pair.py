"""Which two files of an order's folder belong together: the table of states of docs/formats-orders.md, as a function.

Both new files stand complete beside their names before the first rename, so whatever moment a process or the power
ended, one data file has the checksum that one meta file names. What the files hold otherwise is not judged here.
"""

from __future__ import annotations

from enum import StrEnum


class PairState(StrEnum):
    """VALID: the two names hold a pair. `…_part`: which parts complete it.

    UNFINISHED: a first export ended before its parts were whole, so there is no order here yet. BROKEN: nothing fits.
    """

    VALID = "valid"
    META_PART = "meta_part"
    DATA_PART = "data_part"
    BOTH_PARTS = "both_parts"
    UNFINISHED = "unfinished"
    BROKEN = "broken"

    @property
    def whole(self) -> bool:
        """Whether there is a pair that counts."""
        return self not in (PairState.UNFINISHED, PairState.BROKEN)


def pair_state(
    data: str | None, meta: str | None, data_part: str | None, meta_part: str | None, *, named: bool = True
) -> PairState:
    """Return which pair counts.

    Args:
        data: checksum of data.csv; None when absent.
        meta: checksum that meta.json names; None when absent or unreadable.
        data_part: checksum of the new data file beside it, likewise.
        meta_part: checksum that the new meta file names, likewise.
        named: whether a file stands at either name, readable or not.

    A valid pair under the final names wins over parts beside it: the export that wrote them was not finished, and
    the next one writes them again.
    """
    if data is not None and data == meta:
        return PairState.VALID
    if data is not None and data == meta_part:
        return PairState.META_PART
    if data_part is not None and data_part == meta:
        return PairState.DATA_PART
    if data_part is not None and data_part == meta_part:
        return PairState.BOTH_PARTS
    return PairState.BROKEN if named else PairState.UNFINISHED
