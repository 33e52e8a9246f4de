"""The status of plans: last good, last proven, next backup, size, trend, problems. Reads only.

Formatting is the command's and the page's work; what counts as overdue or as growth is decided in rules.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from backup_pipeline.errors import BackupSystemError, SetNotFoundError
from backup_pipeline.model.backup_set import BackupSet, SetState
from backup_pipeline.model.incident import Incident, IncidentKind, IncidentState
from backup_pipeline.model.manifest import Manifest, Purpose
from backup_pipeline.model.proof import ProofKind
from backup_pipeline.model.set_id import SetId, is_set_id
from backup_pipeline.operations.sites.run_log import RUN_LOG_NAME
from backup_pipeline.operations.sites.stores import is_whole_backup, open_store
from backup_pipeline.operations.status.copies import CopiesStatus, answers_of, copies_of, copy_signs
from backup_pipeline.operations.status.disks import disks_of
from backup_pipeline.operations.status.incident_state import read_state
from backup_pipeline.operations.status.listing import ListedSet, list_plan
from backup_pipeline.operations.status.present_files import as_text, files_not_there
from backup_pipeline.operations.status.signs import Sign, is_future, signs_of
from backup_pipeline.rules.clock_ahead import is_ahead
from backup_pipeline.rules.incidents import incident_key, is_of_restore
from backup_pipeline.rules.overdue import next_time, overdue
from backup_pipeline.rules.retention import SetFacts, Verdict, decide, facts_of, problem_of
from backup_pipeline.rules.three_two_one import Condition
from backup_pipeline.rules.trend import SizedSet, Trend, trend_of
from backup_pipeline.settings.server_databases import sources_for_retention
from backup_pipeline.settings.site import Site

DISK_WARNING = timedelta(days=30)
BACKUP, DRILL, VERIFICATION = "backup", "drill", "verification"
_ACTIONS = {"verification": VERIFICATION, "drill": DRILL, "gone": BACKUP, "source": BACKUP, "rows": BACKUP}
"""What mends a sign, by the first part of its subject."""
_SHOWN = 3
_RUN_LINE = re.compile(r" - backup - \w+ - (?P<plan>\w+)/(?P<set>\S+) (?P<outcome>complete|incomplete)")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a plan: how bad ("error", "warning"), what, and the remedy.

    `action` is the run that mends it (BACKUP, DRILL, VERIFICATION), "" where a person must do something else first.
    `vault` is the one whose copies it is about, "" for none. `about` are the keys of incidents that are the same
    problem; one stands for those that begin with it and a colon, too.
    """

    severity: str
    what: str
    remedy: str = ""
    action: str = ""
    vault: str = ""
    about: tuple[str, ...] = ()

    def incidents(self, known: Iterable[Incident]) -> list[Incident]:
        """Return those among incidents that are open and this problem."""
        return [
            one
            for one in known
            if one.closed_at is None and any(one.key == key or one.key.startswith(f"{key}:") for key in self.about)
        ]

    def acknowledged(self, known: Iterable[Incident]) -> tuple[str, ...]:
        """Return who acknowledged this problem's incidents, until when and why, as sentences."""
        return tuple(dict.fromkeys(one.acknowledged.sentence for one in self.incidents(known) if one.acknowledged))


