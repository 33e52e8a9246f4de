"""Files of very long values have pages of another version, which are read like all others."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backup_pipeline.tables.arrow_csv import HashedValue
from backup_pipeline.tables.key_numbers import LongValueHash
from backup_pipeline.tables.parquet import ParquetSink, ParquetTable
from backup_pipeline.tables.parquet_pages import pages_of


@pytest.mark.parametrize(("size", "second"), [(70 << 20, True), (1 << 20, False)])
def test_only_very_long_values_are_written_to_pages_of_version_2(size: int, second: bool) -> None:
    rows = pa.table({"id": pa.array([1, 2]), "value": pa.array([b"x" * size, b""], pa.binary())})
    file = io.BytesIO()
    sink = ParquetSink(file, rows.schema)
    sink.write([rows])
    sink.close()
    chunk = pq.ParquetFile(file).metadata.row_group(0).column(1)
    assert {page.levels is not None for page in pages_of(file, chunk)} == {second}
    assert pq.read_table(file).equals(rows)
    read, long = next(ParquetTable(file, "x").streamed(lambda: HashedValue(7)))
    hashed = LongValueHash(7)
    hashed.add(b"x" * size)
    assert read["id"].to_pylist() == [1, 2]
    assert long == ([(0, 1, hashed.number)] if second else [])
