"""Column chunks that are read page by page hold what Arrow reads, whatever wrote them; damage is an error."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_pipeline.errors import ValidationError
from backup_pipeline.sources.postgres.drill_exports import sum_of
from backup_pipeline.tables import parquet, parquet_values
from backup_pipeline.tables.arrow_csv import HashedValue
from backup_pipeline.tables.parquet import ParquetTable
from backup_pipeline_tests.support.examples import examples

_VALUE = st.none() | st.sampled_from([b"", b"a", b"word", b"long" * 5]) | st.binary(max_size=40)


class _Kept:
    def __init__(self) -> None:
        self._value = b""

    def take(self, data: bytes) -> None:
        self._value += data

    def finish(self) -> bytes:
        return self._value


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all columns large, and values of more than twelve bytes long."""
    monkeypatch.setattr(parquet, "_LARGE", 0)
    monkeypatch.setattr(parquet_values, "LONG_FIELD", 12)
    monkeypatch.setattr(parquet_values, "_PIECE", 7)


def written(table: pa.Table, **options: Any) -> ParquetTable:
    file = io.BytesIO()
    pq.write_table(table, file, **{"compression": "zstd", **options})
    return ParquetTable(file, "x")


@settings(max_examples=examples(80))
@given(
    values=st.lists(_VALUE, min_size=1, max_size=60),
    options=st.fixed_dictionaries(
        {
            "compression": st.sampled_from(["zstd", "none", "snappy"]),
            "data_page_version": st.sampled_from(["1.0", "2.0"]),
            "use_dictionary": st.booleans(),
            "data_page_size": st.sampled_from([1, 60, 1 << 20]),
            "write_batch_size": st.sampled_from([1, 7, 1024]),
            "dictionary_pagesize_limit": st.sampled_from([1, 40, 1 << 20]),
            "row_group_size": st.sampled_from([3, 1000]),
        }
    ),
)
def test_pages_give_what_arrow_reads(values: list[bytes | None], options: dict[str, Any]) -> None:
    columns = {
        "n": pa.array(range(len(values)), pa.int32()),
        "b": pa.array(values, pa.binary()),
        "t": pa.array([None if value is None else value.hex() for value in values], pa.string()),
    }
    whole = [value or b"" for value in values]
    schema = pa.schema([*((name, each.type) for name, each in columns.items()), pa.field("r", pa.binary(), False)])
    table = pa.Table.from_arrays([*columns.values(), pa.array(whole, pa.binary())], schema=schema)
    file = written(table, **options)
    found: list[dict[str, Any]] = []
    for rows, long in file.streamed(_Kept):
        part = rows.to_pylist()
        for row, column, value in long:
            assert len(value) > 12
            part[row][schema.names[column]] = value.decode() if schema.names[column] == "t" else value
        found += part
    assert found == table.to_pylist()
    assert file.decoded_rows() == len(values)


def test_the_sum_of_rows_is_the_same_by_pages_and_by_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_values, "LONG_FIELD", 5000)
    texts = ["x" * 9000, None, "", "y" * 4097, "z" * 4096, "x" * 9001]
    table = pa.table({"a": texts, "n": pa.array(range(6), pa.int64()), "b": pa.array([None, *texts[1:]])})
    file = written(table, row_group_size=4)
    streamed = list(file.streamed(lambda: HashedValue(7)))
    assert sum(len(long) for _, long in streamed) == 3
    assert sum_of(streamed, 7) == sum_of([(table, [])], 7)
    monkeypatch.setattr(parquet, "_LARGE", 1 << 30)
    assert sum_of(file.streamed(lambda: HashedValue(7)), 7) == sum_of([(table, [])], 7)


@pytest.mark.parametrize(("compression", "shift"), [("zstd", 0), ("zstd", 5), ("none", 0), ("none", 2)])
def test_a_damaged_page_is_an_error_that_names_the_file(compression: str, shift: int) -> None:
    file = io.BytesIO()
    table = pa.table({"a": ["v" * 30] * 9})
    pq.write_table(table, file, compression=compression, use_dictionary=False, write_statistics=False)
    data = bytearray(file.getvalue())
    # The head of the compressed frame; the length of the first value.
    data[
        data.index(b"\x28\xb5\x2f\xfd" if compression == "zstd" else b"vvvv") + shift - 4 * (compression == "none")
    ] ^= 255
    with pytest.raises(ValidationError, match="damaged"):
        ParquetTable(io.BytesIO(bytes(data)), "x").decoded_rows()
