"""Which backup sets are kept and which are removed, with the reason for each one. Pure: the time is passed in.

Counted as restic counts (its ApplyPolicy): sets are walked from the newest to the oldest; a day, week, month or year
keeps its newest set while its count lasts; while a count is left over, the oldest set is kept too; `keep_within` counts
back from the newest set, by the site's calendar. What differs from restic is only ever more careful:

- bad sets (damaged, or failed by verification or drill) are not counted, so that a row of them evicts nothing, and are
  never removed by a program;
- sets whose data was broken at its source are counted apart, so that they evict no sound one; the newest stays while it
  is newer than every sound one;
- nothing at all is removed while the newest set is bad or incomplete, or when a set is newer than now;
- nor for two weeks after the sets' times have jumped ahead, as they do when a clock is wrong by a year;
- the last complete, the last verified and the last proven set stay, whatever the policy says;
- so does the last set that holds a source which its plan has no more;
- a set that is being read (restored, drilled, verified) stays meanwhile;
- a policy that names nothing keeps every backup.

Removing is operations/cleanup's work. Described for users in docs/retention.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum
from itertools import pairwise
from typing import Protocol

from backup_pipeline.model.backup_set import SetState
from backup_pipeline.model.indexed_set import KnownSet
from backup_pipeline.model.manifest import Purpose
from backup_pipeline.model.proof import ProofKind
from backup_pipeline.model.set_id import SetId


class Policy(Protocol):
    """What retention needs of the settings; `settings.types.Retention` fulfils it."""

    @property
    def keep_last(self) -> int:
        """The newest N sets."""

    @property
    def keep_within(self) -> timedelta | None:
        """All sets younger than this, counted back from the newest."""

    @property
    def keep_daily(self) -> int:
        """The newest set of each of the last N days that have one."""

    @property
    def keep_weekly(self) -> int:
        """The same by ISO week."""

    @property
    def keep_monthly(self) -> int:
        """The same by month."""

    @property
    def keep_yearly(self) -> int:
        """The same by year."""

    @property
    def keep_emergency(self) -> timedelta:
        """How long emergency sets are kept."""

    @property
    def incomplete_for(self) -> timedelta:
        """How long incomplete sets are kept."""


class SetClass(StrEnum):
    """How a set is counted."""

    BACKUP = "backup"
    PARTIAL = "partial"
    EMERGENCY = "emergency"
    INCOMPLETE = "incomplete"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class SetFacts:
    """What retention needs to know of a set.

    Attributes:
        set_id: its name.
        at: its start, aware.
        state: sealed, incomplete or damaged.
        purpose: backup or emergency.
        partial: whether it has fewer sources than its plan.
        sources: its sources; partial sets are counted per set of sources.
        verified: its newest verification passed.
        proven: its newest drill passed and no later verification failed.
        problem: why it is bad, "" when nothing speaks against it.
        running: it is being written right now.
        broken_data: whether the data was broken where it came from (`Manifest.broken_data`).
        in_use: who reads it right now ("in use by process 7 on …"), "" when nobody does.
    """

    set_id: SetId
    at: datetime
    state: SetState = SetState.COMPLETE
    purpose: Purpose = Purpose.BACKUP
    partial: bool = False
    sources: tuple[str, ...] = ()
    verified: bool = False
    proven: bool = False
    problem: str = ""
    running: bool = False
    in_use: str = ""
    broken_data: bool = False

    @property
    def set_class(self) -> SetClass:
        """How it is counted."""
        if self.state is SetState.DAMAGED or self.problem:
            return SetClass.BAD
        if self.state is SetState.INCOMPLETE:
            return SetClass.INCOMPLETE
        if self.purpose is Purpose.EMERGENCY:
            return SetClass.EMERGENCY
        return SetClass.PARTIAL if self.partial else SetClass.BACKUP


@dataclass(frozen=True, slots=True)
class Decision:
    """Keep or remove one set, and every reason for it. `held`: kept only because nothing may be removed now."""

    set_id: SetId
    keep: bool
    reasons: tuple[str, ...]
    set_class: SetClass
    held: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decisions on all sets, newest first. `refusal` says why nothing is removed though a policy would."""

    decisions: tuple[Decision, ...]
    refusal: str = ""

    @property
    def removed(self) -> tuple[Decision, ...]:
        """The sets that are to be removed, oldest first."""
        return tuple(reversed([decision for decision in self.decisions if not decision.keep]))

    @property
    def held(self) -> tuple[Decision, ...]:
        """The sets that would be removed if the refusal were not, newest first."""
        return tuple(decision for decision in self.decisions if decision.held)

    @property
    def kept(self) -> tuple[Decision, ...]:
        """The sets that stay, newest first."""
        return tuple(decision for decision in self.decisions if decision.keep)


