"""Golden tables of retention: invented histories, and what is kept of them and why, as a person reads it.

`REGENERATE_GOLDEN=1 pytest backup_pipeline_tests/rules/test_retention_golden.py` writes the tables anew; read the
difference before you keep it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from backup_pipeline.model.backup_set import SetState
from backup_pipeline.model.manifest import Purpose
from backup_pipeline.model.set_id import set_id_at
from backup_pipeline.rules.retention import SetFacts, Verdict, decide
from backup_pipeline.settings.types import Retention

GOLDEN = Path(__file__).parent / "golden"
BERLIN = ZoneInfo("Europe/Berlin")
NIGHTLY = Retention(keep_daily=7, keep_weekly=4, keep_monthly=12, keep_last=3)


def good(at: datetime, **more) -> SetFacts:
    return SetFacts(set_id_at(at), at.astimezone(UTC), **more)


def nights(begin: datetime, count: int) -> list[SetFacts]:
    """Sets at the same wall-clock time on consecutive days."""
    return [good(begin + timedelta(days=day)) for day in range(count)]


def a_year_of_nights() -> Verdict:
    sets = nights(datetime(2025, 11, 22, 2, tzinfo=BERLIN), 365)
    return decide(sets, NIGHTLY, datetime(2026, 11, 21, 12, tzinfo=UTC), BERLIN)


def daylight_saving_begins_and_ends() -> Verdict:
    spring = [good(datetime(2026, 3, 28, 22, tzinfo=UTC) + timedelta(hours=hour)) for hour in range(6)]
    autumn = [good(datetime(2026, 10, 24, 21, tzinfo=UTC) + timedelta(hours=hour)) for hour in range(6)]
    policy = Retention(keep_daily=10, keep_within=timedelta(days=1))
    return decide([*spring, *autumn], policy, datetime(2026, 11, 25, 12, tzinfo=UTC), BERLIN)


def leap_day_and_weeks_over_new_year() -> Verdict:
    sets = [
        *nights(datetime(2023, 12, 29, 2, tzinfo=UTC), 6),
        *nights(datetime(2024, 2, 27, 2, tzinfo=UTC), 4),
        *nights(datetime(2026, 12, 30, 2, tzinfo=UTC), 4),
    ]
    policy = Retention(keep_weekly=5, keep_monthly=3, keep_yearly=4)
    return decide(sets, policy, datetime(2027, 2, 3, tzinfo=UTC), ZoneInfo("UTC"))


def gaps_of_months() -> Verdict:
    days = ["2025-01-03", "2025-01-04", "2025-06-30", "2025-07-01", "2026-02-28", "2026-11-19", "2026-11-20"]
    sets = [good(datetime.fromisoformat(f"{day}T02:00:00+00:00")) for day in days]
    return decide(sets, Retention(keep_daily=3, keep_monthly=3), datetime(2026, 11, 21, tzinfo=UTC), ZoneInfo("UTC"))


def a_row_of_damaged_sets_after_a_proven_one() -> Verdict:
    sets = nights(datetime(2026, 11, 1, 2, tzinfo=UTC), 20)
    sets[3] = replace(sets[3], verified=True, proven=True)
    sets[5] = replace(sets[5], verified=True)
    sets[8:18] = [replace(one, problem="verification found damage on 2026-11-19") for one in sets[8:18]]
    return decide(sets, Retention(keep_last=2), datetime(2026, 11, 21, tzinfo=UTC), ZoneInfo("UTC"))


def the_newest_set_is_incomplete() -> Verdict:
    sets = nights(datetime(2026, 11, 1, 2, tzinfo=UTC), 6)
    sets[-1] = replace(sets[-1], state=SetState.INCOMPLETE)
    sets[2] = replace(sets[2], state=SetState.INCOMPLETE)
    return decide(sets, Retention(keep_last=1), datetime(2026, 11, 21, tzinfo=UTC), ZoneInfo("UTC"))


def emergency_incomplete_and_partial_sets_apart() -> Verdict:
    sets = nights(datetime(2026, 11, 1, 2, tzinfo=UTC), 20)
    hour = timedelta(hours=1)
    sets += [
        good(datetime(2026, 9, 1, 3, tzinfo=UTC), purpose=Purpose.EMERGENCY),
        good(datetime(2026, 11, 5, 3, tzinfo=UTC), purpose=Purpose.EMERGENCY),
        good(datetime(2026, 11, 7, 4, tzinfo=UTC), state=SetState.INCOMPLETE),
        good(datetime(2026, 11, 20, 4, tzinfo=UTC), state=SetState.INCOMPLETE),
        good(datetime(2026, 11, 21, 1, tzinfo=UTC), state=SetState.INCOMPLETE, running=True),
    ]
    sets += [
        good(datetime(2026, 11, 10, 5, tzinfo=UTC) + n * hour, partial=True, sources=("keycloak",)) for n in range(4)
    ]
    sets[19] = good(datetime(2026, 11, 20, 23, tzinfo=UTC))
    return decide(sets, Retention(keep_last=2), datetime(2026, 11, 21, 2, tzinfo=UTC), ZoneInfo("UTC"))


def a_set_from_the_future() -> Verdict:
    sets = nights(datetime(2026, 11, 1, 2, tzinfo=UTC), 5)
    return decide(sets, Retention(keep_last=1), datetime(2026, 11, 4, tzinfo=UTC), ZoneInfo("UTC"))


def a_clock_that_was_wrong_by_a_year() -> Verdict:
    sets = nights(datetime(2025, 11, 10, 2, tzinfo=UTC), 12)
    ahead = [good(datetime(2026, 11, 21, 2, tzinfo=UTC)), good(datetime(2026, 11, 22, 2, tzinfo=UTC))]
    policy = Retention(keep_within=timedelta(days=7))
    return decide([*sets, *ahead], policy, datetime(2026, 11, 22, 3, tzinfo=UTC), ZoneInfo("UTC"))


def a_source_dropped_from_its_plan() -> Verdict:
    days = nights(datetime(2026, 11, 1, 2, tzinfo=UTC), 8)
    sets = [replace(one, sources=("shop", "old") if number < 3 else ("shop",)) for number, one in enumerate(days)]
    sets.insert(0, good(datetime(2026, 10, 31, 2, tzinfo=UTC), sources=("older",), partial=True))
    sets[2] = replace(sets[2], problem="verification found damage")
    sets[3] = replace(sets[3], problem="verification found damage")
    now = datetime(2026, 11, 9, tzinfo=UTC)
    return decide(sets, Retention(keep_last=2), now, ZoneInfo("UTC"), ("shop", "new"))


def an_empty_policy() -> Verdict:
    return decide(nights(datetime(2026, 1, 1, tzinfo=UTC), 3), Retention(), datetime(2026, 11, 4, tzinfo=UTC), UTC)


HISTORIES: list[Callable[[], Verdict]] = [
    a_year_of_nights,
    daylight_saving_begins_and_ends,
    leap_day_and_weeks_over_new_year,
    gaps_of_months,
    a_row_of_damaged_sets_after_a_proven_one,
    the_newest_set_is_incomplete,
    emergency_incomplete_and_partial_sets_apart,
    a_set_from_the_future,
    a_clock_that_was_wrong_by_a_year,
    a_source_dropped_from_its_plan,
    an_empty_policy,
]


def table_of(verdict: Verdict) -> str:
    lines = [f"refusal: {verdict.refusal or 'none'}"]
    for decision in verdict.decisions:
        what = "keep  " if decision.keep else "remove"
        lines.append(f"{decision.set_id} {what} {decision.set_class:10} {'; '.join(decision.reasons)}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.__name__)
def test_a_history_is_judged_as_its_golden_table_says(history):
    file = GOLDEN / f"retention_{history.__name__}.txt"
    made = table_of(history())
    if os.environ.get("REGENERATE_GOLDEN"):
        file.write_text(made)
    assert made == file.read_text()
