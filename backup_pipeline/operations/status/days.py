"""Calendar of a plan: what each day brought. A day on which something failed is never shown as a good one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from backup_pipeline.model.backup_set import SetState
from backup_pipeline.model.incident import IncidentKind
from backup_pipeline.model.proof import ProofOutcome
from backup_pipeline.model.set_id import set_time
from backup_pipeline.operations.status.listing import ListedSet
from backup_pipeline.rules.incidents import is_of_restore
from backup_pipeline.rules.retention import problem_of

if TYPE_CHECKING:
    from backup_pipeline.operations.status.plan import PlanStatus

_RANK = ("removed", "complete", "verified", "proven")
_FAILURES = {
    IncidentKind.RUN_FAILED: "a run failed",
    IncidentKind.CHECK_FAILED: "a check failed",
    IncidentKind.DAMAGED: "a set was found damaged",
    IncidentKind.OVERDUE: "a backup was overdue",
    IncidentKind.STORE_UNREADABLE: "the store could not be read",
    IncidentKind.COPIES: "something was wrong with the copies",
}
"""Incidents that spoil the day on which they began, with their texts."""
_OF_COPIES = ("copy", "check", "not_proven")
"""Which of the incidents about copies are failures, by their subject; others are advice."""


def day_state(one: ListedSet) -> str | None:
    """Return how a set shows in the calendar (a key of DAY_STATES); None for one that is being written."""
    known = one.known
    if one.running:
        return None
    if known.state is not SetState.COMPLETE or one.missing or problem_of(known):
        return "failed"
    return "proven" if one.proven else "verified" if one.verified else "complete"


def days_of(plan: PlanStatus, zone: ZoneInfo) -> dict[date, tuple[str, str]]:
    """Return each day's state (a key of DAY_STATES) and its text.

    Of good sets the best counts, since one good backup a day is what matters. Any failure of the day (a set, a drill
    or verification, an incident) makes it `mixed` where a good set was made too, and `failed` where none was.

    Args:
        plan: the plan's standing.
        zone: the zone in which days are counted.
    """
    good: dict[date, list[str]] = {}
    bad: dict[date, list[str]] = {}
    for moment, state in _sets(plan):
        (bad if state == "failed" else good).setdefault(moment.astimezone(zone).date(), []).append(state)
    reasons: dict[date, list[str]] = {}
    for moment, text in _failures(plan):
        reasons.setdefault(moment.astimezone(zone).date(), []).append(text)
    return {day: _day(good.get(day, []), bad.get(day, []), reasons.get(day, [])) for day in {*good, *bad, *reasons}}


def _day(good: list[str], bad: list[str], reasons: list[str]) -> tuple[str, str]:
    sets = [*good, *bad]
    parts = [f"{len(sets)} set{'s' if len(sets) > 1 else ''}: {', '.join(sets)}"] if sets else []
    text = "; ".join([*parts, *dict.fromkeys(reasons)])
    if bad or reasons:
        return ("mixed" if good else "failed"), text
    return max(good, key=_RANK.index), text


def _sets(plan: PlanStatus) -> Iterator[tuple[datetime, str]]:
    present = set()
    for one in plan.sets:
        present.add(one.known.set_id)
        if state := day_state(one):
            yield one.known.started_at, state
    for set_id, outcome in plan.past_runs:
        if set_id not in present:
            yield set_time(set_id), "removed" if outcome == "complete" else "failed"


def _failures(plan: PlanStatus) -> Iterator[tuple[datetime, str]]:
    """Yield what failed besides sets: drills and verifications on their own day, and incidents as they began."""
    for one in plan.sets:
        for proof in one.known.proofs:
            if proof.outcome is ProofOutcome.FAILED:
                yield proof.finished_at, f"a {proof.kind.value} failed"
    for incident in plan.incidents:
        text = _FAILURES.get(incident.kind)
        subject = incident.key.removeprefix(f"{incident.kind}:{incident.plan}:").partition(":")[0]
        if is_of_restore(incident):
            continue
        if text and (incident.kind is not IncidentKind.COPIES or subject in _OF_COPIES):
            yield incident.opened_at, text