def facts_of(known: KnownSet, *, running: bool = False, in_use: str = "", missing: str = "") -> SetFacts:
    """Return what retention needs to know of a set.

    Args:
        known: the set.
        running: whether it is being written.
        in_use: who reads it, "" when nobody does.
        missing: which of its files are not there any more, "" when all are: such a set stands for nothing.
    """
    return SetFacts(
        set_id=known.set_id,
        at=known.started_at,
        state=known.state,
        purpose=known.purpose,
        partial=known.partial,
        sources=known.sources,
        verified=known.verified and not missing,
        proven=known.proven and not missing,
        problem=missing or problem_of(known),
        running=running and known.state is SetState.INCOMPLETE,
        in_use=in_use,
        broken_data=bool(known.broken_data),
    )


def problem_of(known: KnownSet) -> str:
    """Return why a sealed set is not good, "" when nothing speaks against it."""
    if known.state is SetState.DAMAGED:
        return known.problem or "its manifest cannot be read"
    for kind, reason in ((ProofKind.VERIFICATION, "verification found damage"), (ProofKind.DRILL, "its drill failed")):
        last = known.last_proof(kind)
        if last is not None and not last.passed:
            return f"{reason} on {last.finished_at:%Y-%m-%d}"
    return ""


LEAP = timedelta(days=30)
"""A pause between two sets that is longer than this, and ten times longer than usual, may be a wrong clock."""
LEAP_HOLDS = timedelta(days=14)
"""How long nothing is removed after it: time for somebody to notice, and for the clock to be put right."""


