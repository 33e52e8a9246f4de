"""Rows in COPY's CSV form into Arrow tables of exact types. Pure: bytes in, tables out."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from pyarrow import csv

from backup_pipeline.errors import ValidationError
from backup_pipeline.tables.arrow_types import ColumnForm
from backup_pipeline.tables.csv_rows import FieldTaker
from backup_pipeline.tables.key_numbers import LongValueHash, nulls_of

# Bytes. Fields of this length are rare, and searched only in pieces that hold a longer row than others.
LONG_FIELD = 8 << 20
_FIELD = re.compile(rb'("[^"]*+(?:""[^"]*+)*+"|[^,\n"]*+)[,\n]')
_HEX_PREFIX = 2


class CsvDecoder:
    """Decodes pieces of whole rows. COPY writes NULL as nothing and an empty string as `""`; both are kept apart."""

    def __init__(self, forms: list[ColumnForm], schema: pa.Schema) -> None:
        self._schema = schema
        # Positions stand for names: two columns of a file must not meet, and names may hold anything.
        self._names = [f"c{index}" for index in range(len(forms))]
        self._hex = [i for i, form in enumerate(forms) if pa.types.is_binary(form.arrow_type) and not form.raw]
        self._wide = {i: f.arrow_type for i, f in enumerate(forms) if pa.types.is_decimal256(f.arrow_type)}
        self._convert = csv.ConvertOptions(
            column_types={name: form.csv_type for name, form in zip(self._names, forms, strict=True)},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t"],
            false_values=["f"],
            timestamp_parsers=[csv.ISO8601],
        )
        self._parse = csv.ParseOptions(
            delimiter=",",
            quote_char='"',
            double_quote=True,
            escape_char=False,
            newlines_in_values=True,
            ignore_empty_lines=False,
        )

    def hashing(self, seed: int) -> Callable[[int], FieldTaker]:
        """Return the takers of long fields that are only hashed, for `csv_rows.whole_rows`."""
        return lambda column: HashedValue(seed, hexadecimal=column in self._hex)

    def keeping(self, column: int) -> FieldTaker:
        """Return the taker of a long field that becomes a value of the table, for `csv_rows.whole_rows`."""
        return _KeptValue(self._schema.field(column).type, hexadecimal=column in self._hex)

    def decode(self, piece: bytes | memoryview, taken: Sequence[tuple[int, int, pa.Array]] = ()) -> pa.Table:
        """Return the rows of `piece` (whole rows) as a table of the schema.

        Args:
            piece: the rows.
            taken: (row, column, array of one value) of what was taken out of them.

        Raises:
            ValidationError: a value does not fit its column's type; the value is not named.
        """
        short, long = without_long_fields(piece, len(self._names)) if len(piece) > LONG_FIELD else (piece, [])
        table = self._read(short)
        columns = list(table.columns)
        for index in self._hex:
            columns[index] = pa.chunked_array([unhex(chunk) for chunk in columns[index].chunks], type=pa.binary())
        for index, kind in self._wide.items():
            columns[index] = columns[index].cast(kind)
        values = [(row, index, self._long_value(index, field)) for row, index, field in long]
        for row, index, value in [*values, *taken]:
            before, after = columns[index].slice(0, row), columns[index].slice(row + 1)
            columns[index] = pa.chunked_array([*before.chunks, value, *after.chunks])
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _long_value(self, column: int, field: memoryview) -> pa.Array:
        taker = self.keeping(column)
        quoted = bytes(field[:1]) == b'"'
        taker.take(field[1:-1].tobytes().replace(b'""', b'"') if quoted else field.tobytes())
        return taker.finish()

    def _read(self, piece: bytes | bytearray | memoryview) -> pa.Table:
        try:
            return csv.read_csv(
                pa.BufferReader(pa.py_buffer(piece)),
                csv.ReadOptions(column_names=self._names, use_threads=False, block_size=len(piece) + 1),
                self._parse,
                self._convert,
            )
        except pa.ArrowInvalid as error:
            # Arrow's message holds the value; only the column's number may be reported.
            number = str(error).partition("CSV column #")[2].partition(":")[0]
            column = self._schema.field(int(number)).name if number.isdigit() else "unknown"
            raise ValidationError(
                "A value does not fit the type of its column.",
                where=f"column {column}",
                remedy="Report this with the column's PostgreSQL type.",
            ) from None


class LineCount:
    """Counts the ends of lines of a text that comes in pieces of any size; with `quoted` those outside quotes."""

    def __init__(self, *, quoted: bool) -> None:
        self.count = 0
        self._quoted = quoted
        self._inside = 0

    def add(self, piece: bytes) -> None:
        """Take the next piece."""
        if not self._quoted:
            self.count += piece.count(b"\n")
            return
        parts = piece.split(b'"')
        self.count += sum(part.count(b"\n") for part in parts[self._inside :: 2])
        self._inside ^= (len(parts) - 1) & 1


def without_long_fields(piece: bytes | memoryview, columns: int) -> tuple[bytearray, list[tuple[int, int, memoryview]]]:
    """Return a piece with an empty text for each field longer than LONG_FIELD, and (row, column, field) of these.

    Arrow's reader would hold a long field several times over.
    """
    short = bytearray()
    long = []
    kept = 0
    whole = memoryview(piece)
    for number, field in enumerate(_FIELD.finditer(piece)):
        start, end = field.span(1)
        if end - start > LONG_FIELD:
            short += whole[kept:start]
            short += b'""'
            kept = end
            long.append((number // columns, number % columns, whole[start:end]))
    short += whole[kept:]
    return short, long


class _LongValue:
    """Takes a long text, or long bytes as hexadecimal digits, in pieces."""

    def __init__(self, *, hexadecimal: bool) -> None:
        self._hexadecimal = hexadecimal
        self._begun = False
        self._half = b""

    def take(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._hexadecimal:
            data = self._half + (data if self._begun else data[_HEX_PREFIX:])
            self._begun = True
            even = len(data) & ~1
            self._half = data[even:]
            data = binascii.unhexlify(memoryview(data)[:even])
        self._add(data)

    def _add(self, data: bytes) -> None:
        raise NotImplementedError


class _KeptValue(_LongValue):
    def __init__(self, kind: pa.DataType, *, hexadecimal: bool) -> None:
        super().__init__(hexadecimal=hexadecimal)
        self._kind = kind
        self._value = bytearray()

    def _add(self, data: bytes) -> None:
        self._value += data

    def finish(self) -> pa.Array:
        """Return an array of the one value, in the memory that it was gathered in."""
        ends = pa.py_buffer(np.array([0, len(self._value)], dtype=np.int32))
        return pa.Array.from_buffers(self._kind, 1, [None, ends, pa.py_buffer(self._value)])


class HashedValue(_LongValue):
    """Takes a long value of which only the number in its row's hash is wanted (`key_numbers.row_numbers`)."""

    def __init__(self, seed: int, *, hexadecimal: bool = False) -> None:
        super().__init__(hexadecimal=hexadecimal)
        self._hash = LongValueHash(seed)

    def _add(self, data: bytes) -> None:
        self._hash.add(data)

    def finish(self) -> int:
        """Return the number that stands for the value."""
        return self._hash.number


def unhex(texts: pa.StringArray) -> pa.BinaryArray:
    r"""Return the bytes that an array of `\x…` texts stands for; NULL stays NULL. Without a loop over values."""
    count = len(texts)
    _, offsets_buffer, data_buffer = texts.buffers()
    first = texts.offset
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[first : first + count + 1].astype(np.int64)
    lengths = np.diff(offsets)
    if texts.null_count:
        lengths[nulls_of(texts)] = 0
    data = np.frombuffer(data_buffer or b"", dtype=np.uint8)[offsets[0] : offsets[-1]]
    starts = (offsets[:-1] - offsets[0])[lengths >= _HEX_PREFIX]
    keep = np.ones(len(data), dtype=bool)
    keep[starts] = False
    keep[starts + 1] = False
    plain = binascii.unhexlify(data[keep].tobytes())
    ends = np.zeros(count + 1, dtype=np.int32)
    np.cumsum(np.maximum(lengths - _HEX_PREFIX, 0) // 2, out=ends[1:])
    mask = texts.is_valid().buffers()[1] if texts.null_count else None
    return pa.Array.from_buffers(pa.binary(), count, [mask, pa.py_buffer(ends), pa.py_buffer(plain)], texts.null_count)
