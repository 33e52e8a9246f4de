"""A clock that was ahead for a while: what it wrote silences nothing once it is right again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backup_pipeline.model.incident import Acknowledgement, Incident, IncidentKind, IncidentState, Observation
from backup_pipeline.rules.acknowledgements import acknowledge, end_acknowledgements
from backup_pipeline.rules.clock_ahead import observed_by_now, without_times_ahead
from backup_pipeline.rules.incidents import claim, incident_key, observe

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY = incident_key(IncidentKind.RUN_FAILED, "nightly", "backup")
STEPS = pytest.mark.parametrize("ahead", [timedelta(days=1), timedelta(days=365)])


def trouble(at: datetime) -> Observation:
    incident = Incident(key=KEY, kind=IncidentKind.RUN_FAILED, plan="nightly", what="The backup failed.", opened_at=at)
    return Observation(KEY, at, incident)


def seen(state: IncidentState, *observations: Observation, now: datetime) -> IncidentState:
    return observe(without_times_ahead(state, now), observed_by_now(observations, now))


@STEPS
def test_a_success_of_a_time_to_come_hides_no_failure_until_then(ahead: timedelta) -> None:
    state = seen(IncidentState(), Observation(KEY, NOON + ahead), now=NOON + ahead)
    state = seen(state, trouble(NOON), now=NOON)
    assert [incident.opened_at for incident in state.open] == [NOON]
    assert len(state.notices) == 1


@STEPS
def test_a_failure_of_a_time_to_come_is_over_when_all_is_well(ahead: timedelta) -> None:
    state = seen(IncidentState(), trouble(NOON + ahead), now=NOON + ahead)
    state = seen(state, now=NOON)
    state = seen(state, Observation(KEY, NOON + timedelta(hours=1)), now=NOON + timedelta(hours=1))
    assert state.open == ()


@STEPS
def test_a_message_that_was_taken_up_in_a_time_to_come_is_sent_now(ahead: timedelta) -> None:
    state, _ = claim(seen(IncidentState(), trouble(NOON + ahead), now=NOON + ahead), NOON + ahead)
    _, taken = claim(seen(state, now=NOON), NOON)
    assert len(taken) == 1


@STEPS
def test_an_acknowledgement_of_a_time_to_come_ends_now(ahead: timedelta) -> None:
    state = seen(IncidentState(), trouble(NOON), now=NOON)
    given = Acknowledgement(by="anna", at=NOON + ahead, until=NOON + ahead + timedelta(days=7))
    state = end_acknowledgements(without_times_ahead(acknowledge(state, {KEY}, given), NOON), NOON)
    assert [incident.acknowledged for incident in state.open] == [None]
    assert [bool(notice.note) for notice in state.notices] == [True]


def test_what_a_clock_a_little_ahead_wrote_stays_as_it_is() -> None:
    state = seen(IncidentState(), Observation(KEY, NOON + timedelta(minutes=4)), now=NOON + timedelta(minutes=4))
    assert without_times_ahead(state, NOON) == state
