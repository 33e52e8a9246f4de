"""Growth of sets and the day on which the disk is full."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backup_pipeline.model.set_id import set_id_at
from backup_pipeline.rules.retention import SetFacts
from backup_pipeline.rules.trend import SizedSet, Stock, disk_full_at, trend_of
from backup_pipeline.settings.types import Retention

BEGIN = datetime(2026, 10, 1, 2, tzinfo=UTC)
DAY = timedelta(days=1)
KEEP_ALL = Retention()


def sized(sizes, every=DAY) -> list[SizedSet]:
    return [SizedSet(SetFacts(set_id_at(BEGIN + n * every), BEGIN + n * every), size) for n, size in enumerate(sizes)]


def test_steady_growth_is_seen_as_bytes_per_day():
    trend = trend_of(sized(range(1000, 3000, 100)))
    assert trend.per_day == pytest.approx(100)
    assert trend.every == DAY
    assert trend.size_at(BEGIN + 29 * DAY, BEGIN + 19 * DAY) == 2900 + 1000


def test_one_odd_set_does_not_tilt_the_trend():
    sizes = [1000] * 20
    sizes[10] = 900_000
    assert trend_of(sized(sizes)).per_day == 0


def test_one_set_has_no_trend():
    assert trend_of(sized([5])) is None
    assert disk_full_at([Stock(sized([5]), KEEP_ALL)], 1, BEGIN, UTC) is None


def test_a_store_that_keeps_everything_is_full_when_the_sets_no_longer_fit():
    now = BEGIN + 9 * DAY + timedelta(hours=1)
    full = disk_full_at([Stock(sized([1000] * 10), KEEP_ALL)], 5500, now, UTC)
    assert full == now + 6 * DAY


def test_a_store_in_its_steady_state_is_never_full():
    now = BEGIN + 19 * DAY + timedelta(hours=1)
    assert disk_full_at([Stock(sized([1000] * 7), Retention(keep_last=7))], 1500, now, UTC) is None


def test_growing_sets_fill_a_store_even_though_their_number_stays():
    now = BEGIN + 6 * DAY + timedelta(hours=1)
    full = disk_full_at([Stock(sized(range(1000, 1700, 100)), Retention(keep_last=7))], 20_000, now, UTC)
    # While a set is written there are eight, of 8 s - 2,800 bytes in all: 29,100 bytes are passed when s is 3,988.
    assert full == now + 24 * DAY


def test_much_free_space_is_not_full_within_the_horizon():
    now = BEGIN + 9 * DAY
    assert disk_full_at([Stock(sized([1000] * 10), KEEP_ALL)], 10**12, now, UTC) is None


def test_sets_every_hour_are_played_through_by_the_day():
    every = timedelta(hours=1)
    now = BEGIN + 99 * every
    full = disk_full_at([Stock(sized([1000] * 100, every), KEEP_ALL)], 2_400_000, now, UTC)
    assert now + 99 * DAY <= full <= now + 101 * DAY


def test_sets_of_a_few_minutes_have_no_trend():
    assert trend_of(sized([1000, 2000, 3000], timedelta(minutes=5))) is None


def test_sets_of_a_quarter_of_an_hour_have_a_trend_and_fill_the_disk():
    every = timedelta(minutes=15)
    sets = sized(range(10_000, 10_000 + 700 * 10, 10), every)
    trend = trend_of(sets)
    assert trend.every == every
    assert trend.per_day == pytest.approx(960)
    now = BEGIN + 699 * every
    assert disk_full_at([Stock(sets, KEEP_ALL)], 3 * 96 * 17_000, now, UTC) <= now + 4 * DAY


def test_stores_that_share_a_disk_fill_it_together():
    now = BEGIN + 9 * DAY + timedelta(hours=1)
    one = Stock(sized([1000] * 10), KEEP_ALL)
    assert disk_full_at([one], 40_500, now, UTC) == now + 41 * DAY
    hourly = Stock(sized([250] * 218, timedelta(hours=1)), KEEP_ALL)
    # Each day 1,000 and 24 x 250 bytes.
    both = disk_full_at([one, hourly], 40_500, now, UTC)
    assert now + 5 * DAY <= both <= now + 6 * DAY
    steady = Stock(sized([9000] * 10)[3:], Retention(keep_last=7))
    assert disk_full_at([one, steady], 49_500, now, UTC) <= now + 41 * DAY


def test_a_short_horizon_does_not_look_further():
    now = BEGIN + 9 * DAY + timedelta(hours=1)
    stock = Stock(sized([1000] * 10), KEEP_ALL)
    assert disk_full_at([stock], 5500, now, UTC, horizon=3 * DAY) is None
    assert disk_full_at([stock], 5500, now, UTC, horizon=7 * DAY) == now + 6 * DAY
