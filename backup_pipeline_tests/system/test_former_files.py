"""Files that a person or an earlier run has written are kept before they are replaced."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup_pipeline.errors import StoreError
from backup_pipeline.system.former_files import keep_damaged

NOW = datetime(2026, 11, 27, tzinfo=UTC)


def test_only_what_cannot_be_read_is_kept_and_twice_under_two_names(tmp_path: Path) -> None:
    file = tmp_path / "known.json"
    assert keep_damaged(file, json.loads, NOW) is None
    file.write_text("{}")
    assert keep_damaged(file, json.loads, NOW) is None
    for content in ("{ torn", "\0"):
        file.write_text(content)
        former = keep_damaged(file, json.loads, NOW)
        assert former is not None
        assert former.read_text() == content
    assert len(list((tmp_path / ".former").glob("known.json.*"))) == 2


def test_what_cannot_even_be_copied_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "known.json").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("{ torn")
    with pytest.raises(StoreError):
        keep_damaged(tmp_path / "known.json", json.loads, NOW)
