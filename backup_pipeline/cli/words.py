"""Sizes, ages and durations in words, as every command tells them. Nothing heavy is imported here."""

from __future__ import annotations

from datetime import timedelta


def bytes_text(size: float) -> str:
    """Return a size for people: `245.67 KB`, powers of 1024."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if size < 1024 or unit == "TB":
            return f"{size:.0f} B" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1024
    raise AssertionError


def figure_text(name: str, value: float) -> str:
    """Return a figure for people, as its name says what it is: `restore_seconds`, `file_bytes`, `rows`."""
    words = name.replace("_", " ")
    if name.endswith("bytes"):
        return f"{words.removesuffix(' bytes')} {bytes_text(value)}" if words != "bytes" else bytes_text(value)
    if name.endswith("_seconds"):
        return f"{words.removesuffix(' seconds')} {value:,.1f} s"
    return f"{value:,} {words}"


def age_text(age: timedelta) -> str:
    """Return an age for people in its largest unit: `5 min`, `3 h`, `12 d`."""
    minutes = int(age.total_seconds() // 60)
    if minutes < 0:
        return "in the future"
    if minutes < 120:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h" if hours < 48 else f"{hours // 24} d"
