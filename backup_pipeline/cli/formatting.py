"""Formatting of sizes, ages and durations. Nothing heavy is imported here."""

from __future__ import annotations

import re
from datetime import timedelta

# What moves the cursor, colours or renames a terminal, or turns the direction of writing: never meant by a name.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Return text in which control characters are written out, as in `\\x1b`: a table's name must not steer a terminal.

    Ends of lines and tabs stay. Inside a JSON document the result is the same document.
    """
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def age_text(age: timedelta) -> str:
    """Return an age for people in its largest unit: `5 min`, `3 h`, `12 d`."""
    minutes = int(age.total_seconds() // 60)
    if minutes < 0:
        return "in the future"
    if minutes < 120:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h" if hours < 48 else f"{hours // 24} d"
