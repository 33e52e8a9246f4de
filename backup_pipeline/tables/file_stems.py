"""File names of table exports: `tables/<source>/<schema>.<table>`, safe on every file system, never the same twice."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from urllib.parse import quote

_LONGEST = 120


def _part(name: str) -> str:
    return quote(name, safe=" -_").replace(".", "%2E")


def _stem(schema: str, table: str) -> str:
    stem = f"{_part(schema)}.{_part(table)}"
    return stem if len(stem) <= _LONGEST else f"{stem[:_LONGEST]}~{_mark(schema, table)}"


def _mark(schema: str, table: str) -> str:
    return hashlib.sha256(f"{schema}\0{table}".encode()).hexdigest()[:12]


def file_stems(source: str, tables: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return the path without suffix of each (schema, table).

    Odd characters are percent-encoded; a long name is cut and marked; names that differ only in case, which some file
    systems cannot distinguish, are marked too.
    """
    names = list(tables)
    stems = {name: _stem(*name) for name in names}
    counts = Counter(stem.casefold() for stem in stems.values())
    return {
        name: f"tables/{source}/{stem}" + (f"~{_mark(*name)}" if counts[stem.casefold()] > 1 else "")
        for name, stem in stems.items()
    }
