"""How figures read in the shell."""

from __future__ import annotations

import pytest

from backup_pipeline.rules.quantities import bytes_text, figure_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.00 KB"),
        (245_670, "245.67 KB"),
        (2_460_000, "2.46 MB"),
        (10**13, "10.00 TB"),
    ],
)
def test_a_size_is_told_in_the_units_that_it_names(size: int, text: str) -> None:
    assert bytes_text(size) == text


def test_a_figure_is_told_as_its_name_says_what_it_is() -> None:
    assert figure_text("dump_bytes", 2_000) == "dump 2.00 KB"
    assert figure_text("restore_seconds", 2.25) == "restore 2.2 s"
    assert figure_text("rows", 41_363) == "41,363 rows"
