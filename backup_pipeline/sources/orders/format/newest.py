"""Which of several copies of an order is the newest. Ties: newer `exported_at`, then the first path in byte order."""

from __future__ import annotations

from datetime import UTC, datetime

OLDEST = -(1 << 62)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant_of(text: str | None) -> int:
    """Return an ISO 8601 time as microseconds since 1970 in UTC; without a zone it counts as UTC.

    OLDEST for what is absent or not a time: such a copy loses against every other.
    """
    if not text:
        return OLDEST
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return OLDEST
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    difference = moment - _EPOCH
    return (difference.days * 86_400 + difference.seconds) * 1_000_000 + difference.microseconds