@dataclass(frozen=True)
class PlanStatus:
    """One plan's standing.

    Attributes:
        plan: its name.
        store: where its sets are.
        sets: all its sets, oldest first.
        past_runs: sets that the log beside the store knows, with "complete" or "incomplete"; also those removed since.
        newest: the newest whole backup whose files are good; its data may have been broken at its source.
        last_good: the newest whole backup against which nothing speaks.
        last_verified: the newest verified whole backup.
        last_proven: the newest proven whole backup.
        next_backup: when its schedule makes the next one; None without a schedule.
        trend: how its sets grow; None with fewer than two.
        free: free bytes of the store; None when not known.
        full_at: when the disk will be full; None when not within the forecast.
        shares: the plans whose stores are on this disk, itself among them.
        problems: what is wrong, errors first.
        copies: its copies by vault, as last recorded.
        answers: how far it fulfils 3-2-1-1-0.
        incidents: its incidents, those that are over among them, as far back as they are remembered.
    """

    plan: str
    store: str
    sets: tuple[ListedSet, ...] = ()
    past_runs: tuple[tuple[SetId, str], ...] = ()
    newest: ListedSet | None = None
    last_good: ListedSet | None = None
    last_verified: ListedSet | None = None
    last_proven: ListedSet | None = None
    next_backup: datetime | None = None
    trend: Trend | None = None
    free: int | None = None
    full_at: datetime | None = None
    shares: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    copies: tuple[CopiesStatus, ...] = ()
    answers: tuple[Condition, ...] = ()
    incidents: tuple[Incident, ...] = ()

    @property
    def standing(self) -> str:
        """`failing` with errors, `attention` with warnings, else `good`."""
        severities = {problem.severity for problem in self.problems}
        return "failing" if "error" in severities else "attention" if severities else "good"

    @property
    def size(self) -> int:
        """Bytes of all sets."""
        return sum(one.known.size for one in self.sets)

    def as_dict(self, now: datetime) -> dict[str, object]:
        """Return the standing for `--json`."""
        return {
            "plan": self.plan,
            "standing": self.standing,
            "store": self.store,
            "sets": len(self.sets),
            "size": self.size,
            "last_good": self.last_good.as_dict(now) if self.last_good else None,
            "last_verified": self.last_verified.known.set_id if self.last_verified else None,
            "last_proven": self.last_proven.known.set_id if self.last_proven else None,
            "next": self.next_backup.isoformat() if self.next_backup else None,
            "growth_bytes_per_day": round(self.trend.per_day) if self.trend else None,
            "growth_percent_per_30_days": round(self.trend.per_month_percent, 1) if self.trend else None,
            "free_bytes": self.free,
            "disk_full_at": self.full_at.isoformat() if self.full_at else None,
            "copies": [one.as_dict(now) for one in self.copies],
            "three_two_one_one_zero": [
                {"rule": one.rule, "holds": one.holds, "what": one.what, "remedy": None if one.holds else one.remedy}
                for one in self.answers
            ],
            "problems": [
                {
                    "severity": one.severity,
                    "what": one.what,
                    "remedy": one.remedy,
                    "incidents": [
                        {"key": each.key, "acknowledged": each.acknowledged} for each in one.incidents(self.incidents)
                    ],
                }
                for one in self.problems
            ],
        }


def plan_status(site: Site, plan: str, now: datetime) -> PlanStatus:
    """Return one plan's standing at `now`."""
    return next(
        one for one in site_status(site, now, None if plan in site.single_plans else [plan]) if one.plan == plan
    )


def site_status(site: Site, now: datetime, plans: Sequence[str] | None = None) -> list[PlanStatus]:
    """Return the standing of plans at `now`, of all but the members of fleets by default.

    A store that cannot be read is a problem of its plan, not an exception.
    """
    found: dict[str, PlanStatus] = {}
    sized: dict[str, list[SizedSet]] = {}
    state = read_state(site)
    for plan in site.single_plans if plans is None else plans:
        try:
            sets = tuple(list_plan(site, plan))
        except BackupSystemError as error:
            label = open_store(site, plan).label
            about = (incident_key(IncidentKind.STORE_UNREADABLE, plan),)
            problem = Problem("error", str(error.what), error.remedy, about=about)
            found[plan] = PlanStatus(plan, label, problems=(problem,), incidents=_incidents(state, plan))
        else:
            found[plan] = replace(_standing(site, plan, sets, now), incidents=_incidents(state, plan))
            sized[plan] = [SizedSet(_facts(one), one.known.size) for one in sets]
    for disk in disks_of(site, sized, now):
        for plan in disk.plans:
            standing = replace(
                found[plan], trend=trend_of(sized[plan]), free=disk.free, full_at=disk.full_at, shares=disk.plans
            )
            facts = [one.facts for one in sized[plan]]
            verdict = decide(
                facts,
                site.plan(plan).retention,
                now,
                ZoneInfo(site.settings.timezone),
                sources_for_retention(site, plan, now),
            )
            problems = sorted(_problems(site, standing, verdict, now), key=lambda problem: problem.severity)
            found[plan] = _with_answers(site, replace(standing, problems=tuple(problems)), now)
    return list(found.values())


