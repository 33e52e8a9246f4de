"""Documents are read whole into memory, and no more of them than a document can have."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from backup_pipeline.system.files import read_ordinary


def test_a_document_is_read_whole_up_to_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "document.json"
    for size in (0, 1, 70_000):
        file.write_bytes(b"x" * size)
        assert read_ordinary(file, at_most=70_000) == b"x" * size
    file.write_bytes(b"x" * 70_001)
    with pytest.raises(OSError, match="more than a document can have") as caught:
        read_ordinary(file, at_most=70_000)
    assert caught.value.errno == errno.EFBIG


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="files that do not say their size stand in /proc")
def test_a_file_that_does_not_say_its_size_is_read_whole_and_limited_all_the_same() -> None:
    status = Path("/proc/self/status")
    assert status.stat().st_size == 0
    assert b"voluntary_ctxt_switches" in read_ordinary(status)
    with pytest.raises(OSError, match="more than a document can have"):
        read_ordinary(status, at_most=100)
