"""When an incident opens, is told, is over; when a backup is overdue; and what no message may hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_pipeline.model.incident import Acknowledgement, Incident, IncidentKind, IncidentState, Notice, Observation
from backup_pipeline.redaction import scrub, secrets_in
from backup_pipeline.rules.acknowledgements import acknowledge, end_acknowledgements, withdraw
from backup_pipeline.rules.incidents import claim, compose, incident_key, observe, settle
from backup_pipeline.rules.overdue import last_time, next_time, overdue

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY = incident_key(IncidentKind.RUN_FAILED, "nightly", "backup")
HOUR = timedelta(hours=1)


def trouble(at: datetime = NOON, key: str = KEY, **fields: str) -> Observation:
    what = fields.pop("what", "The backup failed.")
    kind = IncidentKind(key.split(":")[0])
    return Observation(key, at, Incident(key=key, kind=kind, plan="nightly", what=what, opened_at=at, **fields))


def known(state: IncidentState, at: datetime = NOON, **fields: str) -> IncidentState:
    given = Acknowledgement(by="anna", at=at, until=at + timedelta(days=7), **fields)
    return acknowledge(state, {incident.key for incident in state.open}, given)


def well(at: datetime, key: str = KEY) -> Observation:
    return Observation(key, at)


def test_an_incident_is_told_once_however_often_it_is_seen() -> None:
    state = observe(IncidentState(), [trouble(), trouble(NOON + HOUR)])
    state, reported = claim(state, NOON)
    state = settle(state, reported, delivered=True)
    state = observe(state, [trouble(NOON + 2 * HOUR)])
    assert [notice.over for notice in reported] == [False]
    assert state.notices == ()
    assert len(state.open) == 1


def test_when_it_is_over_that_is_told_once_and_the_next_time_is_a_new_incident() -> None:
    state = observe(IncidentState(), [trouble()])
    state = settle(*claim(state, NOON), delivered=True)
    state = observe(state, [well(NOON + HOUR), well(NOON + 2 * HOUR)])
    assert [notice.over for notice in state.notices] == [True]
    assert state.closed[0].closed_at == NOON + HOUR
    state = settle(*claim(state, NOON + HOUR), delivered=True)
    state = observe(state, [trouble(NOON + 3 * HOUR)])
    assert [notice.over for notice in state.notices] == [False]


def test_a_slow_sensor_that_reports_a_run_repeated_since_opens_nothing() -> None:
    state = observe(IncidentState(), [well(NOON + HOUR), trouble(NOON)])
    assert state.open == ()
    assert state.notices == ()


def test_an_old_success_does_not_end_a_later_failure() -> None:
    state = observe(IncidentState(), [trouble(NOON + HOUR), well(NOON)])
    assert len(state.open) == 1


def test_a_notice_claimed_by_a_process_is_not_sent_by_others_until_the_claim_expires() -> None:
    state = observe(IncidentState(), [trouble()])
    state, first = claim(state, NOON)
    state, second = claim(state, NOON + timedelta(minutes=1))
    state, third = claim(state, NOON + timedelta(minutes=4))
    assert (len(first), len(second), len(third)) == (1, 0, 1)
    assert third[0].attempts == 2


def test_what_somebody_acknowledged_stays_open_and_is_not_told_meanwhile() -> None:
    state = known(observe(IncidentState(), [trouble(reason="No answer within 10 s.")]))
    state = observe(state, [trouble(NOON + HOUR, reason="No answer within 12 s.")])
    state = end_acknowledgements(state, NOON + timedelta(days=6))
    assert state.notices == ()
    assert [incident.acknowledged and incident.acknowledged.by for incident in state.open] == ["anna"]


def test_when_its_time_is_over_what_is_still_open_is_told_again() -> None:
    state = end_acknowledgements(known(observe(IncidentState(), [trouble()])), NOON + timedelta(days=7))
    (notice,) = state.notices
    assert "by anna of 2026-11-21 has ended" in compose([notice], site="shop").body
    assert state.open[0].acknowledged is None
    # It may have been open for long, and is not given up at once.
    _, taken = claim(*claim(state, NOON + timedelta(days=7))[:1], NOON + timedelta(days=7, hours=1))
    assert len(taken) == 1


def test_an_acknowledgement_that_is_withdrawn_lets_the_incident_be_told_again() -> None:
    state = withdraw(known(observe(IncidentState(), [trouble()])), {KEY}, NOON + HOUR)
    assert [notice.note for notice in state.notices] == ["The acknowledgement by anna of 2026-11-21 was withdrawn."]


DAMAGED = incident_key(IncidentKind.DAMAGED, "nightly")
CHECK = incident_key(IncidentKind.CHECK_FAILED, "nightly", "shop.dump", "row_count")


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (trouble(reason="No answer."), trouble(NOON + HOUR, reason="No answer."), False),
        (trouble(reason="No answer."), trouble(NOON + HOUR, reason="The disk is full."), True),
        (trouble(reason="No answer."), trouble(NOON, reason="The disk is full."), False),
        (trouble(key=CHECK, severity="warning"), trouble(NOON + HOUR, CHECK, severity="error"), True),
        (trouble(key=CHECK, severity="error"), trouble(NOON + HOUR, CHECK, severity="warning"), False),
        (trouble(key=CHECK, reason="3 rows"), trouble(NOON + HOUR, CHECK, reason="4 rows"), False),
        (trouble(key=DAMAGED, set_id="b"), trouble(NOON + HOUR, DAMAGED, set_id="c"), True),
        (trouble(key=DAMAGED, set_id="b"), trouble(NOON + HOUR, DAMAGED, set_id="a"), False),
    ],
)
def test_an_acknowledged_incident_is_told_again_only_if_it_became_worse(
    before: Observation, after: Observation, worse: bool
) -> None:
    state = observe(known(observe(IncidentState(), [before])), [after])
    assert [notice.note for notice in state.notices] == (
        ["The acknowledgement by anna of 2026-11-21 has ended: it has become worse."] if worse else []
    )
    assert (state.open[0].acknowledged is None) == worse


def test_what_grows_back_to_what_was_acknowledged_is_not_worse() -> None:
    def damaged(sets: int, at: datetime) -> Observation:
        found = trouble(at, DAMAGED)
        assert found.incident
        return Observation(DAMAGED, at, found.incident.model_copy(update={"extent": sets}))

    state = known(observe(IncidentState(), [damaged(2, NOON)]))
    state = observe(state, [damaged(1, NOON + HOUR), damaged(2, NOON + 2 * HOUR)])
    assert state.notices == ()
    assert len(observe(state, [damaged(3, NOON + 3 * HOUR)]).notices) == 1


def test_what_cannot_be_delivered_for_two_days_is_dropped_but_stays_listed() -> None:
    state = observe(IncidentState(), [trouble()])
    state, _ = claim(state, NOON)
    state, taken = claim(state, NOON + timedelta(days=3))
    assert taken == ()
    assert state.notices == ()
    assert len(state.open) == 1


def test_checks_that_never_failed_are_not_remembered() -> None:
    key = incident_key(IncidentKind.CHECK_FAILED, "nightly", "db.public.orders", "row_count")
    assert observe(IncidentState(), [well(NOON, key)]).well_since == {}


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=30))
def test_every_opening_has_at_most_one_notice_and_one_end(events: list[tuple[bool, int]]) -> None:
    state = IncidentState()
    for bad, hour in events:
        at = NOON + hour * HOUR
        state = observe(state, [trouble(at) if bad else well(at)])
    openings = [notice for notice in state.notices if not notice.over]
    ends = [notice for notice in state.notices if notice.over]
    assert len(openings) == len(ends) + len(state.open)
    assert len(state.open) <= 1
    assert all(notice.incident.closed_at >= notice.incident.opened_at for notice in ends)


def test_a_hundred_failed_checks_are_one_message() -> None:
    keys = [incident_key(IncidentKind.CHECK_FAILED, "nightly", f"db.public.t{n}", "row_count") for n in range(100)]
    state = observe(IncidentState(), [trouble(key=key, what=f"Check of t{n} failed.") for n, key in enumerate(keys)])
    _, taken = claim(state, NOON)
    message = compose(taken, site="shop")
    assert len(taken) == 100
    assert message.title == "[shop] nightly: Check of t0 failed. (+99)"
    assert "and 85 more" in message.body


def test_a_message_holds_plan_set_artefact_reason_remedy_and_link() -> None:
    seen = trouble(
        set_id="2026-11-21T020000Z",
        artefact="supabase.dump",
        reason="No answer.",
        remedy="Start the server.",
        link="http://localhost:3000/runs/1",
    )
    assert seen.incident is not None
    message = compose([Notice(incident=seen.incident)], site="shop")
    for text in (
        "nightly",
        "2026-11-21T020000Z",
        "supabase.dump",
        "No answer.",
        "Start the server.",
        "http://localhost:3000/runs/1",
    ):
        assert text in message.body
    assert message.bad


NIGHTLY = {"schedule": "0 2 * * *", "timezone": "UTC", "overdue_after": None}
LONG_AGO = NOON - timedelta(days=100)


def test_a_name_with_line_breaks_writes_no_lines_of_its_own_into_a_message() -> None:
    seen = trouble(what="table a\r\nBcc: all@example.org", artefact="a\n  link     https://example.org/bad")
    message = compose([Notice(incident=seen.incident)], site="shop")
    assert "\n" not in message.title + message.title.replace("\r", "\n")
    assert not [line for line in message.body.splitlines() if line.strip().startswith(("link", "Bcc"))]


@pytest.mark.parametrize(
    ("newest", "now", "late"),
    [
        ("2026-11-21T02:00", "2026-11-21T12:00", False),
        ("2026-11-20T02:00", "2026-11-21T07:59", False),
        ("2026-11-20T02:00", "2026-11-21T08:01", True),
        ("2026-11-18T02:00", "2026-11-21T03:00", True),
        (None, "2026-11-21T12:00", True),
    ],
)
def test_a_nightly_backup_is_overdue_six_hours_after_its_time(newest: str | None, now: str, late: bool) -> None:
    found = overdue(
        **NIGHTLY,
        newest=datetime.fromisoformat(newest).replace(tzinfo=UTC) if newest else None,
        known_since=LONG_AGO,
        now=datetime.fromisoformat(now).replace(tzinfo=UTC),
    )
    assert (found is not None) is late


def test_a_new_plan_is_not_overdue_before_its_first_time() -> None:
    known = NOON
    assert overdue(**NIGHTLY, newest=None, known_since=known, now=NOON + 12 * HOUR) is None
    late = overdue(**NIGHTLY, newest=None, known_since=known, now=NOON + 24 * HOUR)
    assert late is not None
    assert late.since == datetime(2026, 11, 22, 2, tzinfo=UTC)


def test_the_plans_own_limit_wins_over_its_schedule() -> None:
    limits = {**NIGHTLY, "overdue_after": timedelta(hours=30)}
    assert overdue(**limits, newest=NOON - 29 * HOUR, known_since=LONG_AGO, now=NOON) is None
    late = overdue(**limits, newest=NOON - 31 * HOUR, known_since=LONG_AGO, now=NOON)
    assert late is not None
    assert "30 hours" in late.reason


def test_a_plan_without_a_schedule_is_never_overdue() -> None:
    assert (
        overdue(schedule=None, timezone="UTC", overdue_after=None, newest=None, known_since=LONG_AGO, now=NOON) is None
    )


def test_times_follow_the_zone_through_the_change_of_the_clock() -> None:
    # On 25 October 2026 the clock of Berlin goes back from 03:00 to 02:00.
    summer = datetime(2026, 10, 24, 12, tzinfo=UTC)
    winter = datetime(2026, 10, 26, 12, tzinfo=UTC)
    assert last_time("0 5 * * *", "Europe/Berlin", summer) == datetime(2026, 10, 24, 3, tzinfo=UTC)
    assert last_time("0 5 * * *", "Europe/Berlin", winter) == datetime(2026, 10, 26, 4, tzinfo=UTC)
    assert next_time("0 5 * * *", "Europe/Berlin", summer) == datetime(2026, 10, 25, 4, tzinfo=UTC)


def test_a_time_that_is_now_counts_as_the_last_one() -> None:
    assert last_time("0 12 * * *", "UTC", NOON) == NOON


def test_secrets_are_found_by_name_and_inside_connection_strings() -> None:
    found = secrets_in(
        {
            "POSTGRES_PASSWORD": "geheim-1",
            "SUPABASE_SERVICE_KEY": "eyJ.key",
            "DATABASE_URL": "postgresql://user:p%40ss@host/db",
            "KC_DB_URL": "jdbc:postgresql://h/db?user=x&password=jdbcpass",
            "LIBPQ": "x",
            "MY_DSN": "host=h password='two words' user=u",
            "ALERT_URLS": "ntfys://secret-topic json://u:pw123@h/hook",
            "PWD": "/srv/site",
            "DAGSTER_RUN_STEP_KEY": "nightly__shop",
            "KEYCLOAK_ADMIN": "admin",
            "LOG_TOKENS": "visible",
            "FEATURE_TOKEN": "true",
        },
        secret_variables=["ALERT_URLS"],
    )
    for secret in ("geheim-1", "eyJ.key", "p%40ss", "p@ss", "jdbcpass", "two words", "ntfys://secret-topic", "pw123"):
        assert secret in found
    for harmless in ("/srv/site", "nightly__shop", "admin", "true", "host", "user"):
        assert harmless not in found
    text = "connect postgresql://user:p%40ss@host failed with p@ss and geheim-1"
    assert scrub(text, found) == "connect postgresql://user:***@host failed with *** and ***"