def _incidents(state: IncidentState, plan: str) -> tuple[Incident, ...]:
    return tuple(one for one in (*state.closed, *state.open) if one.plan == plan)


def _facts(one: ListedSet) -> SetFacts:
    return facts_of(one.known, running=one.running, missing=one.missing)


def _standing(site: Site, plan: str, sets: tuple[ListedSet, ...], now: datetime) -> PlanStatus:
    settings = site.plan(plan)
    whole = [one for one in sets if is_whole_backup(one.known) and not one.missing and not problem_of(one.known)]
    # One whose time has not come would never be overdue. Where all are such, this machine's clock is wrong.
    whole = [one for one in whole if not is_future(one.known.set_id, now)] or whole
    good = [one for one in whole if not one.broken_data]
    return PlanStatus(
        plan,
        open_store(site, plan).label,
        sets,
        _past_runs(site, plan),
        newest=whole[-1] if whole else None,
        last_good=good[-1] if good else None,
        last_verified=next((one for one in reversed(good) if one.verified), None),
        last_proven=next((one for one in reversed(good) if one.proven), None),
        next_backup=next_time(settings.schedule, site.settings.timezone, now) if settings.schedule else None,
        copies=tuple(copies_of(site, plan, _sealed(sets))),
    )


def _sealed(sets: tuple[ListedSet, ...]) -> list[SetId]:
    return [one.known.set_id for one in sets if one.known.state is SetState.COMPLETE]


def _with_answers(site: Site, status: PlanStatus, now: datetime) -> PlanStatus:
    """Return the standing with its answers to 3-2-1-1-0."""
    drill = status.last_proven.known.last_proof(ProofKind.DRILL) if status.last_proven else None
    ways = [f"on {drill.finished_at:%Y-%m-%d} from the store{drill.skipped_text}"] if drill else []
    ways += [f"on {one.proven[1].finished_at:%Y-%m-%d} from {one.vault}" for one in status.copies if one.proven]
    errors = [one.what for one in status.problems if one.severity == "error"]
    newest = status.last_good.known.set_id if status.last_good else None
    return replace(
        status,
        answers=answers_of(site, status.plan, status.copies, newest, proven=", ".join(ways), errors=errors, now=now),
    )


def _past_runs(site: Site, plan: str) -> tuple[tuple[SetId, str], ...]:
    """Return what the log beside the sets records of past runs; nothing when there is no log."""
    try:
        text = (site.store_folder(plan) / RUN_LOG_NAME).read_text("utf-8", "replace")
    except OSError:
        return ()
    found: dict[SetId, str] = {}
    for line in _RUN_LINE.finditer(text):
        if line["plan"] == plan and is_set_id(line["set"]):
            found[SetId(line["set"])] = line["outcome"]
    return tuple(sorted(found.items()))


def _files(site: Site, status: PlanStatus) -> list[Problem]:
    """Return a problem for each set whose files are not all there: of the newest, and of those that status names."""
    store = open_store(site, status.plan)
    # Older than those whose files `list_plan` checks.
    named = {one.known.set_id: one for one in (status.last_verified, status.last_proven) if one}
    wrong = {one.known.set_id: one.missing for one in status.sets if one.missing}
    wrong |= {set_id: as_text(found) for set_id, one in named.items() if (found := files_not_there(store, one.known))}
    return [
        Problem(
            "error",
            f"Set {set_id} is not whole any more: {wrong[set_id]}",
            f"Make a good set: `backup-pipeline backup {status.plan}`. Then inspect the disk.",
            BACKUP,
            about=(incident_key(IncidentKind.DAMAGED, status.plan),),
        )
        for set_id in sorted(wrong)[-_SHOWN:]
    ]


