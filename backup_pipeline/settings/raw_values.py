"""Values of backup.yaml as they stand in the file, before the models have checked them: each may be anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

FieldPath = tuple[str | int, ...]
"""Keys and indexes from the top of the file, or from the source that is being checked."""
FoundFaults = Iterator[tuple[FieldPath, str]]
"""Each fault as the field's path and what is wrong with it."""


def names_in(value: Any) -> list[str]:
    """Return a list of names; one alone may stand without brackets, and what is no text is an empty name."""
    if isinstance(value, str):
        return [value]
    return [item if isinstance(item, str) else "" for item in value] if isinstance(value, list) else []


def item_path(path: FieldPath, value: Any, index: int) -> FieldPath:
    """Return the path of a name in `value`, which may be a list or stand alone."""
    return (*path, index) if isinstance(value, list) else path


def unqualified_patterns(source: Mapping[str, Any], schema: str) -> FoundFaults:
    """Yield the patterns of a source's tables that name no schema; `schema` is the one that was probably meant."""
    tables = source.get("tables") if isinstance(source.get("tables"), dict) else {}
    places: list[tuple[FieldPath, Any]] = [(("tables", key), (tables or {}).get(key)) for key in ("include", "exclude")]
    places.append((("master_tables",), source.get("master_tables")))
    for path, value in places:
        for index, pattern in enumerate(names_in(value)):
            if pattern and "." not in pattern:
                what = f"a pattern is schema.table; did you mean {schema}.{pattern}?"
                yield item_path(path, value, index), what
