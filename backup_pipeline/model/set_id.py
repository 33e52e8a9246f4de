"""Names of backup sets: the UTC start time of the run, as in 2026-11-21T020000Z."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import NewType

SetId = NewType("SetId", str)

_FORM = "%Y-%m-%dT%H%M%SZ"
_PATTERN = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d)(\d\d)(\d\d)Z", re.ASCII)


def set_id_at(moment: datetime) -> SetId:
    """Return the name of a set that starts at `moment` (an aware datetime; seconds are kept)."""
    if moment.tzinfo is None:
        raise ValueError("a set's start needs a time zone")
    return SetId(moment.astimezone(UTC).strftime(_FORM))


def is_set_id(text: str) -> bool:
    """Return whether `text` has the form of a set's name and is a real time."""
    return _time_of(text) is not None


def set_time(set_id: SetId) -> datetime:
    """Return the aware UTC start time that a set's name says; ValueError for any other text."""
    moment = _time_of(set_id)
    if moment is None:
        raise ValueError(f"{set_id!r} is not the name of a set")
    return moment


# A store of thousands of sets is asked for each of them several times.
@lru_cache(maxsize=16384)
def _time_of(text: str) -> datetime | None:
    parts = _PATTERN.fullmatch(text)
    if parts is None:
        return None
    try:
        year, month, day, hour, minute, second = map(int, parts.groups())
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
