"""One 64-bit number for the key of each row of an Arrow table: equal exported keys have equal numbers. Pure.

A key of one column of at most 64 bits gives a number of its own to each value; any other key is hashed with a seed that
is drawn anew, so that no data can be made to collide. Whether equal numbers are equal keys is `tables.keys`' matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Numbers = npt.NDArray[np.uint64]

# The finaliser of splitmix64, one round less: each step can be undone, so two numbers never become one.
_MIX = np.uint64(0x9E3779B97F4A7C15)
_MORE = np.uint64(0xBF58476D1CE4E5B9)
_SHIFT = np.uint64(29)
_NULL = np.uint64(0xA5A5A5A5A5A5A5A5)
_NAN = np.float64("nan")
_WORD = 8
# Longer texts are hashed one by one: a loop over their units would be slower.
_LONGEST_TEXT = 4096


def mixed(numbers: Numbers) -> Numbers:
    """Return the numbers spread over all 64 bits; different numbers stay different."""
    return _mix(numbers.copy())


def _mix(numbers: Numbers) -> Numbers:
    """The same in place: what is made anew for each unit of a text costs as much as the arithmetic."""
    numbers *= _MIX
    numbers ^= numbers >> _SHIFT
    numbers *= _MORE
    return numbers


def key_numbers(columns: Sequence[pa.ChunkedArray], seed: int, *, nulls_distinct: bool = True) -> Numbers:
    """Return one number per row; rows with a null in the key are skipped where nulls are distinct from each other.

    Args:
        columns: the key's, of one table.
        seed: the same for all pieces of a table.
        nulls_distinct: False when a null equals a null (NULLS NOT DISTINCT).
    """
    parts = [_column_numbers(column, seed) for column in columns]
    numbers = parts[0]
    if len(parts) > 1:
        numbers = np.full(len(numbers), seed, dtype=np.uint64)
        for part in parts:
            numbers = mixed(numbers ^ part)
    valid = rows_without_null(columns) if nulls_distinct else None
    return numbers if valid is None else numbers[valid]


def row_numbers(table: pa.Table, seed: int, long: Sequence[tuple[int, int, int]] = ()) -> Numbers:
    """Return one number per row, of all its values as they are stored: -0 is not 0 here.

    Args:
        table: with one column at least.
        seed: the same for all pieces that are compared.
        long: (row, column, number) of values that were hashed without the table (`LongValueHash`).
    """
    numbers = np.full(table.num_rows, seed, dtype=np.uint64)
    for index, column in enumerate(table.columns):
        kind = column.type
        if pa.types.is_floating(kind):
            column = pa.chunked_array([_bits(chunk) for chunk in column.chunks], pa.int64())
        elif pa.types.is_nested(kind):
            column = column.cast(pa.string())
        found = _column_numbers(column, seed)
        for row, _, number in (one for one in long if one[1] == index):
            found[row] = number
        numbers = mixed(numbers ^ found)
    return numbers


def _bits(column: pa.Array) -> pa.Array:
    """Return the bits of floating-point values; one NaN is as good as another."""
    values = np.array(_plain(column))
    values[np.isnan(values)] = np.nan
    validity = column.is_valid().buffers()[1] if column.null_count else None
    kind = pa.int32() if column.type.bit_width == 32 else pa.int64()
    return pa.Array.from_buffers(kind, len(column), [validity, pa.py_buffer(values)]).cast(pa.int64())


def rows_without_null(columns: Sequence[pa.ChunkedArray]) -> npt.NDArray[np.bool_] | None:
    """Return which rows have a value in every column; None when all have."""
    valid = None
    for column in columns:
        if column.null_count:
            mask = ~nulls_of(column)
            valid = mask if valid is None else valid & mask
    return valid


def nulls_of(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Return which values are null."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return np.concatenate([np.zeros(0, dtype=np.bool_), *(_flags(pc.is_null(chunk)) for chunk in chunks)])


def _flags(column: pa.BooleanArray) -> npt.NDArray[np.bool_]:
    # By DLPack, which knows neither nulls nor bits: for every other way Arrow loads pandas first.
    return np.from_dlpack(column.cast(pa.uint8())).view(np.bool_)


def countable(kind: pa.DataType) -> bool:
    """Return whether keys of this type can be numbered: all that exports have but SQLite's mixed columns."""
    return not pa.types.is_nested(kind)


def _column_numbers(column: pa.ChunkedArray, seed: int) -> Numbers:
    found = [_numbers(chunk, seed) for chunk in column.chunks]
    if not found:
        return np.zeros(0, dtype=np.uint64)
    return found[0] if len(found) == 1 else np.concatenate(found)


def _numbers(column: pa.Array, seed: int) -> Numbers:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        numbers = _text_numbers(column, np.int32, seed)
    elif pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        numbers = _text_numbers(column, np.int64, seed)
    elif pa.types.is_decimal(kind):
        numbers = _wide_numbers(column, seed)
    else:
        numbers = narrow_numbers(column)
    if column.null_count:
        numbers[nulls_of(column)] = _NULL
    return numbers


