"""docs/exit-codes.md is what the code says."""

from __future__ import annotations

from pathlib import Path

from backup_pipeline.cli.exit_codes import exit_codes_reference
from backup_pipeline.errors import ExitCode


def test_the_published_page_is_what_the_code_generates():
    page = Path(__file__).parents[2] / "docs" / "exit-codes.md"
    assert page.read_text() == exit_codes_reference(), (
        "run: python -m backup_pipeline.cli.exit_codes > docs/exit-codes.md"
    )


def test_every_code_has_a_meaning():
    cells = [row.split("|") for row in exit_codes_reference().splitlines() if row.startswith("| ")]
    field_docs = {cell[1].strip(): cell[4].strip() for cell in cells if cell[1].strip().isdigit()}
    assert set(field_docs) == {str(int(code)) for code in ExitCode}
    assert all(field_docs.values())
