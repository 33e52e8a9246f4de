"""Retention over long invented histories: what must hold whatever has happened."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from backup_pipeline.model.backup_set import SetState
from backup_pipeline.model.manifest import Purpose
from backup_pipeline.model.set_id import set_id_at
from backup_pipeline.rules.retention import SetClass, SetFacts, decide, is_empty
from backup_pipeline.settings.types import Retention
from backup_pipeline_tests.support.examples import examples

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Apia", "Australia/Lord_Howe"]
FAR = datetime(2070, 1, 1, tzinfo=UTC)

few = settings(max_examples=examples(40))

counts = st.integers(0, 15)
policies = st.builds(
    Retention,
    keep_last=counts,
    keep_daily=counts,
    keep_weekly=counts,
    keep_monthly=counts,
    keep_yearly=st.integers(0, 4),
    keep_within=st.none() | st.integers(1, 24 * 60).map(lambda hours: timedelta(hours=hours)),
    keep_emergency=st.integers(1, 60).map(lambda days: timedelta(days=days)),
    keep_incomplete=st.integers(1, 72).map(lambda hours: timedelta(hours=hours)),
)
zones = st.sampled_from(ZONES).map(ZoneInfo)


@st.composite
def moments(draw) -> list[datetime]:
    """Starts of sets: days, hours, minutes or months apart, over leap days and both changes of the clock."""
    at = datetime(2019, 1, 1, tzinfo=UTC) + timedelta(seconds=draw(st.integers(0, 10 * 365 * 86_400)))
    found = []
    for _ in range(draw(st.integers(1, 5))):
        step = draw(st.sampled_from([timedelta(minutes=13), timedelta(hours=1), timedelta(days=1), timedelta(days=33)]))
        for _ in range(draw(st.integers(1, 25))):
            found.append(at)
            at += step
        at += timedelta(days=draw(st.integers(0, 400)))
    return found


@st.composite
def histories(draw) -> list[SetFacts]:
    """Sets of every kind, with rows of bad ones."""
    found = []
    mood = "good"
    for at in draw(moments()):
        if draw(st.integers(0, 9)) == 0:
            mood = draw(st.sampled_from(["good", "good", "damaged", "failed", "incomplete", "emergency", "partial"]))
        one = SetFacts(set_id_at(at), at, verified=draw(st.booleans()), proven=draw(st.integers(0, 9)) == 0)
        found.append(
            {
                "good": one,
                "damaged": replace(one, state=SetState.DAMAGED, verified=False, proven=False),
                "failed": replace(one, problem="verification found damage", verified=False, proven=False),
                "incomplete": replace(one, state=SetState.INCOMPLETE, verified=False, proven=False),
                "emergency": replace(one, purpose=Purpose.EMERGENCY),
                "partial": replace(one, partial=True, sources=("a",)),
            }[mood]
        )
    return found


@few
@given(histories(), policies, zones)
def test_every_set_gets_one_decision_with_a_reason_whatever_the_order(sets, policy, zone):
    verdict = decide(sets, policy, FAR, zone)
    assert sorted(d.set_id for d in verdict.decisions) == sorted(one.set_id for one in sets)
    assert all(decision.reasons for decision in verdict.decisions)
    assert decide(sets[::-1], policy, FAR, zone) == verdict


@few
@given(histories(), policies, zones)
def test_the_last_complete_verified_and_proven_sets_always_stay(sets, policy, zone):
    kept = {d.set_id for d in decide(sets, policy, FAR, zone).kept}
    whole = [one for one in sets if one.set_class is SetClass.BACKUP]
    for holds in (lambda one: True, lambda one: one.verified, lambda one: one.proven):
        having = [one for one in whole if holds(one)]
        assert not having or max(having, key=lambda one: one.at).set_id in kept


@few
@given(histories(), policies, zones)
def test_bad_sets_are_never_removed_and_never_evict_good_ones(sets, policy, zone):
    kept = {d.set_id for d in decide(sets, policy, FAR, zone).kept}
    bad = {one.set_id for one in sets if one.set_class is SetClass.BAD}
    assert bad <= kept
    without = decide([one for one in sets if one.set_id not in bad], policy, FAR, zone)
    if not without.refusal:
        assert {d.set_id for d in without.kept} <= kept


@few
@given(histories(), policies, zones)
def test_nothing_is_removed_while_the_newest_set_is_bad(sets, policy, zone):
    at = max(one.at for one in sets) + timedelta(hours=1)
    for newest in (
        SetFacts(set_id_at(at), at, state=SetState.DAMAGED),
        SetFacts(set_id_at(at), at, state=SetState.INCOMPLETE),
        SetFacts(set_id_at(at), at, problem="verification found damage"),
    ):
        verdict = decide([*sets, newest], policy, FAR, zone)
        assert verdict.refusal
        assert verdict.removed == ()


@few
@given(histories(), policies, zones, st.integers(1, 10**8))
def test_nothing_is_removed_when_the_clock_went_backwards(sets, policy, zone, seconds):
    verdict = decide(sets, policy, max(one.at for one in sets) - timedelta(seconds=seconds), zone)
    assert "clock" in verdict.refusal
    assert verdict.removed == ()


@few
@given(histories(), policies, zones)
def test_a_set_that_is_being_written_stays_and_hides_no_bad_newest_one(sets, policy, zone):
    at = max(one.at for one in sets) + timedelta(hours=1)
    running = SetFacts(set_id_at(at), at, state=SetState.INCOMPLETE, running=True)
    verdict = decide([*sets, running], policy, FAR, zone)
    assert running.set_id in {d.set_id for d in verdict.kept}
    assert verdict.refusal == decide(sets, policy, FAR, zone).refusal


@few
@given(histories(), policies, zones)
def test_cleaning_up_twice_removes_nothing_more(sets, policy, zone):
    kept = {d.set_id for d in decide(sets, policy, FAR, zone).kept}
    again = decide([one for one in sets if one.set_id in kept], policy, FAR, zone)
    assert again.removed == ()


@few
@given(histories(), policies, zones)
def test_an_empty_policy_keeps_every_backup(sets, policy, zone):
    empty = Retention(keep_emergency=policy.keep_emergency, keep_incomplete=policy.keep_incomplete)
    assert is_empty(empty)
    removed = {d.set_class for d in decide(sets, empty, FAR, zone).removed}
    assert removed <= {SetClass.EMERGENCY, SetClass.INCOMPLETE}


@few
@given(histories(), policies, zones, st.sampled_from(["last", "daily", "weekly", "monthly", "yearly"]))
def test_a_more_generous_policy_keeps_no_set_less(sets, policy, zone, rule):
    if is_empty(policy):
        return
    more = policy.model_copy(update={f"keep_{rule}": getattr(policy, f"keep_{rule}") + 1})
    kept = {d.set_id for d in decide(sets, policy, FAR, zone).kept}
    assert kept <= {d.set_id for d in decide(sets, more, FAR, zone).kept}


def _as_restic_counts(sets: list[SetFacts], policy: Retention, zone: ZoneInfo) -> set[str]:
    """Restic's ApplyPolicy, written anew from its documentation: bucket by bucket instead of set by set."""
    newest_first = sorted(sets, key=lambda one: one.at, reverse=True)
    local = {one.set_id: one.at.astimezone(zone) for one in sets}
    kept = {one.set_id for one in newest_first[: policy.keep_last]}
    if 0 < len(newest_first) < policy.keep_last:
        kept.add(newest_first[-1].set_id)
    forms = {"daily": "%Y-%m-%d", "weekly": "%G-%V", "monthly": "%Y-%m", "yearly": "%Y"}
    for rule, form in forms.items():
        count = getattr(policy, f"keep_{rule}")
        newest_of: dict[str, str] = {}
        for one in newest_first:
            newest_of.setdefault(local[one.set_id].strftime(form), one.set_id)
        taken = list(newest_of.values())[:count]
        kept.update(taken)
        if count > len(taken):
            kept.add(newest_first[-1].set_id)
    if policy.keep_within:
        whole_days = timedelta(days=policy.keep_within.days)
        begin = (local[newest_first[0].set_id].replace(tzinfo=None) - whole_days).replace(tzinfo=zone).astimezone(UTC)
        begin -= policy.keep_within - whole_days
        kept.update(one.set_id for one in newest_first if one.at > begin)
    return kept


