"""Overview of a site: are the backups safe, why not, and the figures of each plan. For pages, metrics and checks.

Values only, and few: an overview of thousands of sets takes some kilobytes, so that a process can keep it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from backup_pipeline.model.proof import ProofKind
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.sites.stores import is_whole_backup
from backup_pipeline.operations.status.charts import Point
from backup_pipeline.operations.status.copies import CopiesStatus, is_off_site
from backup_pipeline.operations.status.days import day_state, days_of
from backup_pipeline.operations.status.fleets import FleetStatus, fleet_status
from backup_pipeline.operations.status.listing import ListedSet
from backup_pipeline.operations.status.plan import PlanStatus, Problem, site_status
from backup_pipeline.rules.overdue import longest_pause, what_starts
from backup_pipeline.rules.quantities import counted, enumerated
from backup_pipeline.rules.retention import problem_of
from backup_pipeline.rules.three_two_one import Condition
from backup_pipeline.settings.site import Site

RPO_WINDOW = timedelta(days=30)
"""The time before now in which the longest pause between two good backups is measured."""
_RANK = {"error": 0, "warning": 2}
_VERDICTS = ("failing", "attention", "good")


@dataclass(frozen=True, slots=True)
class SetFigures:
    """A set's name, its bytes, and the seconds that its backup took."""

    set_id: SetId
    started_at: datetime
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ProofFigures:
    """The newest proof: its set, when it was finished, and how long the restore took (None where not measured)."""

    set_id: SetId
    at: datetime
    restore_seconds: float | None


@dataclass(frozen=True, slots=True)
class CopyFigures:
    """A plan's copies in one vault: how many, the newest, sets that wait for a copy, the newest that is proven."""

    vault: str
    url: str
    off_site: bool
    copies: int
    newest: SetId | None
    newest_at: datetime | None
    waiting: int
    proven: SetId | None
    stored: int | None
    restored: str = ""
    """How much the drill of that one restored, in which time; "" where that is not known here."""

    @property
    def proof_text(self) -> str:
        """Which copy was proven from the vault: the newest, or which older one."""
        if self.proven is None:
            return "none proven from there"
        return "proven from there" if self.proven == self.newest else f"an older one proven from there: {self.proven}"


