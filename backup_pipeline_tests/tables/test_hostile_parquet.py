"""Parquet files that claim more than they hold, in a resealed set: refused within little memory, never decoded."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backup_pipeline.tables.parquet import ParquetSink, ParquetTable

ROWS = 70_007
BILLIONS = 2_000_000_000
# Reads files as a verification or drill does, with 400 MB more than Python and its libraries have taken already.
READER = """
import json, os, pathlib, resource, sys
import pyarrow.compute
from backup_pipeline.tables.parquet import ParquetTable
from backup_pipeline.errors import ValidationError

pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (400 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for name, rows in json.loads(sys.argv[1]).items():
    path = pathlib.Path(sys.argv[2], name)
    try:
        with path.open("rb") as file:
            table = ParquetTable(file, name)
            if sys.argv[3] == "checked":
                table.check_sizes(rows, path.stat().st_size)
            print(name, "read", sum(piece.num_rows for piece in table.pieces()))
    except ValidationError as error:
        print(name, "refused", error.what)
sys.stdout.flush()
# Arrow's threads cannot be ended in an orderly way where there is no memory left.
os._exit(0)
"""


def varint(number: int) -> bytes:
    """A number as Thrift's compact protocol writes it."""
    value, out = number << 1, b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def written(table: pa.Table, **options: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", write_statistics=False, row_group_size=table.num_rows, **options)
    return file.getvalue()


def with_footer(data: bytes, *changes: tuple[int, int]) -> bytes:
    """The file with other numbers in its footer."""
    length = int.from_bytes(data[-8:-4], "little")
    body, footer = data[: -8 - length], data[-8 - length : -8]
    for old, new in changes:
        assert varint(old) in footer, old
        footer = footer.replace(varint(old), varint(new))
    return body + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def with_header(data: bytes, old: int, new: int) -> bytes:
    """The file with another number in its first page's header. The footer's place for the chunk grows with it."""
    assert data.find(varint(old), 4, 40) > 0, old
    grown = len(varint(new)) - len(varint(old))
    stored = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(0).total_compressed_size
    changed = data[:4] + data[4:].replace(varint(old), varint(new), 1)
    return with_footer(changed, (stored, stored + grown))


def lies() -> Iterator[tuple[str, int, bytes]]:
    """Name, rows of the record (which the attacker wrote too), the file."""
    numbers = pa.table({"a": pa.array(range(ROWS), pa.int64())})
    plain = written(numbers, use_dictionary=False, data_page_size=1 << 30)
    yield "two billion rows", BILLIONS, with_footer(plain, (ROWS, BILLIONS))
    yield "two billion rows, the record says other", ROWS, with_footer(plain, (ROWS, BILLIONS))
    texts = written(pa.table({"a": ["x" * 900_001]}), use_dictionary=False)
    about = pq.ParquetFile(io.BytesIO(texts)).metadata.row_group(0).column(0)
    value = about.total_uncompressed_size - 900_011  # of the page's header
    page = 900_001 + 4 + 6
    large = 1_500_000_000
    yield (
        "a value of 1.5 GB",
        1,
        with_header(with_footer(texts, (about.total_uncompressed_size, large + value)), page, large),
    )
    yield "a page of 1.5 GB, which the footer knows nothing of", 1, with_header(texts, page, large)
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * ROWS, pa.int32()), ["x" * 1_000_000])
    yield "one text of 1 MB, seventy thousand times", ROWS, written(pa.table({"a": repeated}), store_schema=False)
    few = written(pa.table({"a": [f"word {i % 333}" for i in range(ROWS)]}))
    yield "a dictionary of two billion entries", ROWS, with_header(few, 333, BILLIONS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    folder = tmp_path_factory.mktemp("parquet")
    rows = {}
    for name, claimed, data in lies():
        (folder / name).write_bytes(data)
        rows[name] = claimed
    return folder, rows


def told_by(folder: Path, rows: dict[str, int], how: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", READER, json.dumps(rows), str(folder), how], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line]
    return {name: line.removeprefix(name) for name in rows for line in lines if line.startswith(f"{name} re")}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is measured as Linux tells it")
def test_a_parquet_file_that_claims_too_much_is_refused_within_little_memory(
    made: tuple[Path, dict[str, int]],
) -> None:
    folder, rows = made
    reported = told_by(folder, rows, "checked")
    assert set(reported) == set(rows)
    for name, line in reported.items():
        assert line.startswith(" refused "), (name, line)
        assert "Row group" not in line, (name, "it was refused only while it was decoded", line)
    # The same memory does not do for reading them.
    one = "one text of 1 MB, seventy thousand times"
    assert "ArrowMemoryError" in told_by(folder, {one: rows[one]}, "unchecked")[one]


def test_what_a_backup_writes_is_not_refused() -> None:
    long = pa.table({"a": pa.array(["x" * 300_000_000, None, "", "y"]), "b": pa.array([1, 2, None, 4], pa.int32())})
    words = pa.table({"a": pa.array([f"word {i % 900}" for i in range(ROWS)]), "b": pa.array(range(ROWS), pa.int32())})
    empty = pa.table({"a": pa.array([], pa.string()), "b": pa.array([], pa.int32())})
    for table in (long, words, empty):
        file = io.BytesIO()
        sink = ParquetSink(file, table.schema)
        for part in (table, table.slice(0, 2)):
            sink.write([part])
        sink.close()
        read = ParquetTable(file, "x")
        read.check_sizes(sink.rows, len(file.getvalue()))
        assert sum(piece.num_rows for piece in read.pieces()) == sink.rows


def test_page_headers_with_long_statistics_are_read() -> None:
    table = pa.table({"a": ["x" * 3000, "y" * 3000]})
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", use_dictionary=False)
    read = ParquetTable(file, "x")
    read.check_sizes(2, len(file.getvalue()))
    assert pa.concat_tables(read.pieces()) == table
