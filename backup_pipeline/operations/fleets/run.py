"""One run of a fleet: its members backed up side by side, within its window and the limits per server and network.

The limits hold wherever the run was started, since one run of a fleet has them all; a lock keeps a second one away.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.errors import BackupSystemError, ExitCode, LockError, SettingsError
from backup_pipeline.model.fleet_run import FleetRecord, MemberOutcome
from backup_pipeline.model.set_id import set_time
from backup_pipeline.operations.fleets.member_process import member_process
from backup_pipeline.operations.sites.fleet_record import (
    LOCK_NAME,
    folder_of,
    keep_members,
    keep_record,
    lock_name,
    read_record,
)
from backup_pipeline.operations.sites.known_databases import refresh_databases
from backup_pipeline.operations.sites.shared_knowledge import share_fleet, state_lock
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.rules.fleet_order import Admission, FleetLimits, Turn, WaitingMember
from backup_pipeline.settings.fleet_members import FleetMember
from backup_pipeline.settings.site import Site
from backup_pipeline.system.files import make_folders
from backup_pipeline.system.locks import hold_lock
from backup_pipeline.system.threads import start_thread

_KEEP_EVERY_SECONDS = 5.0
_CHECK_SECONDS = 0.5
_NEVER = datetime.min.replace(tzinfo=UTC)
_TURNS = {"postponed": Turn.POSTPONED, "failed": Turn.FAILED}


@dataclass(frozen=True)
class FleetRequest:
    """What a run of a fleet is about.

    Attributes:
        fleet: its name.
        only: plans of the members to back up; all that are in its list by default.
        unfinished: only those that failed, were postponed or left by a killed run, and have no set since.
        opened: when its window opened; now by default.
        window: instead of the fleet's own.
        run_id: Dagster's id of the run.
    """

    fleet: str
    only: Collection[str] | None = None
    unfinished: bool = False
    opened: datetime | None = None
    window: timedelta | None = None
    run_id: str = ""


@dataclass
class FleetOutcome:
    """What a run did.

    Attributes:
        outcomes: one for each member that it was about.
        faults: what is wrong with the list of members (where, what).
        drilled: one for each member whose newest set was drilled; what is wrong stands in `what`.
        gone: members that are in the list no more; their sets stay.
        closes: when the window closed.
    """

    outcomes: list[MemberOutcome] = field(default_factory=list)
    drilled: list[MemberOutcome] = field(default_factory=list)
    faults: Sequence[tuple[str, str]] = ()
    gone: Sequence[FleetMember] = ()
    closes: datetime | None = None

    def of_state(self, state: str) -> list[MemberOutcome]:
        """Return the members that were sealed, failed or postponed."""
        return [one for one in self.outcomes if one.state == state]

    @property
    def exit_code(self) -> ExitCode:
        """As of the command: that of the first member that failed, CHECKS for what was postponed or is wrong."""
        codes = [one.exit_code for one in (*self.outcomes, *self.drilled) if one.exit_code]
        if codes:
            return ExitCode(codes[0])
        return ExitCode.CHECKS if self.of_state("postponed") or self.faults else ExitCode.OK


def run_fleet(
    site: Site, request: FleetRequest, on_end: Callable[[MemberOutcome, int, int], None] = lambda *_: None
) -> FleetOutcome:
    """Back up the members of a fleet; what goes wrong with one is in its outcome.

    Args:
        site: the site.
        request: which fleet, and which of its members.
        on_end: called for each member that has ended, with how many have by then, and of how many.

    Raises:
        SettingsError: no such fleet or member.
        LockError: another run of the fleet is under way; says how far it is.
    """
    if request.fleet not in site.settings.fleets:
        raise SettingsError(
            f"There is no fleet {request.fleet!r}.", where=str(site.file), remedy="Name one of `fleets` in backup.yaml."
        )
    folder = folder_of(site, request.fleet)
    make_folders(folder, int(site.settings.folder_mode, 8))
    purpose = f"backup of fleet {request.fleet}"
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(folder / LOCK_NAME, purpose=purpose, wait_seconds=0))
            stack.enter_context(state_lock(site, lock_name(request.fleet), purpose=purpose, wait_seconds=0))
        except LockError as error:
            raise _under_way(site, request.fleet, error) from None
        site = refresh_databases(site, [request.fleet]).site
        keep_members(site, request.fleet, utc_now())
        run = _FleetRun(site, request, on_end)
        return run.run()


def _under_way(site: Site, fleet: str, error: LockError) -> LockError:
    """Return the refusal of a second run, with how far the first one is."""
    share_fleet(site, fleet)
    record = read_record(site, fleet)
    how_far = f" {record.describe()}." if record.open else ""
    return LockError(
        f"{error.what}{how_far}",
        where=error.where,
        remedy=f"Wait until it has ended, then: backup-pipeline backup {fleet} --unfinished. A member that has failed "
        f"can be backed up alone meanwhile: backup-pipeline backup {fleet}_NAME",
    )


class _FleetRun:
    def __init__(self, site: Site, request: FleetRequest, on_end: Callable[[MemberOutcome, int, int], None]) -> None:
        self._site, self._request, self._on_end = site, request, on_end
        self._settings = site.settings.fleets[request.fleet]
        self._last = read_record(site, request.fleet)
        self._known = dict(self._last.outcomes)
        self._began = utc_now()
        opened = request.opened or self._began
        window = request.window or self._settings.window
        self._closes = opened + window if window else None
        limits = FleetLimits(self._settings.parallel, self._settings.per_server, self._settings.per_network)
        self._waiting = [self._waits(one) for one in self._members()]
        self._admission = Admission(self._waiting, limits, opened, self._closes)
        self._turn = threading.Condition()
        self._stopped: BaseException | None = None
        self._kept = -_KEEP_EVERY_SECONDS
        self._changed = False
        self._about = {one.plan for one in self._waiting}
        self._drills: list[str] | None = None
        members = site.fleets[request.fleet]
        gone = [one for one in members.members if one.absent_since is not None]
        self._outcome = FleetOutcome(faults=members.faults, gone=gone, closes=self._closes)

    def run(self) -> FleetOutcome:
        """Back up what may begin; what may not is postponed."""
        self._keep(ended=None)
        share_fleet(self._site, self._request.fleet, write=True)
        count = min(self._settings.parallel, len(self._waiting))
        threads = [start_thread(self._work, f"fleet-{n}") for n in range(count)]
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(_CHECK_SECONDS)
                    self._keep_progress()
        except BaseException as error:
            with self._turn:
                self._stopped = error
                self._turn.notify_all()
            raise
        finally:
            for one in self._admission.waiting:
                what = "the window closed before it began" if self._stopped is None else "the run was ended"
                self._take(MemberOutcome(plan=one.plan, state="postponed", at=utc_now(), what=what))
            self._keep(ended=utc_now())
            share_fleet(self._site, self._request.fleet, write=True)
        if self._stopped is not None:
            raise self._stopped
        return self._outcome

    def _members(self) -> list[FleetMember]:
        present = self._site.fleets[self._request.fleet].present
        if (only := self._request.only) is not None:
            unknown = sorted(set(only) - {one.plan for one in present})
            if unknown:
                raise SettingsError(
                    f"The fleet has no member {', '.join(unknown)} now.",
                    where=self._request.fleet,
                    remedy=f"backup-pipeline status {self._request.fleet} lists them.",
                )
            present = tuple(one for one in present if one.plan in only)
        if self._request.unfinished:
            present = tuple(one for one in present if self._is_unfinished(one.plan))
        return list(present)

    def _is_unfinished(self, plan: str) -> bool:
        """Return whether a member was to be backed up, was not, and was not made up for by itself since."""
        last = self._known.get(plan)
        if plan in self._last.open:
            since = self._last.began
        elif last is None or last.state == "sealed":
            return last is None
        else:
            since = last.at
        newest = self._newest(plan)
        # The names of sets have whole seconds.
        return newest is None or since is None or newest < since.replace(microsecond=0)

    def _newest(self, plan: str) -> datetime | None:
        with suppress(BackupSystemError):
            sealed = open_store(self._site, plan).sealed_ids()
            return set_time(sealed[-1]) if sealed else None
        return None

    def _waits(self, member: FleetMember) -> WaitingMember:
        last = self._known.get(member.plan)
        turn = _TURNS.get(last.state, Turn.DUE) if last else Turn.DUE
        return WaitingMember(
            member.plan,
            member.server,
            member.network,
            Turn.POSTPONED if member.plan in self._last.open else turn,
            self._newest(member.plan),
            timedelta(seconds=last.usual_seconds if last else 0),
        )

    def _work(self) -> None:
        """Take members for as long as there are some that may begin, then those that are to be proven."""
        with member_process(self._site.file, self._request.run_id) as process:
            while (plan := self._next()) is not None:
                outcome = process.ask("backup", plan)
                with self._turn:
                    self._admission.end(plan)
                    self._take(outcome)
                    self._turn.notify_all()
            while (plan := self._next_drill()) is not None:
                proven = process.ask("drill", plan)
                with self._turn:
                    self._drilled(proven)

    def _next(self) -> str | None:
        with self._turn:
            while self._stopped is None:
                now = utc_now()
                if (one := self._admission.begin(now)) is not None:
                    self._changed = True
                    return one.plan
                if self._admission.is_over(now):
                    return None
                self._turn.wait(_CHECK_SECONDS)
            return None

    def _next_drill(self) -> str | None:
        """Return the next member to prove: of those that are sealed, the ones whose proof is the oldest."""
        with self._turn:
            if self._drills is None:
                sealed = [one for one in self._known.values() if one.state == "sealed" and one.plan in self._about]
                sealed.sort(key=lambda one: (one.proven_at or _NEVER, one.plan))
                self._drills = [one.plan for one in sealed[: self._settings.drill]]
            closed = self._closes is not None and utc_now() >= self._closes
            return None if closed or self._stopped is not None or not self._drills else self._drills.pop(0)

    def _drilled(self, proven: MemberOutcome) -> None:
        known = self._known[proven.plan]
        self._known[proven.plan] = known.model_copy(update={"proven_at": proven.proven_at or known.proven_at})
        self._outcome.drilled.append(proven)

    def _take(self, outcome: MemberOutcome) -> None:
        before = self._known.get(outcome.plan)
        usual = outcome.seconds if outcome.state == "sealed" else before.usual_seconds if before else 0.0
        kept = {"usual_seconds": usual, "proven_at": before.proven_at if before else None}
        self._known[outcome.plan] = outcome.model_copy(update=kept)
        self._outcome.outcomes.append(outcome)
        if outcome.state != "postponed":
            done = len(self._outcome.outcomes)
            self._changed = True
            self._on_end(outcome, done, len(self._waiting))

    def _keep_progress(self) -> None:
        """Make known to all workers what has begun and ended, not more often than is worth its writing."""
        if self._changed and time.monotonic() - self._kept > _KEEP_EVERY_SECONDS:
            self._keep(ended=None)
            share_fleet(self._site, self._request.fleet, write=True)
            self._kept = time.monotonic()

    def _keep(self, ended: datetime | None) -> None:
        there = {one.plan for one in self._site.fleets[self._request.fleet].members}
        with self._turn:
            self._changed = False
            record = FleetRecord(
                began=self._began,
                ended=ended,
                closes=self._closes,
                run_id=self._request.run_id,
                running=() if ended else self._admission.running,
                waiting=() if ended else tuple(one.plan for one in self._admission.waiting),
                outcomes={plan: one for plan, one in self._known.items() if plan in there},
            )
        keep_record(self._site, self._request.fleet, record)