@dataclass(frozen=True)
class PlanOverview:
    """A plan's figures; None where something was never done or cannot be known.

    Attributes:
        plan: its name.
        standing: `failing`, `attention` or `good`.
        problems: what is wrong, errors first.
        store: where its sets are.
        schedule: the cron expression of its backup, "" for none.
        sources: how many it captures.
        sets: how many sets it has.
        size: bytes of all of them.
        last_good: the newest whole backup against which nothing speaks.
        proof: the newest proof.
        verified_at: when a set was last verified without a finding.
        longest_pause: the longest time between two good backups in RPO_WINDOW, the present one among them: what would
            have been lost at worst (RPO as measured).
        known_for: how long ago the oldest good backup that is kept was made: the window where it is shorter.
        interval: the longest time between two backups by the schedule; None without one.
        next_backup: when the schedule makes the next one.
        growth: percent by which a set grows in 30 days.
        free: free bytes of the store's disk.
        full_at: when it will be full, within the forecast.
        copies: its copies by vault.
        answers: how far it fulfils 3-2-1-1-0.
        days: what each day brought, as `days_of` says.
        sizes: bytes of its whole backups over time.
        restores: seconds of its drills' restores over time.
        lost_with: what takes the data and every set of it together: `machine`, `building`, or "" where a copy is
            off-site.
        states: how many sets are `proven`, `verified`, `complete` (neither) and `failed`.
        restored: the newest drill of an imported set, which was restored and counted, not proven; None without one.
        not_started: the remedy where nothing starts its backups, and nobody would learn that they stopped; "" else.
    """

    plan: str
    standing: str
    problems: tuple[Problem, ...]
    store: str
    schedule: str
    sources: int
    sets: int
    size: int
    last_good: SetFigures | None
    proof: ProofFigures | None
    verified_at: datetime | None
    longest_pause: timedelta | None
    next_backup: datetime | None
    growth: float | None
    free: int | None
    full_at: datetime | None
    copies: tuple[CopyFigures, ...]
    answers: tuple[Condition, ...]
    days: Mapping[date, tuple[str, str]]
    sizes: tuple[Point, ...]
    restores: tuple[Point, ...]
    lost_with: str
    states: Mapping[str, int]
    restored: ProofFigures | None = None
    known_for: timedelta | None = None
    interval: timedelta | None = None
    not_started: str = ""

    @property
    def at_risk(self) -> str:
        """What takes the data and every set together, as `lost_with`, where there is a set that is good."""
        return self.lost_with if self.last_good else ""

    @property
    def unless(self) -> str:
        """What is added to the word "Good": `, unless this machine is lost`; "" where nothing is, or it is not good."""
        return f", unless this {self.at_risk} is lost" if self.at_risk and self.standing == "good" else ""

    def could_be_lost(self, now: datetime) -> tuple[str, str]:
        """Return what a loss would cost at worst (RPO), and what that was measured or concluded from, as text."""
        if self.last_good is None or self.longest_pause is None or self.known_for is None:
            return "", ""
        age = now - self.last_good.started_at
        window = "the past 30 days" if self.known_for >= RPO_WINDOW else f"the {rough(self.known_for)} that are known"
        # What less than a day shows says nothing of the next one.
        worst = f"; at worst {rough(self.longest_pause)} in {window}" if self.known_for >= timedelta(days=1) else ""
        if self.interval is None:
            return f"{rough(age)} and growing", f"the plan has no schedule{worst}"
        return f"up to {rough(max(age, self.interval))}", f"by its schedule; {rough(age)} now{worst}"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the answer is not a plain yes: a problem, and the plans that have it (the remedy is that of the first)."""

    plans: tuple[str, ...]
    problem: Problem


@dataclass(frozen=True)
class Overview:
    """A site's answer and its plans, at one moment.

    Attributes:
        at: when it was made.
        plans: in the order of the settings.
        verdict: the worst standing of a plan.
        sentence: the answer to "are we safe?".
        detail: one more sentence, with the figures behind it.
        reasons: what speaks against it, worst first.
        fleets: how each fleet is doing, a line for each member.
    """

    at: datetime
    plans: tuple[PlanOverview, ...]
    verdict: str
    sentence: str
    detail: str
    reasons: tuple[Reason, ...]
    fleets: tuple[FleetStatus, ...] = ()

    def plan(self, name: str) -> PlanOverview | None:
        """Return a plan's figures."""
        return next((one for one in self.plans if one.plan == name), None)


def site_overview(site: Site, now: datetime) -> Overview:
    """Read every plan of a site and return its overview; asks no vault and no source."""
    plans = [plan_overview(site, status, now) for status in site_status(site, now)]
    return overview_of(plans, now, [fleet_status(site, name, now) for name in site.settings.fleets])


def overview_of(plans: Sequence[PlanOverview], now: datetime, fleets: Sequence[FleetStatus] = ()) -> Overview:
    """Return the answer that these plans and fleets give together."""
    found = [*_reasons(plans), *(Reason((fleet.name,), each) for fleet in fleets for each in fleet.problems)]
    reasons = sorted([*found, *_one_place(plans, fleets)], key=_rank)
    standings = {one.plan: one.standing for one in plans} | {one.name: one.standing for one in fleets}
    verdict = min(standings.values(), key=_VERDICTS.index, default="attention")
    if verdict == "good" and reasons:
        verdict = "attention"
    some = any(plan.last_good for plan in plans) or any(one.newest for fleet in fleets for one in fleet.members)
    sentence = _sentence(standings, verdict, reasons, some=some)
    detail = " ".join([*([_detail(plans, now)] if plans else []), *(f"{one.name}: {one.sentence}." for one in fleets)])
    return Overview(now, tuple(plans), verdict, sentence, detail, tuple(reasons), tuple(fleets))


def _rank(one: Reason) -> int:
    """Return how urgent a reason is: what takes every copy at once comes before other warnings."""
    return 1 if one.problem.what in _PLACES.values() else _RANK.get(one.problem.severity, 2)


