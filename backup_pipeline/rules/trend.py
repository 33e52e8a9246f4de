"""How sets grow, and when the disk will be full. Pure: sizes, free space and the time are passed in."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from itertools import combinations, pairwise
from statistics import median

from backup_pipeline.model.set_id import set_id_at
from backup_pipeline.rules.retention import Policy, SetClass, SetFacts, decide, is_empty

RECENT_SETS = 30
# Of sets every few minutes those of two days count, and of these an even choice: pairs are many otherwise.
_RECENT_TIME = timedelta(days=2)
_SLOPE_POINTS = 60
HORIZON = timedelta(days=180)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class SizedSet:
    """A set's facts and its bytes on disk."""

    facts: SetFacts
    size: int


@dataclass(frozen=True, slots=True)
class Stock:
    """All sets of one store, and the policy by which they go again."""

    sets: Sequence[SizedSet]
    policy: Policy


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
    """Return the trend of the newest counted sets; None when they span less than a day: too short a time.

    The slope is the median of all pairs' slopes (Theil-Sen), so that one odd set does not tilt it.
    """
    counted = sorted((one for one in sets if one.facts.set_class is SetClass.BACKUP), key=lambda one: one.facts.at)
    young = [one for one in counted if counted[-1].facts.at - one.facts.at <= _RECENT_TIME]
    recent = counted[-max(RECENT_SETS, len(young)) :]
    if not recent or recent[-1].facts.at - recent[0].facts.at < _DAY:
        return None
    points = recent[:: -(-len(recent) // _SLOPE_POINTS)]
    slopes = [
        (b.size - a.size) / ((b.facts.at - a.facts.at) / _DAY)
        for a, b in combinations(points, 2)
        if b.facts.at > a.facts.at
    ]
    gaps = [b.facts.at - a.facts.at for a, b in pairwise(recent)]
    every = sorted(gaps)[len(gaps) // 2]
    if not slopes or not every:
        return None
    return Trend(recent[-1].size, median(slopes), every)


@dataclass(slots=True)
class _Growing:
    """A store whose future is played through: a set of the expected size at the usual intervals."""

    trend: Trend
    newest: datetime
    policy: Policy
    store: dict[str, SizedSet]
    moment: datetime
    # Sets of one day are played as one step: a store with sets every few minutes must not make `status` slow.
    bundle: int = field(init=False)

    def __post_init__(self) -> None:
        self.bundle = max(1, round(_DAY / self.trend.every))

    def most(self, until: datetime) -> float:
        """Return bytes that its new sets until then cannot exceed."""
        largest = max(self.trend.last, self.trend.size_at(until, self.newest))
        return largest * ((until - self.moment) / self.trend.every + 1)

    def add(self) -> int:
        """Make the next set; return its bytes."""
        self.moment += self.trend.every
        one = SizedSet(SetFacts(set_id_at(self.moment), self.moment), self.trend.size_at(self.moment, self.newest))
        self.store[one.facts.set_id] = one
        return one.size

    def clean_up(self, zone: tzinfo) -> int:
        """Let go what the policy lets go; return its bytes."""
        if is_empty(self.policy):
            return 0
        gone = decide([one.facts for one in self.store.values()], self.policy, self.moment, zone).removed
        return sum(self.store.pop(one.set_id).size for one in gone)


def _growing(stock: Stock, now: datetime) -> _Growing | None:
    trend = trend_of(stock.sets)
    if trend is None:
        return None
    newest = max(one.facts.at for one in stock.sets if one.facts.set_class is SetClass.BACKUP)
    store = {str(one.facts.set_id): one for one in stock.sets}
    return _Growing(trend, newest, stock.policy, store, max(newest, now))


def disk_full_at(
    stocks: Sequence[Stock], free: int, now: datetime, zone: tzinfo, *, horizon: timedelta = HORIZON
) -> datetime | None:
    """Return when the stores of one disk will have used up its free space; None when not soon, or not known.

    Plays the future of all of them through together: a set of the expected size at the usual intervals, and retention
    after each of them, so that a store in its steady state is not said to grow.

    Args:
        stocks: every store of the disk, each with all of its sets.
        free: bytes that are free now.
        now: the present moment.
        zone: the site's time zone.
        horizon: how far to forecast.
    """
    until = now + horizon
    growing = [one for stock in stocks if (one := _growing(stock, now))]
    if free >= sum(one.most(until) for one in growing):
        return None
    queue = [(one.moment + one.trend.every, number, one) for number, one in enumerate(growing)]
    heapq.heapify(queue)
    used = 0
    while queue and queue[0][2].moment < until:
        _, number, one = heapq.heappop(queue)
        for _ in range(one.bundle):
            used += one.add()
            if one.bundle == 1 and used > free:
                return one.moment
        used -= one.clean_up(zone)
        if used > free:
            return one.moment
        heapq.heappush(queue, (one.moment + one.trend.every, number, one))
    return None