def _leap(judged: Sequence[SetFacts], now: datetime) -> str:
    """Return why the times of the sets cannot be believed yet, "" when they can; `judged` from the oldest on."""
    gaps = [later.at - earlier.at for earlier, later in pairwise(judged)]
    for index in range(len(gaps) - 1, -1, -1):
        first_after = judged[index + 1]
        if now - first_after.at >= LEAP_HOLDS:
            return ""
        before = sorted(gaps[:index])
        usual = before[len(before) // 2] if before else timedelta(0)
        if gaps[index] > max(LEAP, 10 * usual):
            leap = _duration(timedelta(days=gaps[index].days))
            return (
                f"set {first_after.set_id} is {leap} younger than the one before: is the clock right? If so, "
                f"removing goes on {_duration(LEAP_HOLDS)} after that set"
            )
    return ""


def refusal(sets: Iterable[SetFacts], now: datetime) -> str:
    """Return why nothing may be removed at all, "" when nothing speaks against removing."""
    known = sorted(sets, key=lambda one: (one.at, one.set_id))
    if known and known[-1].at > now:
        return f"set {known[-1].set_id} is newer than now ({now:%Y-%m-%d %H:%M} UTC): did the clock go backwards?"
    # What is being written says nothing yet; emergency and partial sets are not the plan's backup.
    judged = [one for one in known if not one.running and one.purpose is Purpose.BACKUP and not one.partial]
    if not judged:
        return ""
    newest = judged[-1]
    if newest.set_class is SetClass.BAD:
        return f"the newest set {newest.set_id} is bad: {newest.problem or 'damaged'}"
    if newest.set_class is SetClass.INCOMPLETE:
        return f"the newest set {newest.set_id} is incomplete"
    return _leap(judged, now)


def decide(
    sets: Sequence[SetFacts],
    policy: Policy,
    now: datetime,
    zone: tzinfo,
    sources: Iterable[str] | None = None,
    *,
    protected: Mapping[SetId, str] | None = None,
) -> Verdict:
    """Decide on every set of one plan.

    Args:
        sets: all sets of the plan's store, in any order.
        policy: the plan's retention.
        now: the present moment, aware.
        zone: the site's time zone, in which days, weeks, months and years are counted.
        sources: what the plan captures now; the last set of any other source stays. None: not known.
        protected: sets that stay for a reason that the caller knows.

    Returns:
        One decision per set, newest first, each with its reasons.
    """
    known = sorted(sets, key=lambda one: (one.at, one.set_id), reverse=True)
    reasons: dict[SetId, list[str]] = {one.set_id: [] for one in known}
    for group in _groups(known):
        _count(group, policy, zone, reasons)
    for one in known:
        reasons[one.set_id] += _own_reasons(one, policy, now)
    _protect(known, reasons)
    if sources is not None:
        _protect_dropped(known, frozenset(sources), reasons)
    for set_id, reason in (protected or {}).items():
        reasons[set_id].append(reason)
    stop = refusal(known, now)
    decisions = []
    for one in known:
        why = reasons[one.set_id]
        held = bool(stop) and not why
        if held:
            why = [f"nothing is removed: {stop}"]
        decisions.append(
            Decision(one.set_id, bool(why), tuple(why or [_removal(one, policy)]), one.set_class, held=held)
        )
    return Verdict(tuple(decisions), stop)


def _groups(newest_first: Sequence[SetFacts]) -> list[list[SetFacts]]:
    """Return the sets that are counted together: whole backups, partial ones by their sources, broken data apart."""
    groups: dict[tuple[object, ...], list[SetFacts]] = {}
    for one in newest_first:
        if one.set_class is SetClass.BACKUP:
            groups.setdefault((one.broken_data,), []).append(one)
        elif one.set_class is SetClass.PARTIAL:
            groups.setdefault((one.broken_data, one.sources), []).append(one)
    return list(groups.values())


def is_empty(policy: Policy) -> bool:
    """Return whether a policy names nothing to keep; it then keeps every backup."""
    return not (policy.keep_within or any(count for _, count, _ in _rules(policy)))


Bucket = Callable[[datetime], tuple[str, object]]


def _rules(policy: Policy) -> tuple[tuple[str, int, Bucket | None], ...]:
    """Return name, count and bucket of every counting rule; `keep_last` has a bucket of its own for every set."""
    return (
        ("last", policy.keep_last, None),
        ("daily", policy.keep_daily, lambda local: (f"{local:%Y-%m-%d}", local.date())),
        ("weekly", policy.keep_weekly, lambda local: (f"{local:%G-W%V}", local.isocalendar()[:2])),
        ("monthly", policy.keep_monthly, lambda local: (f"{local:%Y-%m}", (local.year, local.month))),
        ("yearly", policy.keep_yearly, lambda local: (f"{local:%Y}", local.year)),
    )


def _count(newest_first: Sequence[SetFacts], policy: Policy, zone: tzinfo, reasons: dict[SetId, list[str]]) -> None:
    """Add the policy's reasons to the sets of one group."""
    if not newest_first:
        return
    if is_empty(policy):
        for one in newest_first:
            reasons[one.set_id].append("the policy names nothing: everything is kept")
        return
    for name, count, bucket in _rules(policy):
        left = count
        last: object = None
        for index, one in enumerate(newest_first):
            if left == 0:
                break
            label, value = bucket(one.at.astimezone(zone)) if bucket else ("", index)
            is_new = index == 0 or value != last
            # With a count left over the oldest set stays as well: the longest history that the policy allows.
            if is_new or index == len(newest_first) - 1:
                number = count - left + 1
                oldest = "" if is_new else "oldest, "
                reasons[one.set_id].append(f"{name} {number} of {count}" + (f" ({oldest}{label})" if label else ""))
                last = value
                left -= 1
    if policy.keep_within:
        begin = _back(newest_first[0].at, policy.keep_within, zone)
        for one in newest_first:
            if one.at > begin:
                reasons[one.set_id].append(f"within {_duration(policy.keep_within)} of the newest")


def _back(moment: datetime, length: timedelta, zone: tzinfo) -> datetime:
    """Return `moment` minus whole days by the calendar (a day may have 23 or 25 hours) and the rest by the clock."""
    wall = (moment.astimezone(zone).replace(tzinfo=None) - timedelta(days=length.days)).replace(tzinfo=zone)
    return wall.astimezone(moment.tzinfo) - timedelta(seconds=length.seconds)


def _own_reasons(one: SetFacts, policy: Policy, now: datetime) -> list[str]:
    """Return the reasons that a set has by itself: being written or read, bad, within its own grace time."""
    if one.running:
        return ["is being written"]
    if one.in_use:
        return [one.in_use, *_own_reasons(replace(one, in_use=""), policy, now)]
    if one.set_class is SetClass.BAD:
        return [f"bad ({one.problem or 'damaged'}): not counted, and removed by hand only"]
    if one.set_class is SetClass.EMERGENCY and now - one.at < policy.keep_emergency:
        return [f"emergency set, kept for {_duration(policy.keep_emergency)}"]
    if one.set_class is SetClass.INCOMPLETE and now - one.at < policy.incomplete_for:
        return [f"incomplete, kept for {_duration(policy.incomplete_for)}"]
    return []


def _protect(newest_first: Sequence[SetFacts], reasons: dict[SetId, list[str]]) -> None:
    """Add the reason that keeps the last complete, the last verified and the last proven set."""
    sealed = [one for one in newest_first if one.set_class not in (SetClass.BAD, SetClass.INCOMPLETE)]
    # A backup of the whole plan first; where there is none, the best that there is.
    ranked = sorted(sealed, key=lambda one: (one.set_class is not SetClass.BACKUP, one.broken_data))
    for name, holds in (
        ("complete", lambda one: True),
        ("verified", lambda one: one.verified),
        ("proven", lambda one: one.proven),
    ):
        if last := next((one for one in ranked if holds(one)), None):
            reasons[last.set_id].append(f"the last {name} set")
    whole = next((one for one in sealed if one.set_class is SetClass.BACKUP), None)
    if whole is not None and whole.broken_data:
        reasons[whole.set_id].append("the newest of all; its data was broken at its source")


def _protect_dropped(
    newest_first: Sequence[SetFacts], present: frozenset[str], reasons: dict[SetId, list[str]]
) -> None:
    """Add the reason that keeps the last set of each source that the plan does not capture any more."""
    sealed = [one for one in newest_first if one.set_class not in (SetClass.BAD, SetClass.INCOMPLETE)]
    for source in sorted({name for one in sealed for name in one.sources} - present):
        last = next(one for one in sealed if source in one.sources)
        reasons[last.set_id].append(f"the last set that holds {source}, which its plan captures no more")


def _removal(one: SetFacts, policy: Policy) -> str:
    if one.set_class is SetClass.EMERGENCY:
        return f"emergency set older than {_duration(policy.keep_emergency)}"
    if one.set_class is SetClass.INCOMPLETE:
        return f"incomplete, and older than {_duration(policy.incomplete_for)}"
    rules = [f"{name} {count}" for name, count, _ in _rules(policy) if count]
    if policy.keep_within:
        rules.append(f"within {_duration(policy.keep_within)}")
    return f"no rule keeps it ({', '.join(rules)})"


def _duration(length: timedelta) -> str:
    hours = int(length.total_seconds() // 3600)
    number, unit = (hours // 24, "day") if hours % 24 == 0 and hours else (hours, "hour")
    return f"{number} {unit}{'' if number == 1 else 's'}"
