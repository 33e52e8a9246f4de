"""Periods of days, months and quarters in a site's time zone, from what a person writes."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from backup_pipeline.errors import RefusedError

_MONTH = re.compile(r"(\d{4})-(\d{2})")
_QUARTER = re.compile(r"(\d{4})-?[Qq]([1-4])")
_YEAR = re.compile(r"(\d{4})")


def period_of(text: str, timezone: str) -> tuple[datetime, datetime]:
    """Return a period's first moment and the first after it, in UTC.

    Args:
        text: a day (2026-11-21), month (2026-11), quarter (2026-Q4), year (2026), or two days with `..` between them,
            both included.
        timezone: IANA name of the zone in which its days begin.

    Raises:
        RefusedError: it is none of these.
    """
    first, last = _days(text.strip())
    zone = ZoneInfo(timezone)
    begin, end = (datetime.combine(day, time(), zone).astimezone(UTC) for day in (first, last + timedelta(days=1)))
    return begin, end


def _days(text: str) -> tuple[date, date]:
    try:
        if found := _MONTH.fullmatch(text):
            return _months(int(found[1]), int(found[2]), 1)
        if found := _QUARTER.fullmatch(text):
            return _months(int(found[1]), int(found[2]) * 3 - 2, 3)
        if found := _YEAR.fullmatch(text):
            return _months(int(found[1]), 1, 12)
        first, between, last = text.partition("..")
        begin = date.fromisoformat(first.strip())
        end = date.fromisoformat(last.strip()) if between else begin
        if begin <= end < date.max:
            return begin, end
    except (ValueError, OverflowError):
        pass
    raise RefusedError(
        f"{text[:40]!r} is no period.",
        remedy="Write a day (2026-11-21), month (2026-11), quarter (2026-Q4), year (2026), or 2026-11-01..2026-11-15.",
    )


def _months(year: int, month: int, count: int) -> tuple[date, date]:
    index = year * 12 + month - 1 + count
    return date(year, month, 1), date(index // 12, index % 12 + 1, 1) - timedelta(days=1)
