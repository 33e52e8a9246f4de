"""Which Arrow type keeps a PostgreSQL type exactly, how it is read from COPY's CSV form, and what stays text. Pure.

A column gets an exact Arrow type when every value of it fits; else PostgreSQL's own text form, which loses nothing.
Text that is not UTF-8 (a database in SQL_ASCII takes any bytes) stays the bytes that it is. The field's metadata says
the PostgreSQL type (`postgres_type`) and the `form`: exact, text, or bytes (of the text form).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa

POSTGRES_TYPE = b"postgres_type"
FORM = b"form"

Family = Literal[
    "integer", "float", "decimal", "boolean", "date", "timestamp", "timestamptz", "time", "bytes", "text", "other"
]

_INTEGERS = {"smallint": pa.int16(), "integer": pa.int32(), "bigint": pa.int64(), "oid": pa.uint32()}
_FLOATS = {"real": pa.float32(), "double precision": pa.float64()}
_TEXTS = ("text", "character varying", "character", "json", "xml")
_NUMERIC = re.compile(r"numeric\((\d+),(\d+)\)")
_MAX_PRECISION_128 = 38
_MAX_PRECISION_256 = 76


@dataclass(frozen=True, slots=True)
class ColumnForm:
    """How one column is stored.

    Attributes:
        name: the column's.
        postgres_type: format_type() of it; of a domain, the domain's name.
        base_type: the type below all domains, with its modifiers.
        family: what decides the Arrow type and the figures that are compared.
        exact: False when the values do not all fit and the text form is stored.
        raw: whether the bytes of the text form are stored, because they are not UTF-8.
    """

    name: str
    postgres_type: str
    base_type: str
    family: Family
    exact: bool = True
    raw: bool = False

    @property
    def arrow_type(self) -> pa.DataType:
        """The type in the Parquet file."""
        if self.raw:
            return pa.binary()
        if not self.exact:
            return pa.string()
        return _arrow_type(self.family, self.base_type)

    @property
    def csv_type(self) -> pa.DataType:
        """The type that the CSV reader makes; bytea comes as hexadecimal text, very long decimals as text first."""
        kind = self.arrow_type
        if self.raw:
            return kind
        return pa.string() if pa.types.is_binary(kind) or pa.types.is_decimal256(kind) else kind

    def field(self, *, nullable: bool = True) -> pa.Field:
        """Return the field of the Parquet file's schema."""
        form = b"bytes" if self.raw else b"exact" if self._keeps_type else b"text"
        metadata = {POSTGRES_TYPE: self.postgres_type.encode(), FORM: form}
        return pa.field(self.name, self.arrow_type, nullable=nullable, metadata=metadata)

    @property
    def _keeps_type(self) -> bool:
        return self.exact and self.family != "other"

    def as_text(self) -> ColumnForm:
        """Return the same column, stored in its text form."""
        return replace(self, exact=False)

    def as_raw(self) -> ColumnForm:
        """Return the same column, stored as the bytes of its text form."""
        return replace(self, raw=True)


def family_of(base_type: str) -> Family:
    """Return the family of a PostgreSQL type (format_type() text, below all domains)."""
    bare = re.sub(r"\(.*\)", "", base_type)
    simple: dict[str, Family] = {
        "boolean": "boolean",
        "date": "date",
        "bytea": "bytes",
        "timestamp without time zone": "timestamp",
        "timestamp with time zone": "timestamptz",
        "time without time zone": "time",
    }
    if bare in simple:
        return simple[bare]
    if bare in _INTEGERS:
        return "integer"
    if bare in _FLOATS:
        return "float"
    if bare in _TEXTS:
        return "text"
    if found := _NUMERIC.fullmatch(base_type):
        precision, scale = int(found[1]), int(found[2])
        if precision <= _MAX_PRECISION_256 and scale <= precision:
            return "decimal"
    return "other"


def _arrow_type(family: Family, base_type: str) -> pa.DataType:
    bare = re.sub(r"\(.*\)", "", base_type)
    if family == "integer":
        return _INTEGERS[bare]
    if family == "float":
        return _FLOATS[bare]
    if family == "decimal":
        found = _NUMERIC.fullmatch(base_type)
        assert found is not None
        precision, scale = int(found[1]), int(found[2])
        make = pa.decimal128 if precision <= _MAX_PRECISION_128 else pa.decimal256
        return make(precision, scale)
    return {
        "boolean": pa.bool_(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us"),
        "timestamptz": pa.timestamp("us", tz="UTC"),
        "time": pa.time64("us"),
        "bytes": pa.binary(),
    }.get(family, pa.string())
