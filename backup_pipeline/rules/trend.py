"""How sets grow, and when the disk will be full. Pure: sizes, free space and the time are passed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from itertools import combinations, pairwise
from statistics import median

from backup_pipeline.model.set_id import set_id_at
from backup_pipeline.rules.retention import Policy, SetClass, SetFacts, decide, is_empty

RECENT_SETS = 30
HORIZON = timedelta(days=180)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class SizedSet:
    """A set's facts and its bytes on disk."""

    facts: SetFacts
    size: int


@dataclass(frozen=True, slots=True)
class Trend:
    """How the size of a plan's sets develops.

    Attributes:
        last: bytes of the newest counted set.
        per_day: bytes by which a set grows each day (negative: it shrinks).
        every: the usual time between two sets.
    """

    last: int
    per_day: float
    every: timedelta

    def size_at(self, moment: datetime, newest: datetime) -> int:
        """Return the size to be expected of a set at `moment`."""
        days = (moment - newest) / _DAY
        return max(0, round(self.last + self.per_day * days))

    @property
    def per_month_percent(self) -> float:
        """Growth in 30 days as percent of the newest size; 0 for an empty set."""
        return 100 * 30 * self.per_day / self.last if self.last else 0.0


def trend_of(sets: Sequence[SizedSet]) -> Trend | None:
    """Return the trend of the newest counted sets; None when they span less than a day: too short to tell.

    The slope is the median of all pairs' slopes (Theil-Sen), so that one odd set does not tilt it.
    """
    counted = sorted((one for one in sets if one.facts.set_class is SetClass.BACKUP), key=lambda one: one.facts.at)
    recent = counted[-RECENT_SETS:]
    if not recent or recent[-1].facts.at - recent[0].facts.at < _DAY:
        return None
    slopes = [
        (b.size - a.size) / ((b.facts.at - a.facts.at) / _DAY)
        for a, b in combinations(recent, 2)
        if b.facts.at > a.facts.at
    ]
    gaps = [b.facts.at - a.facts.at for a, b in pairwise(recent)]
    every = sorted(gaps)[len(gaps) // 2]
    if not slopes or not every:
        return None
    return Trend(recent[-1].size, median(slopes), every)


def disk_full_at(sets: Sequence[SizedSet], free: int, policy: Policy, now: datetime, zone: tzinfo) -> datetime | None:
    """Return when a plan's store will have used up the free space; None when not within HORIZON, or not known.

    Plays the future through: a set of the expected size at the usual intervals, and retention after each of them, so
    that a store in its steady state is not said to grow.

    Args:
        sets: all sets of the store with their sizes.
        free: bytes that are free now.
        policy: the plan's retention.
        now: the present moment.
        zone: the site's time zone.
    """
    trend = trend_of(sets)
    if trend is None:
        return None
    newest = max(one.facts.at for one in sets if one.facts.set_class is SetClass.BACKUP)
    largest = max(trend.last, trend.size_at(now + HORIZON, newest))
    if free >= largest * (HORIZON / trend.every + 1):
        return None
    used = sum(one.size for one in sets)
    limit = used + free
    store = {one.facts.set_id: one for one in sets}
    # Sets of one day are played as one step: a store with sets every few minutes must not make `status` slow.
    bundle = max(1, round(_DAY / trend.every))
    moment = max(newest, now)
    while moment < now + HORIZON:
        for _ in range(bundle):
            moment += trend.every
            one = SizedSet(SetFacts(set_id_at(moment), moment), trend.size_at(moment, newest))
            store[one.facts.set_id] = one
            used += one.size
            if bundle == 1 and used > limit:
                return moment
        if not is_empty(policy):
            for gone in decide([one.facts for one in store.values()], policy, moment, zone).removed:
                used -= store.pop(gone.set_id).size
        if used > limit:
            return moment
    return None
