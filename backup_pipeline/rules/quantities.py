"""Sizes, durations, lists and other figures as people read them: `2.58 MB`, `31 s`, `a, b and c`."""

from __future__ import annotations

from collections.abc import Sequence


def enumerated(names: Sequence[str]) -> str:
    """Return names in a sentence: `a`, `a and b`, `a, b and c`."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def counted(number: int, noun: str) -> str:
    """Return a number of things: `1 set`, `1,200 sets`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def bytes_text(size: float) -> str:
    """Return a size for people: `245.67 KB`, powers of 1000, as on the status page."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.0f} B" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1000
    raise AssertionError


def figure_text(name: str, value: float) -> str:
    """Return a figure for people, as its name says what it is: `restore_seconds`, `file_bytes`, `rows`."""
    label = name.replace("_", " ")
    if name.endswith("bytes"):
        return f"{label.removesuffix(' bytes')} {bytes_text(value)}" if label != "bytes" else bytes_text(value)
    if name.endswith("_seconds"):
        return f"{label.removesuffix(' seconds')} {value:,.1f} s"
    return f"{value:,} {label}"


def seconds_text(seconds: float) -> str:
    """Return a duration for people: `0.4 s`, `31 s`, `2 min 5 s`, `3 h 20 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
