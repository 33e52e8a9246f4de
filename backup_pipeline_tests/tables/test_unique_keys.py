"""Repeated keys are counted exactly: any type, any number of pieces and passes, nulls, numbers that collide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_pipeline.model.catalog import TableKey
from backup_pipeline.tables import keys as table_keys
from backup_pipeline.tables.key_numbers import key_numbers
from backup_pipeline.tables.keys import UniqueKeys
from backup_pipeline_tests.support.examples import examples

_TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["", "a", "a" * 8, "a" * 9, "ä" * 3000, "b" * 5000]))
_KINDS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int16(), st.integers(-5, 5)),
    (pa.int64(), st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63), 2**32, -(2**32)])),
    (pa.uint32(), st.sampled_from([0, 1, 2**32 - 1])),
    (pa.bool_(), st.booleans()),
    (pa.float64(), st.sampled_from([0.0, -0.0, 1.5, float("nan"), float("inf")])),
    (pa.float32(), st.sampled_from([0.0, -0.0, 1.5, float("nan")])),
    (pa.date32(), st.integers(0, 3)),
    (pa.timestamp("us", tz="UTC"), st.integers(-3, 3)),
    (pa.time64("us"), st.integers(0, 3)),
    (pa.decimal128(20, 2), st.sampled_from([Decimal("1.00"), Decimal("-1.00"), Decimal("0.01"), Decimal("9" * 18)])),
    (pa.decimal256(60, 2), st.sampled_from([Decimal("1.00"), Decimal("9" * 55), Decimal("-" + "9" * 55)])),
    (pa.string(), _TEXTS),
    (pa.binary(), st.sampled_from([b"", b"\0", b"\0\0", b"\xff" * 9, b"\xff" * 8])),
    (pa.large_string(), _TEXTS),
]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "NaN" if value != value else value + 0.0
    return value


def _expected(table: pa.Table, *, nulls_distinct: bool) -> int:
    rows = [tuple(_plain(v) for v in row.values()) for row in table.to_pylist()]
    counts = Counter(row for row in rows if not (nulls_distinct and None in row))
    return sum(count - 1 for count in counts.values())


def _count(tables: Sequence[pa.Table], keys: Sequence[TableKey], **values: Any) -> list[int]:
    passes = []

    def read(columns: Sequence[str]) -> Iterator[pa.Table]:
        passes.append(columns)
        return (table.select(columns) for table in tables)

    unique = UniqueKeys(keys, values.pop("rows", sum(t.num_rows for t in tables)), **values)
    for table in tables:
        unique.add(table)
    return unique.duplicates(read)


@st.composite
def _tables(draw: st.DrawFn) -> pa.Table:
    kinds = draw(st.lists(st.sampled_from(_KINDS), min_size=1, max_size=3))
    count = draw(st.integers(0, 30))
    columns = [
        pa.array(draw(st.lists(st.none() | values, min_size=count, max_size=count)), type=kind)
        for kind, values in kinds
    ]
    return pa.table(columns, names=[f"k{index}" for index in range(len(columns))])


@settings(max_examples=examples(300))
@given(table=_tables(), cut=st.integers(0, 30), distinct=st.booleans(), limit=st.sampled_from([3, 7, 1000]))
def test_repeated_keys_are_counted_exactly(table: pa.Table, cut: int, distinct: bool, limit: int) -> None:
    key = TableKey(columns=tuple(table.column_names), nulls_distinct=distinct)
    # A slice does not start where its buffers do, and a column may be in several chunks.
    pieces = [table.slice(0, cut), pa.concat_tables([table.slice(cut, 2), table.slice(cut + 2)])]
    assert _count(pieces, [key], limit=limit) == [_expected(table, nulls_distinct=distinct)]


def test_several_keys_share_the_passes_and_many_rows_need_many() -> None:
    rng = np.random.default_rng(1)
    rows = 20_000
    numbers = rng.permutation(rows)
    table = pa.table({"a": numbers, "b": [f"mail{n}@example.org" for n in numbers.tolist()], "c": numbers // 3})
    pieces = [table.slice(at, 3000) for at in range(0, rows, 3000)]
    keys = [TableKey(columns=("a",), primary=True), TableKey(columns=("b",)), TableKey(columns=("c",))]
    expected = [0, 0, rows - len(set((numbers // 3).tolist()))]
    for limit in (1_000, 10_000, 1_000_000):
        assert _count(pieces, keys, limit=limit) == expected
    assert _count([*pieces, table.slice(5, 1), table.slice(5, 1)], keys, limit=5_000)[:2] == [2, 2]


def test_one_key_in_every_row_needs_no_more_memory_than_different_ones() -> None:
    table = pa.table({"a": np.zeros(50_000, dtype=np.int64)})
    assert _count([table] * 4, [TableKey(columns=("a",))], limit=20_000) == [199_999]


def test_more_rows_than_were_said_are_counted_too() -> None:
    table = pa.table({"a": [1, 2, 3, 4, 5, 6, 7, 1]})
    assert _count([table, table], [TableKey(columns=("a",))], rows=3) == [9]


def test_two_keys_with_one_number_are_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def colliding(columns: Any, seed: int, *, nulls_distinct: bool = True) -> Any:
        return key_numbers(columns, seed, nulls_distinct=nulls_distinct) % np.uint64(3)

    monkeypatch.setattr(table_keys, "key_numbers", colliding)
    different = pa.table({"a": [f"k{n}" for n in range(500)]})
    assert _count([different], [TableKey(columns=("a",))]) == [0]
    assert _count([different, different.slice(7, 2)], [TableKey(columns=("a",))]) == [2]


def test_beyond_the_candidates_that_are_compared_the_count_stays_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_keys, "_CANDIDATES", 5)
    table = pa.table({"a": [f"k{n % 40}" for n in range(100)]})
    assert _count([table], [TableKey(columns=("a",))]) == [60]


def test_text_keys_that_differ_in_one_byte_have_other_numbers() -> None:
    texts = [("x" * length)[:at] + "y" + "x" * (length - at - 1) for length in range(1, 40) for at in range(length)]
    texts += ["x" * length for length in range(40)]
    numbers = key_numbers([pa.chunked_array([texts])], 7)
    assert len(set(numbers.tolist())) == len(texts)
