"""The order in which a fleet's members are backed up, and which of them may begin now. Pure: the time is passed in.

Limits hold per server, per network and in all. A member begins only where the window leaves it the time that it took
last: nothing that is begun is meant to run beyond it. How a member is backed up is not decided here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum

_NEVER = datetime.min.replace(tzinfo=UTC)
# One that takes longer than the window begins when it opens, or never would.
_OPENING = 0.05


class Turn(IntEnum):
    """Why a member comes before others: the first that fits."""

    POSTPONED = 0
    FAILED = 1
    DUE = 2


@dataclass(frozen=True, slots=True)
class WaitingMember:
    """A member that waits for its backup.

    Attributes:
        plan: its plan.
        server: host and port that it is captured from.
        network: the network of that server.
        turn: what became of it the last time.
        last_good: when its newest good set was begun; None where it has none.
        expected: how long its last backup took; zero where that is not known.
    """

    plan: str
    server: str
    network: str
    turn: Turn = Turn.DUE
    last_good: datetime | None = None
    expected: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class FleetLimits:
    """How many backups run at one time: in all, from one server, and from one network (None: any number)."""

    parallel: int
    per_server: int
    per_network: int | None = None


class Admission:
    """Lets members begin, one call at a time.

    Args:
        waiting: the members.
        limits: how many at one time.
        opened: when the window opened.
        closes: when it closes; None where there is none.
    """

    def __init__(
        self, waiting: Iterable[WaitingMember], limits: FleetLimits, opened: datetime, closes: datetime | None
    ) -> None:
        self._waiting = sorted(waiting, key=lambda one: (one.turn, one.last_good or _NEVER, one.plan))
        self._limits = limits
        self._opened, self._closes = opened, closes
        self._servers: Counter[str] = Counter()
        self._networks: Counter[str] = Counter()
        self._running: dict[str, WaitingMember] = {}

    @property
    def waiting(self) -> tuple[WaitingMember, ...]:
        """Those that have not begun, the next first."""
        return tuple(self._waiting)

    @property
    def running(self) -> tuple[str, ...]:
        """Plans of those that have begun and not ended, in that order."""
        return tuple(self._running)

    def begin(self, now: datetime) -> WaitingMember | None:
        """Return the next member that may begin now, which counts as running from here on; None where none may."""
        if len(self._running) >= self._limits.parallel:
            return None
        for number, one in enumerate(self._waiting):
            if self._has_room(one) and self._fits(one, now):
                del self._waiting[number]
                self._running[one.plan] = one
                self._servers[one.server] += 1
                self._networks[one.network] += 1
                return one
        return None

    def end(self, plan: str) -> None:
        """Say that a member's backup has ended."""
        one = self._running.pop(plan)
        self._servers[one.server] -= 1
        self._networks[one.network] -= 1

    def is_over(self, now: datetime) -> bool:
        """Return whether nothing will begin any more."""
        return not any(self._fits(one, now) for one in self._waiting)

    def _has_room(self, one: WaitingMember) -> bool:
        most = self._limits.per_network
        return self._servers[one.server] < self._limits.per_server and (
            most is None or self._networks[one.network] < most
        )

    def _fits(self, one: WaitingMember, now: datetime) -> bool:
        if self._closes is None:
            return True
        if now >= self._closes:
            return False
        whole = self._closes - self._opened
        if one.expected > whole:
            return now - self._opened <= whole * _OPENING
        return now + one.expected <= self._closes
