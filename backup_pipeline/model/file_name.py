"""Names of a set's files from a pattern of the settings, as in `cdb_backup_{time:%Y-%m-%d_%H%M}.sql`.

A field stands in braces; only `time` takes a format, of strftime's kind. A pattern may hold folders of the set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from string import Formatter

_RESERVED = ("records", "proofs", "tables", "manifest.json")
_FORBIDDEN = re.compile(r'[<>:"|?*\\\x00-\x1f]')
_SAMPLE = {"source": "source", "commit": "0e4fbd3", "branch": "main"}
_MOMENT = datetime(2026, 11, 25, 22, 27, tzinfo=UTC)


def name_fault(pattern: str, fields: Iterable[str], endings: Iterable[str]) -> str:
    """Return what is wrong with a pattern, "" when nothing is.

    Args:
        pattern: as the settings have it.
        fields: what it may name beside `time`.
        endings: one of these must be its end.
    """
    known = {"time", *fields}
    try:
        parts = list(Formatter().parse(pattern))
    except ValueError as error:
        return f"not a pattern: {error}"
    for _, name, form, conversion in parts:
        if name is not None and (name not in known or conversion or (form and name != "time")):
            return f"{{{name}}} cannot stand here; known are {', '.join(f'{{{each}}}' for each in sorted(known))}"
    shown = name_from(pattern, _MOMENT, **{name: _SAMPLE[name] for name in fields})
    places = shown.split("/")
    if _FORBIDDEN.search(shown) or any(place.strip(" .") != place or not place for place in places):
        return f"gives {shown!r}, which is no file name on every system (colons, for example, are not allowed)"
    if places[0] in _RESERVED:
        return f"{places[0]} is where the set keeps its own files"
    if not shown.endswith(tuple(endings)):
        return f"must end with {' or '.join(endings)}"
    return ""


def name_from(pattern: str, moment: datetime, **fields: str) -> str:
    """Return the name that a pattern gives; slashes in a field become `-`. `moment` is in the site's time zone."""
    return pattern.format(time=moment, **{name: value.replace("/", "-") for name, value in fields.items()})
