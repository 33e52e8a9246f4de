"""Rows in COPY's CSV form into Arrow tables of exact types. Pure: bytes in, tables out."""

from __future__ import annotations

import binascii

import numpy as np
import pyarrow as pa
from pyarrow import csv

from backup_pipeline.errors import ValidationError
from backup_pipeline.tools.arrow_types import ColumnForm

_HEX_PREFIX = 2


class CsvDecoder:
    """Decodes pieces of whole rows. COPY writes NULL as nothing and an empty string as `""`; both are kept apart."""

    def __init__(self, forms: list[ColumnForm], schema: pa.Schema) -> None:
        self._schema = schema
        # Positions stand for names: two columns of a file must not meet, and names may hold anything.
        self._names = [f"c{index}" for index in range(len(forms))]
        self._hex = [i for i, form in enumerate(forms) if pa.types.is_binary(form.arrow_type) and not form.raw]
        self._long = {i: f.arrow_type for i, f in enumerate(forms) if pa.types.is_decimal256(f.arrow_type)}
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
            delimiter=",", quote_char='"', double_quote=True, escape_char=False, newlines_in_values=True,
            ignore_empty_lines=False,
        )  # fmt: skip

    def decode(self, piece: bytes | memoryview) -> pa.Table:
        """Return the rows of `piece` (whole rows) as a table of the schema.

        Raises:
            ValidationError: a value does not fit its column's type; the value is not named.
        """
        try:
            table = csv.read_csv(
                pa.BufferReader(pa.py_buffer(piece)),
                csv.ReadOptions(column_names=self._names, use_threads=False, block_size=len(piece) + 1),
                self._parse,
                self._convert,
            )
        except pa.ArrowInvalid as error:
            # Arrow's message holds the value; only the column's number may be told.
            number = str(error).partition("CSV column #")[2].partition(":")[0]
            column = self._schema.field(int(number)).name if number.isdigit() else "unknown"
            raise ValidationError(
                "A value does not fit the type that was chosen for its column.",
                where=f"column {column}",
                remedy="Report this with the column's PostgreSQL type.",
            ) from None
        columns = list(table.columns)
        for index in self._hex:
            columns[index] = pa.chunked_array([unhex(chunk) for chunk in columns[index].chunks], type=pa.binary())
        for index, kind in self._long.items():
            columns[index] = columns[index].cast(kind)
        return pa.Table.from_arrays(columns, schema=self._schema)


def unhex(texts: pa.StringArray) -> pa.BinaryArray:
    r"""Return the bytes that an array of `\x…` texts stands for; NULL stays NULL. Without a loop over values."""
    count = len(texts)
    validity, offsets_buffer, data_buffer = texts.buffers()
    first = texts.offset
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[first : first + count + 1].astype(np.int64)
    lengths = np.diff(offsets)
    if texts.null_count:
        validity = texts.is_valid().cast(pa.uint8()).to_numpy(zero_copy_only=False)
        lengths = np.where(validity == 1, lengths, 0)
    data = np.frombuffer(data_buffer or b"", dtype=np.uint8)[offsets[0] : offsets[-1]]
    starts = (offsets[:-1] - offsets[0])[lengths >= _HEX_PREFIX]
    keep = np.ones(len(data), dtype=bool)
    keep[starts] = False
    keep[starts + 1] = False
    plain = binascii.unhexlify(data[keep].tobytes())
    ends = np.zeros(count + 1, dtype=np.int32)
    np.cumsum(np.maximum(lengths - _HEX_PREFIX, 0) // 2, out=ends[1:])
    mask = None
    if texts.null_count:
        mask = pa.array(validity == 1).buffers()[1]
    return pa.Array.from_buffers(pa.binary(), count, [mask, pa.py_buffer(ends), pa.py_buffer(plain)], texts.null_count)