@few
@given(moments(), policies, zones)
def test_good_sets_are_counted_exactly_as_restic_counts_them(starts, policy, zone):
    if is_empty(policy):
        return
    sets = [SetFacts(set_id_at(at), at) for at in starts]
    verdict = decide(sets, policy, FAR, zone)
    expected = _as_restic_counts(sets, policy, zone) | {max(sets, key=lambda one: one.at).set_id}
    assert {d.set_id for d in verdict.kept} == expected


def test_hundreds_of_bad_sets_in_a_row_do_not_evict_the_last_good_one():
    begin = datetime(2026, 1, 1, 2, tzinfo=UTC)
    sets = [SetFacts(set_id_at(begin), begin, verified=True, proven=True)]
    for day in range(1, 400):
        at = begin + timedelta(days=day)
        sets.append(SetFacts(set_id_at(at), at, problem="verification found damage"))
        verdict = decide(sets, Retention(keep_last=3, keep_daily=7), at + timedelta(hours=1), ZoneInfo("UTC"))
        assert verdict.removed == ()
    at = begin + timedelta(days=400)
    sets.append(SetFacts(set_id_at(at), at))
    verdict = decide(sets, Retention(keep_last=1), at + timedelta(hours=1), ZoneInfo("UTC"))
    (first,) = [decision for decision in verdict.decisions if decision.set_id == sets[0].set_id]
    assert first.keep
    assert first.reasons == ("the last verified set", "the last proven set")


def test_three_years_of_nightly_cleanup_leave_what_the_policy_promises():
    zone = ZoneInfo("Europe/Berlin")
    policy = Retention(keep_last=3, keep_daily=7, keep_weekly=4, keep_monthly=12, keep_yearly=3)
    kept: list[SetFacts] = []
    for day in range(3 * 365):
        at = (datetime(2024, 1, 1, 2, tzinfo=zone) + timedelta(days=day)).astimezone(UTC)
        kept.append(SetFacts(set_id_at(at), at))
        gone = {d.set_id for d in decide(kept, policy, at + timedelta(hours=1), zone).removed}
        kept = [one for one in kept if one.set_id not in gone]
    local = [one.at.astimezone(zone) for one in kept]
    assert {f"{at:%Y-%m-%d}" for at in local[-7:]} == {f"2026-12-{day}" for day in range(24, 31)}
    assert {f"{at:%Y-%m}" for at in local if at.year == 2026} == {f"2026-{month:02}" for month in range(1, 13)}
    assert {at.year for at in local} == {2024, 2025, 2026}
    assert len(kept) <= 3 + 7 + 4 + 12 + 3
