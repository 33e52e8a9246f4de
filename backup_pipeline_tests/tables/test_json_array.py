"""JSON lines, cut anywhere, become one plain JSON array."""

from __future__ import annotations

import io
import json

import pytest

from backup_pipeline.tables.json_array import json_array, rows_in_array


@pytest.mark.parametrize("rows", [[], [{"a": 1}], [{"a": "x"}, {"a": None}, {"a": "ü, [\\n]"}]])
@pytest.mark.parametrize("length", [1, 2, 7, 10_000])
def test_lines_cut_anywhere_become_one_array(rows: list[dict[str, object]], length: int) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    out = io.BytesIO()
    with json_array(out) as array:
        for start in range(0, len(lines), length):
            array.write(lines[start : start + length])
    assert json.loads(out.getvalue()) == rows
    assert rows_in_array(out.getvalue().count(b"\n")) == len(rows)
