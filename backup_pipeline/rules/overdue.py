"""When a plan's next backup should have been there. Cron expressions are read by croniter; time is passed in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from croniter import croniter

_LEAST_GRACE = timedelta(minutes=15)
_MOST_GRACE = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Overdue:
    """A backup that is not there: since when it has been missing, and why that is so."""

    since: datetime
    reason: str


def last_time(schedule: str, timezone: str, now: datetime) -> datetime:
    """Return the last moment at or before `now` that a cron expression names, in UTC."""
    local = now.astimezone(ZoneInfo(timezone))
    return _aware(croniter(schedule, local + timedelta(seconds=1)).get_prev(datetime))


def next_time(schedule: str, timezone: str, now: datetime) -> datetime:
    """Return the first moment after `now` that a cron expression names, in UTC."""
    return _aware(croniter(schedule, now.astimezone(ZoneInfo(timezone))).get_next(datetime))


def _aware(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def grace_of(schedule: str, timezone: str, now: datetime) -> timedelta:
    """Return how late a backup may be: half the time between two of its times, within 15 minutes and 6 hours."""
    last = last_time(schedule, timezone, now)
    return min(max((next_time(schedule, timezone, now) - last) / 2, _LEAST_GRACE), _MOST_GRACE)


def overdue(
    *,
    schedule: str | None,
    timezone: str,
    overdue_after: timedelta | None,
    newest: datetime | None,
    known_since: datetime,
    now: datetime,
) -> Overdue | None:
    """Return why a plan's backup is overdue, or None.

    Args:
        schedule: the plan's cron expression.
        timezone: IANA name of its time zone.
        overdue_after: the age at which the newest set is too old; from the schedule when None.
        newest: start of the newest sealed backup of all of the plan's sources; None when there is none.
        known_since: when the plan was first looked at; while there is no set, nothing before that time was due.
        now: the present moment.
    """
    had = f"The newest complete set is of {newest:%Y-%m-%d %H:%M} UTC" if newest else "There is no complete set"
    begin = newest or known_since
    if overdue_after is not None:
        due = begin + overdue_after
        return Overdue(due, f"{had}; one is due every {_words(overdue_after)}.") if now > due else None
    if schedule is None:
        return None
    grace = grace_of(schedule, timezone, now)
    due = last_time(schedule, timezone, now - grace)
    if begin >= due:
        return None
    # Of several times that were missed the first one says since when.
    first = next_time(schedule, timezone, begin)
    return Overdue(first, f"{had}; one was due at {due:%Y-%m-%d %H:%M} UTC ({schedule} {timezone}).")


def _words(length: timedelta) -> str:
    hours = length.total_seconds() / 3600
    return f"{hours / 24:g} days" if hours >= 48 else f"{hours:g} hours"
