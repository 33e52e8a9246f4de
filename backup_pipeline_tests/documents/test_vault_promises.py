"""The page of a vault's promises names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_test_that_the_promises_name_exists() -> None:
    page = (ROOT / "docs" / "vault-promises.md").read_text()
    named = re.findall(r"`(test_\w+|Test\w+)`", page)
    there: set[str] = set()
    for path in (ROOT / "backup_pipeline_tests").rglob("test_*.py"):
        there |= set(re.findall(r"^\s*(?:def |class )?(test_\w+|Test\w+)\b", path.read_text(), re.MULTILINE))
    assert len(named) > 40
    assert sorted(set(named) - there) == []
