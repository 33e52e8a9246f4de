"""Names that come from databases and files are code in Markdown, whatever they hold."""

from __future__ import annotations

import pytest

from backup_pipeline.rules.markdown import code_span


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("public.orders", "`public.orders`"),
        ("a` [click](https://evil.example) `b", "``a` [click](https://evil.example) `b``"),
        ("`<img src=x>`", "`` `<img src=x>` ``"),
        ("two\n\n# lines", "`two # lines`"),
        ("", "` `"),
    ],
)
def test_a_name_is_code_and_ends_it_nowhere(name: str, expected: str) -> None:
    assert code_span(name) == expected
