"""When a backup is due: at the very moments at which Dagster starts it, also on days on which clocks are changed."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

from dagster._utils.schedules import schedule_execution_time_iterator

from backup_pipeline.rules.overdue import last_time, next_time, overdue

# The days before clocks are changed, forth and back.
CHANGES = {
    "Europe/Berlin": ("2026-03-28", "2026-10-24"),
    "America/New_York": ("2026-03-07", "2026-10-31"),
    "Australia/Sydney": ("2026-10-03", "2026-04-04"),
}
SCHEDULES = ("0 2 * * *", "30 2 * * *", "15 1-3 * * *", "0 * * * *", "0 */2 * * *", "0 2 * * 0", "5 0 * * 1-5")


def test_ticks_are_those_of_dagster_where_clocks_are_changed() -> None:
    for (zone, days), schedule in itertools.product(CHANGES.items(), SCHEDULES):
        for day in days:
            begin = datetime.fromisoformat(f"{day}T00:00:00Z")
            ticks = schedule_execution_time_iterator(begin.timestamp(), schedule, zone)
            moment = begin - timedelta(seconds=1)
            for local in itertools.takewhile((begin + timedelta(days=2.5)).__gt__, ticks):
                # A time that comes twice equals nothing in another zone.
                tick = local.astimezone(UTC)
                assert next_time(schedule, zone, moment) == tick, (schedule, zone, moment)
                assert last_time(schedule, zone, tick + timedelta(seconds=30)) == tick, (schedule, zone, tick)
                moment = tick
            assert moment > begin


def test_a_backup_is_not_overdue_before_dagster_starts_it_at_the_end_of_summer_time() -> None:
    def late(now: datetime) -> bool:
        found = overdue(
            schedule="0 2 * * *",
            timezone="Europe/Berlin",
            overdue_after=None,
            newest=datetime(2026, 10, 24, 0, 0, 5, tzinfo=UTC),
            known_since=now,
            now=now,
        )
        return found is not None

    # Two o'clock comes twice on this day, at 00:00 and at 01:00 UTC; Dagster starts at the second.
    assert not late(datetime(2026, 10, 25, 6, 59, tzinfo=UTC))
    assert late(datetime(2026, 10, 25, 7, 1, tzinfo=UTC))
