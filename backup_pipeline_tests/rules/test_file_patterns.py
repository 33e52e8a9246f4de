"""What people type to find a file means the files that they think of, and no others."""

from __future__ import annotations

import pytest

from backup_pipeline.rules.file_patterns import path_matcher


@pytest.mark.parametrize(
    ("pattern", "path", "means"),
    [
        ("invoice", "2026/Invoice_17.pdf", True),
        ("invoice", "invoices/17.pdf", False),
        ("invoices/", "invoices/17.pdf", True),
        ("INVOICES/1", "a/invoices/17.pdf", True),
        ("*.pdf", "a/b/17.PDF", True),
        ("*.pdf", "a/b/17.pdf.txt", False),
        ("invoices/*.pdf", "a/invoices/17.pdf", True),
        ("invoices/*.pdf", "a/old_invoices/17.pdf", False),
        ("1?.pdf", "a/17.pdf", True),
        ("[draft] letter", "a/[draft] letter.txt", True),
        ("/srv/storage/materials/a.pdf", "materials/a.pdf", True),
        ("/srv/storage/materials/a.pdf", "other/a.pdf", False),
        ("u\u0308ber", "a/\u00dcber.txt", True),
        ("\u00fcber", "a/U\u0308ber.txt", True),
        ("a.b", "axb", False),
        (" ", "anything", False),
        ("*a" * 200 + "b", "a" * 3000, False),
        ("bytes", "a/\udcff\nbytes", True),
    ],
)
def test_a_pattern_means_a_path_or_not(pattern: str, path: str, means: bool) -> None:
    assert path_matcher([pattern])(path) is means


def test_one_of_several_patterns_is_enough() -> None:
    assert path_matcher(["none", "letter"])("a/letter.txt")
