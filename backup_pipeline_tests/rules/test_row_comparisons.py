"""Comparisons of rows are read as people write them, and what is no comparison is refused."""

from __future__ import annotations

import pytest

from backup_pipeline.errors import RefusedError
from backup_pipeline.rules.row_comparisons import parse_comparison


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("public.orders: id = 7", ("public.orders", "id", "=", ("7",))),
        ("orders: id in 7, 8 ,9", ("public.orders", "id", "in", ("7", "8", "9"))),
        ("app.t: created_at>=2026-01-01 10:00", ("app.t", "created_at", ">=", ("2026-01-01 10:00",))),
        ("app.t: note is  not NULL", ("app.t", "note", "is not null", ())),
        ("app.t: note contains it's <b>", ("app.t", "note", "contains", ("it's <b>",))),
        ('app.t: "odd name" <> x', ("app.t", "odd name", "!=", ("x",))),
        ("app.t: inside = 1", ("app.t", "inside", "=", ("1",))),
    ],
)
def test_a_comparison_is_read(text: str, expected: tuple[str, str, str, tuple[str, ...]]) -> None:
    found = parse_comparison(text)
    assert (found.table, found.column, found.operator, found.values) == expected


def test_an_empty_text_is_a_value() -> None:
    assert parse_comparison("orders: note = ").values == ("",)


@pytest.mark.parametrize("text", ["orders", "orders: id", "orders: id is null 3", ": id = 3", "a.b: id like 'x'"])
def test_what_is_no_comparison_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(RefusedError, match="--where"):
        parse_comparison(text)
