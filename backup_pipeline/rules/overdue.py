"""Overdue backups: when a plan's next backup was due, at the same moments as Dagster's schedules. Time is passed in.

Cron expressions are read by croniter, which knows no time zones that can be relied on; the zone is applied here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from heapq import heappop, heappush
from itertools import pairwise
from zoneinfo import ZoneInfo

from croniter import croniter

_LEAST_GRACE = timedelta(minutes=15)
_MOST_GRACE = timedelta(hours=6)
# More than clocks are ever changed by.
_SHIFT = timedelta(hours=3)
# A fixed moment: what is concluded from a schedule must come out the same whenever that is.
_FROM = datetime(2024, 1, 1, tzinfo=UTC)
_TICKS = 60
# To look for a time anew costs as much as some steps from one to the next.
_STEPS = 8


@dataclass(frozen=True, slots=True)
class Overdue:
    """A backup that is not there: since when it has been missing, and why that is so."""

    since: datetime
    reason: str


# Hundreds of plans may have one schedule, and each is asked for it several times.
@lru_cache(maxsize=1 << 14)
def last_time(schedule: str, timezone: str, now: datetime) -> datetime:
    """Return the last moment at or before `now` that a cron expression names, in UTC."""
    zone, hourly = ZoneInfo(timezone), _is_hourly(schedule)
    times = croniter(schedule, _naive(now, zone) + _SHIFT + timedelta(seconds=1))
    found: datetime | None = None
    while True:
        local = times.get_prev(datetime)
        if found is not None and local < _naive(found, zone) - _SHIFT:
            return found
        for moment in _moments(local, zone, hourly):
            if moment <= now and (found is None or moment > found):
                found = moment


@lru_cache(maxsize=1 << 14)
def next_time(schedule: str, timezone: str, now: datetime) -> datetime:
    """Return the first moment after `now` that a cron expression names, in UTC."""
    return next(times_after(schedule, timezone, now))


def times_after(schedule: str, timezone: str, moment: datetime) -> Iterator[datetime]:
    """Yield each moment after `moment` that a cron expression names, in UTC, the earliest first."""
    zone, hourly = ZoneInfo(timezone), _is_hourly(schedule)
    times = croniter(schedule, _naive(moment, zone) - _SHIFT)
    # Where clocks are changed, what is shown later may come earlier.
    waiting: list[datetime] = []
    while True:
        local = times.get_next(datetime)
        while waiting and local > _naive(waiting[0], zone) + _SHIFT:
            yield heappop(waiting)
        for found in _moments(local, zone, hourly):
            if found > moment and found not in waiting:
                heappush(waiting, found)


class Deadlines:
    """By when the next backup after a moment is due; each question as late as the one before, or later, costs little.

    Args:
        schedule: a cron expression.
        timezone: IANA name of its time zone.
    """

    def __init__(self, schedule: str, timezone: str) -> None:
        self._schedule, self._timezone = schedule, timezone
        self._times: Iterator[datetime] = iter(())
        # Between the first two there is no other time; nothing was asked yet.
        self._asked = self._first = self._second = datetime.max.replace(tzinfo=UTC)

    def after(self, moment: datetime) -> datetime:
        """Return by when a backup has to be there if the last one is of `moment`: the next time, and its grace."""
        if not self._asked <= moment < self._first:
            self._move_to(moment)
        return self._first + _grace(self._second - self._first)

    def _move_to(self, moment: datetime) -> None:
        for _ in range(_STEPS if moment > self._asked else 0):
            self._asked, self._first, self._second = self._first, self._second, next(self._times)
            if moment < self._first:
                return
        self._asked, self._times = moment, times_after(self._schedule, self._timezone, moment)
        self._first, self._second = next(self._times), next(self._times)


def _naive(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)


@lru_cache(maxsize=1024)
def _is_hourly(schedule: str) -> bool:
    hours: list[object] = croniter.expand(schedule)[0][1]
    return hours == ["*"]


def _moments(local: datetime, zone: ZoneInfo, hourly: bool) -> list[datetime]:
    """Return when a clock in a zone shows a time, in UTC, as Dagster decides it where clocks are changed.

    A time that comes twice counts when it comes for the second time, one that is skipped when the gap is over; a
    schedule of every hour runs at both and at none.
    """
    first, second = (local.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    before, after = first.utcoffset(), second.utcoffset()
    assert before is not None
    assert after is not None
    if before < after:
        return [] if hourly else [(local.replace(minute=0, second=0, tzinfo=zone, fold=0)).astimezone(UTC)]
    if before > after and not hourly:
        return [second.astimezone(UTC)]
    return [first.astimezone(UTC), second.astimezone(UTC)]


def grace_of(schedule: str, timezone: str, now: datetime) -> timedelta:
    """Return how late a backup may be: half the time between two of its times, within 15 minutes and 6 hours."""
    return _grace(next_time(schedule, timezone, now) - last_time(schedule, timezone, now))


def _grace(pause: timedelta) -> timedelta:
    return min(max(pause / 2, _LEAST_GRACE), _MOST_GRACE)


@lru_cache(maxsize=1024)
def longest_pause(schedule: str, timezone: str) -> timedelta:
    """Return the longest time between two times in a row of a cron expression."""
    times = [_FROM]
    for _ in range(_TICKS):
        times.append(next_time(schedule, timezone, times[-1]))
    return max(after - before for before, after in pairwise(times[1:]))


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
        known_since: when the plan was first inspected; while there is no set, nothing before that time was due.
        now: the present moment.
    """
    had = f"The newest complete set is of {newest:%Y-%m-%d %H:%M} UTC" if newest else "There is no complete set"
    begin = newest or known_since
    if overdue_after is not None:
        due = begin + overdue_after
        return Overdue(due, f"{had}; one is due every {_duration(overdue_after)}.") if now > due else None
    if schedule is None:
        return None
    grace = grace_of(schedule, timezone, now)
    due = last_time(schedule, timezone, now - grace)
    if begin >= due:
        return None
    # Of several times that were missed the first one says since when.
    first = next_time(schedule, timezone, begin)
    return Overdue(first, f"{had}; one was due at {due:%Y-%m-%d %H:%M} UTC ({schedule} {timezone}).")


def _duration(length: timedelta) -> str:
    hours = length.total_seconds() / 3600
    return f"{hours / 24:g} days" if hours >= 48 else f"{hours:g} hours"


def what_starts(where: str, schedule: str | None, overdue_after: timedelta | None) -> str:
    """Return the remedy where nothing starts a plan's backups, and nobody would learn that they stopped; "" otherwise.

    `where` is its place in the settings, as `plans.nightly`. With `overdue_after` somebody else starts them (cron, a
    person), and their absence is reported.
    """
    if schedule or overdue_after:
        return ""
    return (
        f'give it `schedule: "0 2 * * *"` under `{where}` in `backup.yaml`; where cron or a person starts it, '
        "`overdue_after: 30h` there, so that its absence is reported"
    )