def _reasons(plans: Sequence[PlanOverview]) -> list[Reason]:
    """Return the problems of all plans; what several plans have in common stands once."""
    together: dict[tuple[str, str, str], list[tuple[str, Problem]]] = {}
    for plan in plans:
        for problem in plan.problems:
            key = (problem.severity, problem.what, problem.action)
            together.setdefault(key, []).append((plan.plan, problem))
    found = []
    for named in together.values():
        about = tuple(dict.fromkeys(key for _, problem in named for key in problem.about))
        found.append(Reason(tuple(dict.fromkeys(name for name, _ in named)), replace(named[0][1], about=about)))
    return found


_PLACES = {
    "machine": "No copy leaves this machine: a fire, a thief or ransomware takes the data and its backups together.",
    "building": "Every copy is in this building: a fire takes the data and its backups together.",
}


def _one_place(plans: Sequence[PlanOverview], fleets: Sequence[FleetStatus]) -> list[Reason]:
    """Return what would take the data and all of its sets together; of plans and fleets that have a set."""
    remedy = (
        "In `backup.yaml`, name a place elsewhere under `vaults:` (object storage, SFTP, a disk that is carried away "
        "with `off_site: true`) and give the plan `copies: [{to: NAME}]`; then `backup-pipeline vault init NAME` "
        "(docs/vaults.md)."
    )
    found = []
    for place, what in _PLACES.items():
        names = tuple(plan.plan for plan in plans if plan.at_risk == place)
        names += tuple(one.name for one in fleets if one.at_risk == place)
        if names:
            found.append(Reason(names, Problem("warning", what, remedy)))
    return found


def _sentence(standings: Mapping[str, str], verdict: str, reasons: Sequence[Reason], *, some: bool) -> str:
    if not standings:
        return "Nothing is backed up yet: backup.yaml has no plan."
    if not some:
        return "No. There is no good backup yet."
    if verdict == "good":
        return "Yes, you are safe."
    if all(standing == "good" for standing in standings.values()):
        lost = "machine" if any(one.problem.what == _PLACES["machine"] for one in reasons) else "building"
        return f"Yes, unless this {lost} is lost."
    if verdict == "attention":
        count = len(reasons)
        return f"Yes, but {count} {'thing needs' if count == 1 else 'things need'} attention."
    named = enumerated([name for name, standing in standings.items() if standing == verdict])
    return f"No. Something is wrong with {named}."


def _detail(plans: Sequence[PlanOverview], now: datetime) -> str:
    """Return how old the data of the plans is, at worst, and how many are proven."""
    good = [plan.last_good for plan in plans if plan.last_good]
    if not good:
        return "Make the first backup now; after it, prove it with a drill."
    oldest = max(now - one.started_at for one in good)
    of = len(plans)
    proven = [(plan, {plan.proof.set_id} if plan.proof else set()) for plan in plans]
    copied = [(plan, {copy.newest for copy in plan.copies if copy.newest}) for plan in plans]
    return (
        f"The newest good backup is {'' if of == 1 else 'at most '}{rough(oldest)} old. Proven by a real restore: "
        f"{_share(proven)}. Copied into a vault: {_share(copied)}."
    )


def _share(found: Sequence[tuple[PlanOverview, set[SetId]]]) -> str:
    """Return of how many plans a set is among those found, and whether it is the newest good one."""
    of, count = len(found), sum(bool(sets) for _, sets in found)
    older = sum(bool(sets) and plan.last_good is not None and plan.last_good.set_id not in sets for plan, sets in found)
    if of == 1:
        return "an older one" if older else "yes" if count else "no"
    share = f"all {of} plans" if count == of else f"{count} of {of} plans" if count else "no plan"
    return f"{share} ({older} of them with an older one)" if older else share


