"""Comparing table exports with the restored tables, row by row and without order. Nothing is restored here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pandas.util import hash_array

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.postgres.export.copy import copy_out
from backup_pipeline.postgres.export.fingerprint import HashableTypes
from backup_pipeline.postgres.export.profile import profile_table
from backup_pipeline.postgres.export.table_rows import select_rows
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.tables.arrow_csv import CsvDecoder
from backup_pipeline.tables.parquet import ParquetTable

_PRIME = np.uint64(0x9E3779B97F4A7C15)
_NULL = np.uint64(0xA5A5A5A5A5A5A5A5)
# Bytes of a value from which it is hashed where it lies, instead of as an object of Python's, which holds it again.
_LONG = 1 << 16


def compare_exports(
    open_file: Callable[[str], BinaryIO],
    records: Sequence[ArtefactRecord],
    target: PostgresTarget,
    *,
    utf8: bool = True,
) -> list[Finding]:
    """Return the Parquet exports whose rows are not those of the restored tables; counts only, never values.

    Args:
        open_file: opens a file of the set.
        records: table exports of the database.
        target: the restored database.
        utf8: whether its encoding is UTF-8.
    """
    findings = []
    with connected(target) as connection:
        types = HashableTypes()
        for record in records:
            path = next((file.path for file in record.files if file.path.endswith(".parquet")), None)
            if path is None:
                continue
            schema, table = record.key[1], record.key[2]
            try:
                partitioned = _is_partitioned(connection, schema, table)
                profile = profile_table(connection, schema, table, hashable=types, partitioned=partitioned, utf8=utf8)
                with open_file(path) as file:
                    parquet = ParquetTable(file, path)
                    size = next(one.size for one in record.files if one.path == path)
                    parquet.check_sizes(record.rows, size)
                    if not profile.columns:
                        exported = (parquet.rows, 0)
                        restored = (profile.fingerprint.rows, 0)
                    else:
                        exported = sum_of(parquet.pieces())
                        # pg_dump cannot keep the order of inherited columns; the export has the recorded one.
                        names = list(parquet.schema.names)
                        forms = {form.name: form for form in profile.forms}
                        if set(names) != set(forms):
                            findings.append(Finding(subject=path, problem="has other columns than the restored table"))
                            continue
                        decoder = CsvDecoder([forms[name] for name in names], parquet.schema)
                        query = select_rows(profile.rows, names)
                        restored = sum_of(decoder.decode(piece) for piece in copy_out(connection, query))
            except BackupSystemError as error:
                findings.append(Finding(subject=path, problem=f"cannot be compared: {error.what}"))
                continue
            except pa.ArrowInvalid:
                # Its text holds a value.
                findings.append(Finding(subject=path, problem="has other types than the restored table"))
                continue
            if exported[0] != restored[0]:
                problem = f"holds {exported[0]} rows, the restored table {restored[0]}"
                findings.append(Finding(subject=path, problem=problem))
            elif exported[1] != restored[1]:
                findings.append(Finding(subject=path, problem="holds other values than the restored table"))
    return findings


def _is_partitioned(connection: Any, schema: str, table: str) -> bool:
    row = connection.execute(
        "select c.relkind = 'p' from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = %s and c.relname = %s",
        [schema, table],
    ).fetchone()
    return bool(row and row[0])


def sum_of(pieces: Iterable[pa.Table]) -> tuple[int, int]:
    """Return number of rows and an order-free sum of a 64-bit hash of each row."""
    rows, total = 0, 0
    for piece in pieces:
        rows += piece.num_rows
        total += int(_row_hashes(piece).sum(dtype=np.uint64))
        del piece  # before the next one is made
    return rows, total % (1 << 64)


def _row_hashes(table: pa.Table) -> Any:
    mixed = np.zeros(table.num_rows, dtype=np.uint64)
    for column in table.columns:
        data = column
        if not (pa.types.is_binary(data.type) or pa.types.is_large_binary(data.type)):
            data = data.cast(pa.string())
        null = pc.is_null(data).to_numpy()
        long = np.flatnonzero(pc.fill_null(pc.greater_equal(pc.binary_length(data), _LONG), False).to_numpy())
        digests = [hashlib.blake2b(data[row].as_buffer(), digest_size=8).digest() for row in long.tolist()]
        empty = pa.scalar(b"" if not pa.types.is_string(data.type) else "", data.type)
        if digests:
            data = pc.if_else(pc.less(pc.binary_length(data), _LONG), data, empty)
        hashes = hash_array(data.fill_null(empty).to_numpy(zero_copy_only=False).astype(object), categorize=False)
        hashes[long] = np.frombuffer(b"".join(digests), dtype=np.uint64)
        mixed = (mixed ^ np.where(null, _NULL, hashes)) * _PRIME
        mixed ^= mixed >> np.uint64(29)
    return mixed
