"""Checksums beside the tables of a folder that is imported."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from backup_pipeline.errors import ValidationError
from backup_pipeline.sources.folder.imported import check_sums


def test_a_text_too_large_to_be_checksums_is_passed_over(tmp_path: Path) -> None:
    rows = b'[{"i": 1}]'
    (tmp_path / "a.json").write_bytes(rows)
    (tmp_path / "sums.txt").write_text(f"{hashlib.sha256(rows).hexdigest()}  a.json\n")
    for name in ("log.txt", "metadata.json", "x.sha256"):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 300_000_000)
    assert check_sums(tmp_path) == (1, 2)
    (tmp_path / "a.json").write_bytes(b"[]")
    with pytest.raises(ValidationError, match=r"does not fit a\.json"):
        check_sums(tmp_path)
