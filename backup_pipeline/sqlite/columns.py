"""How values of SQLite stand in Parquet without loss, and the fingerprint of a table's rows. Pure; no files, no SQL.

A column whose values are all of one storage class (beside NULL) becomes int64, float64, string or binary. A column that
mixes them, or has text that is not UTF-8, becomes a struct `{kind, integer, real, text, bytes}` in which `kind` is
SQLite's typeof() and one other field holds the value (`bytes` for blobs and for text that is not UTF-8). The field's
metadata says the declared type (`sqlite_type`) and the storage (`sqlite_storage`).

Fingerprint `sqlite-rows-blake2b64-sum-1`: for each row the bytes of its values in the columns' order are put together
(NULL `N`; integer `I` and 8 bytes, signed; real `R` and its 8 IEEE-754 bytes; text `T`, blob `B`, each with its length
in 8 bytes and its content, text as stored in UTF-8; numbers big-endian), hashed with BLAKE2b (8 bytes), and the hashes
taken as unsigned big-endian numbers are added modulo 2**64; written as 16 hexadecimal digits. The order of rows does
not matter; a doubled row does.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from backup_pipeline.model.record import Fingerprint
from backup_pipeline.sqlite.database import Row, SqliteColumn, Value

ALGORITHM = "sqlite-rows-blake2b64-sum-1"
SQLITE_MAJOR = 3
SQLITE_TYPE = b"sqlite_type"
SQLITE_STORAGE = b"sqlite_storage"

Storage = Literal["integer", "real", "text", "blob", "mixed"]

_MASK = (1 << 64) - 1
_MIXED = pa.struct(
    [
        ("kind", pa.string()),
        ("integer", pa.int64()),
        ("real", pa.float64()),
        ("text", pa.string()),
        ("bytes", pa.binary()),
    ]
)
_ARROW: dict[str, pa.DataType] = {
    "integer": pa.int64(),
    "real": pa.float64(),
    "text": pa.string(),
    "blob": pa.binary(),
    "mixed": _MIXED,
}
_BATCH_ROWS = 8192
_BATCH_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class StoredColumn:
    """A column and how its values are stored."""

    column: SqliteColumn
    storage: Storage

    @property
    def field(self) -> pa.Field:
        """The field of the Parquet schema."""
        metadata = {SQLITE_TYPE: self.column.declared.encode(), SQLITE_STORAGE: self.storage.encode()}
        return pa.field(self.column.name, _ARROW[self.storage], nullable=True, metadata=metadata)


def storage_of(column: SqliteColumn, classes: frozenset[str], *, utf8: bool) -> Storage:
    """Return how a column is stored that has values of these classes; by its declared type when it has none."""
    found = classes - {"null"}
    if "text" in found and not utf8:
        return "mixed"
    if len(found) == 1:
        (only,) = found
        return only  # type: ignore[return-value]
    return "mixed" if found else _affinity(column.declared)


def _affinity(declared: str) -> Storage:
    """Follow SQLite's rules for affinity (https://www.sqlite.org/datatype3.html, section 3.1)."""
    upper = declared.upper()
    if "INT" in upper:
        return "integer"
    if any(word in upper for word in ("CHAR", "CLOB", "TEXT")):
        return "text"
    if "BLOB" in upper:
        return "blob"
    return "real" if any(word in upper for word in ("REAL", "FLOA", "DOUB")) else "text"


def to_table(rows: Sequence[Row], columns: Sequence[StoredColumn], schema: pa.Schema) -> pa.Table:
    """Return rows as a table of that schema."""
    by_column = zip(*rows, strict=True) if rows else iter([()] * len(columns))
    arrays = [
        pa.array([_tagged(value) for value in values] if column.storage == "mixed" else values, column.field.type)
        for column, values in zip(columns, by_column, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _tagged(value: Value) -> dict[str, Any] | None:
    match value:
        case None:
            return None
        case int():
            return {"kind": "integer", "integer": value}
        case float():
            return {"kind": "real", "real": value}
        case bytes():
            return {"kind": "blob", "bytes": value}
    raw = value.encode("utf-8", "surrogateescape")
    try:
        return {"kind": "text", "text": raw.decode()}
    except UnicodeDecodeError:
        return {"kind": "text", "bytes": raw}


def from_table(table: pa.Table) -> Iterator[Row]:
    """Yield the rows of a table that `to_table` made, as SQLite gave them."""
    columns = []
    for field, column in zip(table.schema, table.columns, strict=True):
        values = column.to_pylist()
        columns.append([_untagged(value) for value in values] if field.type == _MIXED else values)
    return zip(*columns, strict=True)


def _untagged(value: dict[str, Any] | None) -> Value:
    if value is None:
        return None
    kind = value["kind"]
    if kind == "blob":
        return bytes(value["bytes"])
    if kind == "text" and value["text"] is None:
        return bytes(value["bytes"]).decode("utf-8", "surrogateescape")
    found: Value = value[kind]
    return found


def _text(value: Any) -> bytes:
    raw: bytes = value.encode("utf-8", "surrogateescape")
    return b"T" + len(raw).to_bytes(8, "big") + raw


_CANONICAL: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"N",
    int: lambda value: b"I" + value.to_bytes(8, "big", signed=True),
    float: lambda value: b"R" + struct.pack(">d", value),
    str: _text,
    bytes: lambda value: b"B" + len(value).to_bytes(8, "big") + value,
}


def canonical(row: Row) -> bytes:
    """Return the bytes of a row that are hashed."""
    return b"".join([_CANONICAL[type(value)](value) for value in row])


class RowsFingerprint:
    """Adds up rows to the table's fingerprint."""

    def __init__(self) -> None:
        self._sum = 0
        self.rows = 0

    def add(self, row: Row) -> int:
        """Add a row; return the length of its canonical bytes."""
        data = canonical(row)
        self._sum += int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
        self.rows += 1
        return len(data)

    def result(self) -> Fingerprint:
        """Return the fingerprint of the rows so far."""
        value = f"{self._sum & _MASK:016x}"
        return Fingerprint(algorithm=ALGORITHM, server_major=SQLITE_MAJOR, value=value, rows=self.rows)


def batches(rows: Iterable[Row], fingerprint: RowsFingerprint) -> Iterator[list[Row]]:
    """Yield the rows in lists of bounded size, adding each to the fingerprint."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        size += fingerprint.add(row)
        batch.append(row)
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
