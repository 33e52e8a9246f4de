"""Single edges of retention that random histories seldom meet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from backup_pipeline.model.set_id import set_id_at
from backup_pipeline.rules.retention import SetFacts, decide
from backup_pipeline.settings.types import Retention

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def one(at: datetime, **more) -> SetFacts:
    return SetFacts(set_id_at(at), at, **more)


def kept(sets: list[SetFacts], policy: Retention, zone: str = "UTC", now: datetime = NOW) -> set[str]:
    return {str(decision.set_id) for decision in decide(sets, policy, now, ZoneInfo(zone)).kept}


@pytest.mark.parametrize(("seconds", "stays"), [(-1, False), (0, False), (1, True)])
def test_a_set_exactly_as_old_as_keep_within_goes_and_one_a_second_younger_stays(seconds, stays):
    newest = one(NOW)
    old = one(NOW - timedelta(days=14) + timedelta(seconds=seconds))
    assert (old.set_id in kept([old, newest], Retention(keep_within=timedelta(days=14)))) is stays


def test_keep_within_counts_days_by_the_calendar_when_the_clock_changes():
    # Noon of 25 October is 25 hours after noon of the 24th in Berlin.
    newest = one(datetime(2026, 10, 25, 11, tzinfo=UTC))
    within, beyond = one(datetime(2026, 10, 24, 10, 0, 1, tzinfo=UTC)), one(datetime(2026, 10, 24, 10, tzinfo=UTC))
    policy = Retention(keep_within=timedelta(days=1))
    assert kept([beyond, within, newest], policy, "Europe/Berlin") == {within.set_id, newest.set_id}


def test_partial_sets_of_different_sources_are_counted_by_themselves():
    days = [NOW - timedelta(days=day) for day in range(6)]
    whole = one(days[0])
    first = [one(at - timedelta(hours=1), partial=True, sources=("a",)) for at in days[:2]]
    second = [one(at - timedelta(hours=2), partial=True, sources=("b",)) for at in days[2:4]]
    assert kept([whole, *first, *second], Retention(keep_last=1)) == {whole.set_id, first[0].set_id, second[0].set_id}


@pytest.mark.parametrize(("age", "stays"), [(timedelta(days=30), False), (timedelta(days=30, seconds=-1), True)])
def test_an_emergency_set_goes_at_the_end_of_its_time(age, stays):
    from backup_pipeline.model.manifest import Purpose

    emergency = one(NOW - age, purpose=Purpose.EMERGENCY)
    assert (emergency.set_id in kept([emergency, one(NOW)], Retention(keep_last=1))) is stays


def test_a_plan_that_has_only_partial_sets_keeps_the_last_of_them():
    sets = [one(NOW - timedelta(days=day), partial=True, sources=("a",)) for day in range(1, 4)]
    verdict = decide(sets, Retention(keep_last=1), NOW, ZoneInfo("UTC"))
    assert "the last complete set" in verdict.kept[0].reasons
    assert len(verdict.removed) == 2
