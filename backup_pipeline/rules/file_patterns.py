"""Patterns that people give for the names of files, and which paths they mean. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from fnmatch import translate

LONGEST = 500
"""Characters of a pattern; what is behind them is not read."""
_SIGNS = re.compile(r"[*?\[]")


def path_matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return what decides whether a path of an artefact is meant by one of some patterns.

    Upper and lower case are the same, and so are the two ways in which Unicode writes an accent. A part of a file's
    name means it, and with a slash a part of its path; with `*`, `?` or `[…]` the whole name, or the whole end of the
    path. A path from the root of a machine means the files whose path here it ends with.
    """
    matchers = [_matcher(_plain(pattern[:LONGEST])) for pattern in patterns if pattern.strip()]

    def means(path: str) -> bool:
        plain = _plain(path)
        return any(one(plain) for one in matchers)

    return means


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _matcher(pattern: str) -> Callable[[str], bool]:
    in_name = "/" not in pattern
    if _SIGNS.search(pattern):
        whole = re.compile(f"(?s:.*/)?{translate(pattern.lstrip('/'))}")
        # A name that holds such signs itself is found as it is written.
        return lambda path: bool(whole.match(_name(path) if in_name else path)) or _holds(path, pattern, in_name)
    if pattern.startswith("/"):
        return lambda path: pattern.endswith(f"/{path}") or pattern.rstrip("/") in f"/{path}"
    return lambda path: _holds(path, pattern, in_name)


def _holds(path: str, pattern: str, in_name: bool) -> bool:
    return pattern in (_name(path) if in_name else path)


def _name(path: str) -> str:
    return path.rpartition("/")[2]