def rough(age: timedelta) -> str:
    """Return an age in its largest unit: `5 minutes`, `3 hours`, `12 days`."""
    minutes = max(0, int(age.total_seconds() // 60))
    if minutes < 120:
        return counted(minutes, "minute")
    return counted(minutes // 60, "hour") if minutes < 48 * 60 else counted(minutes // (24 * 60), "day")


def plan_overview(site: Site, status: PlanStatus, now: datetime) -> PlanOverview:
    """Return a plan's figures from its standing."""
    settings = site.plan(status.plan)
    checks = [one.known.last_proof(ProofKind.VERIFICATION) for one in status.sets]
    return PlanOverview(
        plan=status.plan,
        standing=status.standing,
        problems=status.problems,
        store=str(status.store),
        schedule=settings.schedule or "",
        sources=len(settings.sources),
        sets=len(status.sets),
        size=status.size,
        last_good=_figures(status.last_good),
        proof=_proof(status),
        verified_at=max((check.finished_at for check in checks if check and check.passed), default=None),
        longest_pause=_longest_pause(status, now),
        known_for=now - good[0] if (good := _good_times(status)) else None,
        interval=longest_pause(settings.schedule, site.settings.timezone) if settings.schedule else None,
        next_backup=status.next_backup,
        growth=status.trend.per_month_percent if status.trend else None,
        free=status.free,
        full_at=status.full_at,
        copies=tuple(_copies(one) for one in status.copies),
        answers=status.answers,
        days=days_of(status, ZoneInfo(site.settings.timezone)),
        sizes=sizes_of(status.sets),
        restores=restores_of(status.sets),
        lost_with=_lost_with(site, status),
        restored=_restored(status),
        not_started=what_starts(f"plans.{status.plan}", settings.schedule, settings.overdue_after),
        states=Counter(state for one in status.sets if (state := day_state(one))),
    )


def _figures(one: ListedSet | None) -> SetFigures | None:
    if one is None or one.known.seconds is None:
        return None
    return SetFigures(one.known.set_id, one.known.started_at, one.known.size, one.known.seconds)


def _lost_with(site: Site, status: PlanStatus) -> str:
    own = site.vault_of(status.plan)
    kept = [one.off_site for one in status.copies if one.copies]
    kept += [is_off_site(site, site.settings.vaults[own])] if own else []
    return "" if any(kept) else "building" if kept else "machine"


def _proof(status: PlanStatus) -> ProofFigures | None:
    drill = status.last_proven.known.last_proof(ProofKind.DRILL) if status.last_proven else None
    return ProofFigures(drill.set_id, drill.finished_at, drill.numbers.get("rto_seconds")) if drill else None


def _restored(status: PlanStatus) -> ProofFigures | None:
    """Return the drill of the newest imported set that was restored and counted, which does not prove it."""
    newest = next((one for one in reversed(status.sets) if one.restored), None)
    drill = newest.known.last_proof(ProofKind.DRILL) if newest else None
    return ProofFigures(drill.set_id, drill.finished_at, drill.numbers.get("rto_seconds")) if drill else None


def _longest_pause(status: PlanStatus, now: datetime) -> timedelta | None:
    """Return the longest pause between good backups in the window; the pause that began before it counts in full."""
    times = _good_times(status)
    if not times:
        return None
    pauses = [later - earlier for earlier, later in pairwise([*times, now]) if later > now - RPO_WINDOW]
    return max(pauses)


def _good_times(status: PlanStatus) -> list[datetime]:
    return [one.known.started_at for one in status.sets if _is_good(one)]


def _is_good(one: ListedSet) -> bool:
    return is_whole_backup(one.known) and not one.missing and not problem_of(one.known) and not one.broken_data


def _copies(one: CopiesStatus) -> CopyFigures:
    newest = one.newest
    return CopyFigures(
        vault=one.vault,
        url=one.url,
        off_site=one.off_site,
        copies=len(one.copies),
        newest=newest.set_id if newest else None,
        newest_at=newest.at if newest else None,
        waiting=len(one.missing),
        proven=one.proven[0] if one.proven else None,
        stored=one.record.stored_bytes,
        restored=one.restored,
    )


def sizes_of(sets: Sequence[ListedSet]) -> tuple[Point, ...]:
    """Return the bytes of the whole backups among sets, oldest first."""
    return tuple(
        Point(one.known.started_at, one.known.size, not problem_of(one.known))
        for one in sets
        if is_whole_backup(one.known)
    )


def restores_of(sets: Sequence[ListedSet]) -> tuple[Point, ...]:
    """Return the seconds that the drills of sets took to restore, oldest first."""
    found = (
        Point(proof.finished_at, proof.numbers["rto_seconds"], good=proof.passed)
        for one in sets
        for proof in one.known.proofs
        if proof.kind is ProofKind.DRILL and "rto_seconds" in proof.numbers
    )
    return tuple(sorted(found, key=lambda point: point.at))