def is_narrow(kind: pa.DataType) -> bool:
    """Return whether a type's values fit into 64 bits, so that `narrow_numbers` gives each its own."""
    return not (
        pa.types.is_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_decimal(kind)
    )


def narrow_numbers(column: pa.Array) -> Numbers:
    """Return a number of its own for each value of a type of at most 64 bits: -0 as 0 and one NaN, as PostgreSQL.

    What stands for a null is not said.
    """
    kind = column.type
    if pa.types.is_floating(kind):
        values = np.array(_plain(column.cast(pa.float64())))
        values += 0.0
        values[np.isnan(values)] = _NAN
        return values.view(np.uint64)
    if pa.types.is_temporal(kind):
        column = column.view(pa.int32() if kind.bit_width == 32 else pa.int64())
    return np.array(_plain(column.cast(pa.int64()))).view(np.uint64)


def _plain(column: pa.Array) -> npt.NDArray[Any]:
    """Return numbers where they lie, and for a null whatever lies there."""
    if column.null_count:
        # To fill them Arrow would make a scalar of Python's zero, and loads pandas for that.
        column = pa.Array.from_buffers(column.type, len(column), [None, column.buffers()[1]], offset=column.offset)
    return np.from_dlpack(column)


def _wide_numbers(column: pa.Array, seed: int) -> Numbers:
    units = column.type.bit_width // 64
    data = np.frombuffer(column.buffers()[1], dtype="<u8", count=(column.offset + len(column)) * units)
    numbers = np.full(len(column), seed, dtype=np.uint64)
    for unit in data.reshape(-1, units)[column.offset :].T:
        numbers = mixed(numbers ^ unit)
    return numbers


def _text_numbers(column: pa.Array, offset_type: type[np.signedinteger], seed: int) -> Numbers:
    count = len(column)
    sizes = pc.binary_length(column)
    if count and (pc.max(sizes).as_py() or 0) > _LONGEST_TEXT:
        return _long_text_numbers(column, sizes, offset_type, seed)
    _, offsets_buffer, data_buffer = column.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=offset_type)[column.offset : column.offset + count + 1]
    starts = (offsets[:-1] - offsets[0]).astype(np.int64)
    lengths = np.diff(offsets).astype(np.int64)
    shortest, longest = int(lengths.min(initial=_LONGEST_TEXT)), int(lengths.max(initial=0))
    data = np.frombuffer(data_buffer or b"", dtype=np.uint8)[offsets[0] : offsets[-1]]
    padded = np.concatenate([data, np.zeros(_WORD, dtype=np.uint8)])
    # A unit from every byte on, without a copy.
    units = np.ndarray(shape=(len(data) + 1,), dtype="<u8", buffer=padded, strides=(1,))
    numbers = mixed(lengths.astype(np.uint64) ^ np.uint64(seed))
    rows: npt.NDArray[np.int64] | None = None  # all of them
    for at in range(0, longest, _WORD):
        if shortest <= at:
            reach = lengths > at
            rows = np.flatnonzero(reach) if rows is None else rows[reach]
            starts, lengths = starts[reach], lengths[reach]
        # Of texts that are all as long (UUIDs, digests) the units stand at equal distances.
        unit = units[at::longest][:count].copy() if shortest == longest else units[starts + at]
        if shortest < at + _WORD:
            unused = (np.maximum(at + _WORD - lengths, 0) * 8).astype(np.uint64)
            unit <<= unused
            unit >>= unused
        if rows is None:
            numbers ^= unit
            _mix(numbers)
        else:
            unit ^= numbers[rows]
            numbers[rows] = _mix(unit)
    return numbers


def _long_text_numbers(column: pa.Array, sizes: pa.Array, offset_type: type[np.signedinteger], seed: int) -> Numbers:
    """Number texts of which some are long: these one by one, where they lie, without a second copy of them."""
    is_long = (_plain(sizes) > _LONGEST_TEXT) & ~nulls_of(sizes)
    short = np.flatnonzero(~is_long)
    numbers = np.empty(len(column), dtype=np.uint64)
    rows = pa.Array.from_buffers(pa.int64(), len(short), [None, pa.py_buffer(short)])
    numbers[short] = _text_numbers(column.take(rows), offset_type, seed)
    for row in np.flatnonzero(is_long).tolist():
        value = LongValueHash(seed)
        value.add(column[row].as_buffer())
        numbers[row] = value.number
    return numbers


class LongValueHash:
    """The number of a text or byte string of more than 4,096 bytes, which may come in pieces.

    Args:
        seed: as of `row_numbers`.
    """

    def __init__(self, seed: int) -> None:
        self._hash = hashlib.blake2b(digest_size=_WORD, key=seed.to_bytes(_WORD, "little"))

    def add(self, data: bytes | memoryview | pa.Buffer) -> None:
        """Take the next bytes."""
        self._hash.update(data)

    @property
    def number(self) -> int:
        """The number of all that was taken."""
        return int.from_bytes(self._hash.digest(), "little")