def _signs(site: Site, status: PlanStatus, now: datetime) -> Iterator[Sign]:
    drilled = status.last_proven.known.last_proof(ProofKind.DRILL) if status.last_proven else None
    checked = [one.known.last_proof(ProofKind.VERIFICATION) for one in status.sets]
    return signs_of(
        site,
        status.plan,
        [_facts(one) for one in status.sets],
        _manifest(site, status.newest),
        now,
        verified_at=max(
            (each.finished_at for each in checked if each and not is_ahead(each.finished_at, now)), default=None
        ),
        drilled_at=drilled.finished_at if drilled and not is_ahead(drilled.finished_at, now) else None,
    )


def _manifest(site: Site, one: ListedSet | None) -> Manifest | None:
    if one is None:
        return None
    if isinstance(one.known, BackupSet):
        return one.known.manifest
    with contextlib.suppress(SetNotFoundError):  # retention removed it meanwhile
        return open_store(site, one.known.plan).read(one.known.set_id).manifest
    return None


def _problems(site: Site, status: PlanStatus, verdict: Verdict, now: datetime) -> list[Problem]:
    found = _freshness(site, status, now)
    found += [
        Problem(
            sign.severity,
            sign.what,
            sign.remedy,
            _ACTIONS.get(sign.subject.partition(":")[0], ""),
            about=(incident_key(IncidentKind.NOT_THERE, status.plan, sign.subject),),
        )
        for sign in _signs(site, status, now)
    ]
    signs = copy_signs(site, status.plan, _sealed(status.sets), now)
    for sign in signs:
        about, _, vault = sign.subject.partition(":")
        key = incident_key(IncidentKind.COPIES, status.plan, sign.subject)
        vault = "" if about == "kit" else vault
        found.append(Problem(sign.severity, sign.what, sign.remedy, vault=vault, about=(key,)))
    found += _broken_data(status)
    found += _files(site, status)
    found += _bad_sets(status)
    if status.last_good:
        _, failed = status.last_good.checks
        if failed:
            found.append(
                Problem(
                    "warning",
                    f"{failed} checks of the last good set did not pass.",
                    f"`backup-pipeline show {status.last_good.name}` lists them.",
                    about=(incident_key(IncidentKind.CHECK_FAILED, status.plan),),
                )
            )
    found += _failed_runs(status)
    if verdict.held:
        found.append(
            Problem(
                "warning",
                f"Clean-up is held back: {verdict.refusal}.",
                f"Make a good set: `backup-pipeline backup {status.plan}`",
                BACKUP,
                about=(incident_key(IncidentKind.RETENTION_REFUSED, status.plan),),
            )
        )
    return [*found, *_disk(status, now)]


def _bad_sets(status: PlanStatus) -> Iterator[Problem]:
    """Yield the newest sets that are incomplete, and the last three that are bad."""
    finished = [one for one in status.sets if not one.running]
    # Partial and emergency sets are not the plan's backup: that one of them failed is worth a warning.
    newest = next((one for one in reversed(finished) if _is_the_plans(one)), None)
    for one in [newest, *(last for last in finished[-1:] if last is not newest)]:
        if one and one.known.state is SetState.INCOMPLETE:
            yield Problem(
                "error" if one is newest else "warning",
                f"The newest {'set' if one is newest else 'partial or emergency set'} {one.known.set_id} "
                f"is incomplete: {'; '.join(one.notes)}",
                f"`backup-pipeline backup {status.plan} --resume` completes it." if one is newest else "",
                BACKUP if one is newest else "",
            )
    for one in [one for one in status.sets if problem_of(one.known)][-3:]:
        yield Problem(
            "error" if one is newest else "warning",
            f"Set {one.known.set_id} is bad: {problem_of(one.known)}",
            "Use another set. Check the disk; remove the set by hand when it is no longer needed.",
            about=tuple(incident_key(kind, status.plan) for kind in (IncidentKind.DAMAGED, IncidentKind.NOT_PROVEN)),
        )


