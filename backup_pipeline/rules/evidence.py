"""Evidence rules: gaps between good backups and drills, and what the events say to demands of NIS2 and DORA. No I/O.

Sources: Commission Implementing Regulation (EU) 2024/2690, annex, 4.2 (for Article 21(2)(c) of NIS2, Directive (EU)
2022/2555); Regulation (EU) 2022/2554 (DORA), Article 12. The demands are given in short; the regulations' own text
counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from backup_pipeline.model.evidence import NOT_COUNTED, NOTHING_KNOWN, Demand, Event, EventKind, Gap
from backup_pipeline.rules.overdue import Deadlines

_NIS2, _DORA = "NIS2, (EU) 2024/2690", "DORA, (EU) 2022/2554"


@dataclass(frozen=True, slots=True)
class EvidencePolicy:
    """What the settings demand of a plan.

    Attributes:
        schedule: cron expression of its backups, None for none.
        drill: cron expression of its drills, None for none.
        timezone: IANA name of the zone of both.
        overdue_after: the age at which the newest backup is too old; from the schedule when None.
        retention: as one line.
        sources: how many there are.
    """

    schedule: str | None
    drill: str | None
    timezone: str
    overdue_after: timedelta | None
    retention: str
    sources: int


@dataclass(frozen=True, slots=True)
class Copies:
    """A plan's copies off the machine at the end of a period, as last recorded.

    Attributes:
        vaults: in how many vaults they were.
        copies: copies of whole backups.
        others: copies of emergency sets, and of sets of some sources only.
        off_site: whether a copy of a whole backup was in another building.
        locked: whether the storage was said to forbid the deletion of any.
        proven: how many had passed a drill read from there.
        past: whether the end was before the record was read: what was removed in between is not in it.
    """

    vaults: int
    copies: int
    others: int
    off_site: bool
    locked: bool
    proven: int
    past: bool


def gaps_of(
    events: Sequence[Event], policy: EvidencePolicy, begin: datetime, end: datetime, *, before: datetime | None
) -> list[Gap]:
    """Return the times in which a backup or drill that was due is not there.

    Args:
        events: of the period, oldest first.
        policy: the plan's.
        begin: of the period.
        end: of the period, or now where that is earlier.
        before: start of the last good backup before the period; None where none is known.
    """
    backups = [one.at for one in events if one.kind is EventKind.BACKUP and one.good]
    drills = [one.at for one in events if one.kind is EventKind.DRILL and one.good]
    found = _between(backups, begin, end, policy.schedule, policy, "good backup", before)
    return found + _between(drills, begin, end, policy.drill, policy, "drill that passed", None)


def _between(
    times: Sequence[datetime],
    begin: datetime,
    end: datetime,
    schedule: str | None,
    policy: EvidencePolicy,
    what: str,
    before: datetime | None,
) -> list[Gap]:
    allowed = policy.overdue_after if what == "good backup" else None
    first = max(begin, before) if before else begin
    if schedule is None and allowed is None:
        return (
            [] if times else [Gap(begin=begin, end=end, what=f"no {what} in the whole period, and none is scheduled")]
        )
    found = []
    deadlines = Deadlines(schedule or "", policy.timezone)
    for earlier, later in pairwise([first, *times, end]):
        due = earlier + allowed if allowed is not None else deadlines.after(earlier)
        if later > due:
            found.append(
                Gap(begin=earlier, end=later, what=f"no {what}, though one was due by {due:%Y-%m-%d %H:%M} UTC")
            )
    return found


@dataclass(frozen=True, slots=True)
class _Answers:
    """What was measured, as text, and whether there is anything to show."""

    recovery: str
    has_times: bool
    sets: str
    are_sets_checked: bool
    checks: str
    has_checks: bool
    tests: str
    has_tests: bool
    restores: str
    has_restores: bool
    frequency: str
    is_frequent: bool
    has_backups: bool


def demands_of(events: Sequence[Event], gaps: Sequence[Gap], policy: EvidencePolicy, copies: Copies) -> list[Demand]:
    """Return what the events of a period say to each demand."""
    found = _answers(events, gaps, policy)
    return [*_nis2_demands(found, policy, copies), *_dora_demands(found)]


def _answers(events: Sequence[Event], gaps: Sequence[Gap], policy: EvidencePolicy) -> _Answers:
    backups, checks, drills, restores = (
        [one for one in events if one.kind is kind]
        for kind in (EventKind.BACKUP, EventKind.VERIFICATION, EventKind.DRILL, EventKind.RESTORE)
    )
    backups = [one for one in backups if one.outcome != NOT_COUNTED]
    times = [one.figures["rto_seconds"] for one in drills if "rto_seconds" in one.figures]
    ages = [one.figures["rpo_seconds"] for one in drills if "rpo_seconds" in one.figures]
    recovery = f"longest restore of a drill {_duration(max(times))}" if times else "no drill measured a restore"
    loss = f"; oldest data of a drill {_duration(max(ages))}" if ages else ""
    missed = sum("backup" in one.what for one in gaps)
    unknown = [one for one in gaps if one.what == NOTHING_KNOWN]
    verified = _count(len(checks), "verification") + (f", {_good(checks)} passed" if checks else "")
    tests = f"{_count(len(drills), 'drill')}, {_good(drills)} passed; {_corrected(drills)}" if drills else "no drills"
    made = _count(len(backups), "backup") + (f", {_good(backups)} of them good" if backups else "")
    made += f"; {_count(missed, 'gap')}" if missed or not unknown else ""
    made += "".join(f"; nothing known {one.begin:%Y-%m-%d %H:%M} to {one.end:%Y-%m-%d %H:%M} UTC" for one in unknown)
    return _Answers(
        recovery=recovery + loss,
        has_times=bool(times),
        sets=f"{_good(backups)} of {len(backups)} sets complete; {verified}",
        are_sets_checked=_good(backups) > 0 and _good(checks) + _good(drills) > 0,
        checks=verified,
        has_checks=_good(checks) > 0,
        tests=tests,
        has_tests=_good(drills) > 0 and _uncorrected(drills) == 0,
        restores=f"{_restores(restores)}; {tests}",
        has_restores=_good(restores) + _good(drills) > 0 and _uncorrected([*restores, *drills]) == 0,
        frequency=f"{_count(policy.sources, 'source')}, schedule {policy.schedule or 'none'}; {made}",
        is_frequent=policy.schedule is not None and missed == 0 and not unknown,
        has_backups=bool(backups),
    )


def _nis2_demands(found: _Answers, policy: EvidencePolicy, copies: Copies) -> list[Demand]:
    encrypted = "copies in vaults are encrypted to keys that the writing machine does not have; who may read the "
    kept = f"kept: {policy.retention}, by the settings when this was made"
    tested = "regular, documented tests of recovery, with corrective action"
    return [
        _nis2("4.2.2(a)", "backup plans with recovery times", found.recovery, found.has_times),
        _nis2("4.2.2(b)", "assurance that backups are complete and accurate", found.sets, found.are_sets_checked),
        _nis2("4.2.2(c)", "copies in a safe place, off the network and site", _copies_text(copies), _is_away(copies)),
        _nis2("4.2.2(d)", "access controls to the copies", encrypted + "store's disk is not shown here", None),
        _nis2("4.2.2(e)", "restoring from the copies", found.restores, found.has_restores),
        _nis2("4.2.2(f)", "retention", kept, found.has_backups),
        _nis2("4.2.3", "regular integrity checks", found.checks, found.has_checks),
        _nis2("4.2.6", tested, found.tests, found.has_tests),
    ]


def _dora_demands(found: _Answers) -> list[Demand]:
    compared = f"every drill and restore compares tables with the set; {found.tests}"
    apart = "restoring on systems apart from the source"
    return [
        _dora("12(1)(a)", "scope of the backups and their least frequency", found.frequency, found.is_frequent),
        _dora("12(2)", "periodic tests of backup and restore procedures", found.tests, found.has_tests),
        _dora("12(3)", apart, "drills restore into a server of their own", found.has_tests),
        _dora("12(6)", "recovery time and recovery point objectives", found.recovery, found.has_times),
        _dora("12(7)", "checks and reconciliation of restored data", compared, found.has_tests),
    ]


def _nis2(place: str, demand: str, answer: str, shown: bool | None) -> Demand:
    return Demand(regulation=_NIS2, place=f"Annex {place}", demand=demand, answer=answer, shown=shown)


def _dora(place: str, demand: str, answer: str, shown: bool | None) -> Demand:
    return Demand(regulation=_DORA, place=f"Article {place}", demand=demand, answer=answer, shown=shown)


def _good(events: Sequence[Event]) -> int:
    return sum(one.good for one in events)


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number or 'no'} {noun if number == 1 else plural or noun + 's'}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _restores(restores: Sequence[Event]) -> str:
    if not restores:
        return "no restores"
    failed = len(restores) - _good(restores)
    return f"{_count(len(restores), 'restore')}, {_good(restores)} good" + (f", {failed} failed" if failed else "")


def _uncorrected(drills: Sequence[Event]) -> int:
    """Return how many failed drills or restores were not followed by one that passed."""
    last_good = max((one.at for one in drills if one.good), default=None)
    return sum(not one.good and (last_good is None or one.at > last_good) for one in drills)


def _corrected(drills: Sequence[Event]) -> str:
    failed = len(drills) - _good(drills)
    if not failed:
        return "none failed"
    return f"{_count(failed, 'drill')} failed, {failed - _uncorrected(drills)} followed by one that passed"


def _copies_text(copies: Copies) -> str:
    removed = "; copies removed since are not recorded any more" if copies.past else ""
    if not copies.vaults:
        return f"no copy off this machine at the end of the period{removed}"
    where = "off site" if copies.off_site else "in this building"
    locked = "locked against deletion" if copies.locked else "not locked against deletion"
    many = f"{_count(copies.copies, 'copy', 'copies')} of whole backups in {_count(copies.vaults, 'vault')}"
    more = f", {copies.others} more of emergency or partial sets" if copies.others else ""
    return f"{many} {where}{more}, {locked}, {copies.proven} proven from there{removed}"


def _is_away(copies: Copies) -> bool:
    return copies.off_site and copies.copies > 0
