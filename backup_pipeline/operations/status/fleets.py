"""How a fleet is doing: a line for each member, from the names of its sets and the last run; no set is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.fleet_run import FleetRecord
from backup_pipeline.model.set_id import SetId, set_time
from backup_pipeline.operations.sites.fleet_record import read_record
from backup_pipeline.operations.sites.shared_knowledge import fleet_holder
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.operations.status.copies import is_off_site
from backup_pipeline.operations.status.plan import Problem
from backup_pipeline.rules.overdue import last_time
from backup_pipeline.settings.fleet_members import FleetMember
from backup_pipeline.settings.site import Site

State = Literal["good", "gone", "postponed", "overdue", "failed", "never"]
_BAD: tuple[State, ...] = ("failed", "never", "overdue")
_ORDER: tuple[State, ...] = ("good", "gone", "postponed", "overdue", "failed", "never")
_SHOWN = 5
_A_MOMENT = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One member: how it is doing, its newest sealed set, that set's bytes as far as known, and why it is not good."""

    plan: str
    state: State
    newest: SetId | None = None
    size: int = 0
    what: str = ""


@dataclass(frozen=True)
class FleetStatus:
    """A fleet at one moment.

    Attributes:
        name: its name.
        members: one line each, those that are good first.
        problems: what is wrong, errors first.
        sentence: the figures as a sentence.
        under_way: how far a run of it is on whatever worker; "" where none is.
        lost_with: what takes its databases and every set together, by its settings: `machine`, `building`, or "".
    """

    name: str
    members: tuple[MemberStatus, ...]
    problems: tuple[Problem, ...]
    sentence: str
    under_way: str = ""
    lost_with: str = ""

    @property
    def standing(self) -> str:
        """`failing` with errors, `attention` with warnings, else `good`."""
        severities = {problem.severity for problem in self.problems}
        return "failing" if "error" in severities else "attention" if severities else "good"

    @property
    def at_risk(self) -> str:
        """What takes the data and every set together, as `lost_with`, where there is a set."""
        return self.lost_with if any(member.newest for member in self.members) else ""

    @property
    def unless(self) -> str:
        """What is added to the word "Good": `, unless this machine is lost`; "" where nothing is, or it is not good."""
        return f", unless this {self.at_risk} is lost" if self.at_risk and self.standing == "good" else ""

    def as_dict(self) -> dict[str, object]:
        """Return it for `--json`."""
        return {
            "fleet": self.name,
            "standing": self.standing,
            "under_way": self.under_way,
            "members": [
                {"plan": one.plan, "state": one.state, "newest": one.newest, "what": one.what} for one in self.members
            ],
            "problems": [{"severity": p.severity, "what": p.what, "remedy": p.remedy} for p in self.problems],
        }


def fleet_status(site: Site, fleet: str, now: datetime) -> FleetStatus:
    """Return how a fleet is doing at `now`."""
    known = read_record(site, fleet)
    due = _due(site, fleet, now)
    under_way = _under_way(site, fleet, known)
    missed = frozenset() if under_way else known.open
    members = []
    for member in site.fleets[fleet].members:
        outcome = known.outcomes.get(member.plan)
        newest = _newest(site, member)
        state: State = "good"
        what = outcome.what if outcome else ""
        if member.absent_since is not None:
            state, what = "gone", "in the list no more; its sets stay"
        elif member.plan in missed and not _made_since(newest, known.began):
            state, what = "postponed", "its run was killed before this member was sealed"
        elif outcome is not None and outcome.state != "sealed" and not _made_since(newest, outcome.at):
            state = "failed" if outcome.state == "failed" else "postponed"
        elif newest is None:
            state = "never"
        elif due is not None and set_time(newest) < due:
            state = "overdue"
        members.append(MemberStatus(member.plan, state, newest, outcome.size if outcome else 0, what))
    members.sort(key=lambda one: (_ORDER.index(one.state), one.plan))
    counts = Counter(one.state for one in members)
    sentence = f"{len(members)} members: " + ", ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state])
    if under_way:
        sentence = f"{sentence}. Under way: {under_way}"
    problems = tuple(_problems(site, fleet, members))
    return FleetStatus(fleet, tuple(members), problems, sentence, under_way, _lost_with(site, fleet))


def _under_way(site: Site, fleet: str, known: FleetRecord) -> str:
    """Return how far the last run is, where it has not ended and its process lives; "" else."""
    if not known.open:
        return ""
    try:
        return known.describe() if fleet_holder(site, fleet) else ""
    except BackupSystemError:
        # Nothing is known against it.
        return known.describe()


def _lost_with(site: Site, fleet: str) -> str:
    vaults = [site.settings.vaults[entry.to] for entry in site.settings.fleets[fleet].plan.copies]
    return "" if any(is_off_site(site, vault) for vault in vaults) else "building" if vaults else "machine"


def _made_since(newest: SetId | None, at: datetime | None) -> bool:
    # The names of sets have whole seconds.
    return newest is not None and at is not None and set_time(newest) >= at.replace(microsecond=0)


def _newest(site: Site, member: FleetMember) -> SetId | None:
    try:
        return next(iter(reversed(open_store(site, member.plan).sealed_ids())), None)
    except BackupSystemError:
        return None


def _due(site: Site, fleet: str, now: datetime) -> datetime | None:
    """Return from when on a member's newest set must be; None where nothing is due by the clock."""
    settings = site.settings.fleets[fleet]
    if settings.plan.overdue_after is not None:
        return now - settings.plan.overdue_after
    if settings.schedule is None:
        return None
    opened = last_time(settings.schedule, site.settings.timezone, now)
    over = settings.window is None or now >= opened + settings.window
    # What the window of now has not reached yet is judged by the one before.
    return opened if over else last_time(settings.schedule, site.settings.timezone, opened - _A_MOMENT)


def _problems(site: Site, fleet: str, members: list[MemberStatus]) -> list[Problem]:
    problems = []
    for state in (*_BAD, "postponed"):
        found = [one.plan for one in members if one.state == state]
        if found:
            names = ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
            postponed = "postponed: the window closed, or their run was killed, before they were backed up"
            what = {"never": "never backed up", "postponed": postponed}
            problems.append(
                Problem(
                    "warning" if state == "postponed" else "error",
                    f"{len(found)} of {len(members)} members: {what.get(state, state)} ({names})",
                    f"`backup-pipeline backup {fleet} --unfinished`",
                )
            )
    undone = [one for one in members if one.state == "good" and one.what]
    if undone:
        said = (
            f"{len(undone)} of {len(members)} members: sealed, and not all is done ({undone[0].plan}: {undone[0].what})"
        )
        problems.append(Problem("warning", said, "Mend what is named; the next backup of a member does the rest."))
    for where, text in site.fleets[fleet].faults[:_SHOWN]:
        problems.append(Problem("error", f"list of members: {where}: {text}", "Correct the list, or what writes it."))
    return problems