def _disk(status: PlanStatus, now: datetime) -> list[Problem]:
    """Return that the disk will be full soon."""
    found = []
    if status.full_at and status.full_at - now < DISK_WARNING:
        days = max(0, (status.full_at - now).days)
        with_whom = [name for name in status.shares if name != status.plan]
        together = f" together with {', '.join(with_whom)}" if with_whom else ""
        found.append(
            Problem(
                "error" if days < 7 else "warning",
                f"The disk will be full in {days} days, about {status.full_at:%Y-%m-%d}{together}.",
                "Free space, give the store a larger disk, or keep fewer sets.",
                about=tuple(incident_key(IncidentKind.DISK_FILLING, plan) for plan in status.shares),
            )
        )
    return found


def _broken_data(status: PlanStatus) -> list[Problem]:
    """Return what of the newest set's data was broken at its source."""
    if status.newest is None or not status.newest.broken_data:
        return []
    sound = f"The newest set with sound data is {status.last_good.name}." if status.last_good else "No set is sound."
    broken = "; ".join(status.newest.broken_data)
    return [
        Problem(
            "error",
            f"The data of the newest set {status.newest.known.set_id} is broken: {broken}",
            f"Repair the data, then back up again. {sound}",
        )
    ]


def _failed_runs(status: PlanStatus) -> list[Problem]:
    """Return the runs that failed since all was well, which no set shows; `alerts list` has them too."""
    found = []
    since = status.newest.known.started_at if status.newest else None
    for incident in status.incidents:
        if incident.closed_at is not None or incident.kind is not IncidentKind.RUN_FAILED:
            continue
        backup = incident.key == incident_key(IncidentKind.RUN_FAILED, status.plan, "backup")
        if backup and since is not None and incident.opened_at < since:
            continue
        since_text = f"(since {incident.opened_at:%Y-%m-%d %H:%M} UTC)"
        if is_of_restore(incident):
            found.append(_failed_restore(incident, since_text))
            continue
        reason = f" {incident.reason}" if incident.reason else ""
        found.append(
            Problem(
                "error",
                f"{incident.what}{reason} {since_text}",
                incident.remedy,
                BACKUP if backup else "",
                about=(incident.key,),
            )
        )
    return found


def _failed_restore(incident: Incident, since: str) -> Problem:
    """Return what a restore that was asked for came to: whoever asked needs it, and the backups are as good as ever."""
    what = f"{incident.what.rstrip('.')} or was refused: that says nothing against the backups {since}."
    details = [incident.reason, incident.remedy, "The next one that succeeds ends this."]
    return Problem("warning", what, " ".join(text for text in details if text), about=(incident.key,))


def _is_the_plans(one: ListedSet) -> bool:
    return not one.partial and one.known.purpose is Purpose.BACKUP


def _freshness(site: Site, status: PlanStatus, now: datetime) -> list[Problem]:
    """Return what is wrong with the times of the last backup and the last proof."""
    settings = site.plan(status.plan)
    remedy = f"`backup-pipeline backup {status.plan}` makes one."
    about = (incident_key(IncidentKind.OVERDUE, status.plan),)
    if status.newest is None:
        return [Problem("error", "There is no complete and good backup.", remedy, BACKUP, about=about)]
    late = overdue(
        schedule=settings.schedule,
        timezone=site.settings.timezone,
        overdue_after=settings.overdue_after,
        newest=status.newest.known.started_at,
        known_since=now,
        now=now,
    )
    found = []
    if late:
        what = f"Overdue. {late.reason}"
        found.append(Problem("error", what, f"Is the daemon running? {remedy}", BACKUP, about=about))
    drill = f"`backup-pipeline drill {status.plan}/latest` proves the newest."
    tried = next((one for one in reversed(status.sets) if one.known.not_drilled_here), None)
    if tried is not None and (proof := tried.known.not_drilled_here) and not tried.known.proven:
        missing = "; ".join(f"{one.subject}: {one.problem}" for one in proof.missing_here[:3])
        remedy = next((one.remedy for one in proof.missing_here if one.remedy), drill)
        found.append(
            Problem(
                "warning",
                f"Set {tried.known.set_id} could not be drilled here, which says nothing against it: {missing}.",
                remedy,
                about=(incident_key(IncidentKind.NOT_DRILLABLE, status.plan),),
            )
        )
    if status.last_proven is None:
        found.append(Problem("warning", "No set is proven: none has been restored and compared.", drill, DRILL))
    return found
