"""Whether the keys of a table are unique across all its pieces, in bounded memory.

Looked at here: keys of whole numbers, dates and times, and texts of one length such as UUIDs, as 64-bit numbers (texts
by a hash). Other keys are left to the server's own constraint, and said to be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

# Rows of a table: 48 MB of 64-bit numbers for each key.
LIMIT = 6_000_000
_LONGEST_TEXT = 64
_MIX = np.uint64(0x9E3779B97F4A7C15)
_MORE = np.uint64(0xBF58476D1CE4E5B9)
_SHIFT = np.uint64(29)
_WORD = 8

Numbers = npt.NDArray[np.uint64]


class UniqueKey:
    """One key of a table of `rows` rows. `duplicates()` says how many repeat an earlier key; None: not looked at."""

    def __init__(self, columns: Sequence[str], rows: int) -> None:
        self.columns = tuple(columns)
        self._numbers: Numbers | None = np.empty(rows, dtype=np.uint64) if rows <= LIMIT else None
        self._filled = 0

    def add(self, piece: pa.Table) -> None:
        """Take a piece of the table."""
        if self._numbers is None:
            return
        numbers = key_numbers([piece.column(name) for name in self.columns])
        end = self._filled + (0 if numbers is None else len(numbers))
        if numbers is None or end > len(self._numbers):
            self._numbers = None
            return
        self._numbers[self._filled : end] = numbers
        self._filled = end

    def duplicates(self) -> int | None:
        """Return the number of rows beyond the first of each key; forgets the keys."""
        if self._numbers is None:
            return None
        known = self._numbers[: self._filled]
        self._numbers = None
        known.sort()
        return int(np.count_nonzero(known[1:] == known[:-1]))


def key_numbers(columns: Sequence[pa.ChunkedArray]) -> Numbers | None:
    """Return one number per row without a null in the key, equal for equal keys; None when that is not known."""
    mixed: Numbers | None = None
    valid = None
    for column in columns:
        whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(whole, pa.ChunkedArray):
            return None
        if whole.null_count:
            # A key with a null in it equals no other.
            mask = pc.is_valid(whole).to_numpy(zero_copy_only=False)
            valid = mask if valid is None else valid & mask
        numbers = _numbers(whole)
        if numbers is None:
            return None
        mixed = numbers if mixed is None else _mix(mixed) ^ numbers
    if mixed is None:
        return None
    return mixed if valid is None else mixed[valid]


def _mix(numbers: Numbers) -> Numbers:
    stirred = numbers * _MIX
    stirred ^= stirred >> _SHIFT
    return stirred * _MORE


def _numbers(column: pa.Array) -> Numbers | None:
    kind = column.type
    if pa.types.is_integer(kind):
        plain = pc.fill_null(column, 0).cast(pa.int64()) if kind != pa.int64() else pc.fill_null(column, 0)
        return np.asarray(plain.to_numpy(zero_copy_only=False), dtype=np.int64).view(np.uint64)
    if pa.types.is_temporal(kind):
        base = pa.int32() if pa.types.is_date32(kind) or pa.types.is_time32(kind) else pa.int64()
        plain = pc.fill_null(column.view(base), 0).cast(pa.int64())
        return np.asarray(plain.to_numpy(zero_copy_only=False), dtype=np.int64).view(np.uint64)
    if pa.types.is_string(kind) and not column.null_count:
        return _text_numbers(column)
    return None


def _text_numbers(column: pa.StringArray) -> Numbers | None:
    count = len(column)
    if not count:
        return np.zeros(0, dtype=np.uint64)
    _, offsets_buffer, data = column.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[column.offset : column.offset + count + 1]
    length = int(offsets[1] - offsets[0])
    if not 0 < length <= _LONGEST_TEXT or np.any(np.diff(offsets) != length):
        return None
    letters = np.frombuffer(data, dtype=np.uint8)[offsets[0] : offsets[-1]].reshape(count, length)
    words = -(-length // _WORD)
    padded = np.zeros((count, words * _WORD), dtype=np.uint8)
    padded[:, :length] = letters
    numbers = np.zeros(count, dtype=np.uint64)
    for word in padded.view(np.uint64).T:
        numbers = _mix(numbers) ^ _mix(word.copy())
    return numbers
