"""What became of a fleet's members the last time each was to be backed up: kept beside their stores, no secret."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from backup_pipeline.model.base import Frozen

_SHOWN = 5
MemberState = Literal["sealed", "failed", "postponed"]


class MemberOutcome(Frozen):
    """What became of one member.

    Attributes:
        state: `sealed`; `failed`; or `postponed`: the window closed before it began.
        set_id: the set that was sealed, "" for none.
        what: why it failed, or what was not done beside the set.
        remedy: what to do.
        exit_code: as of the command for it alone.
        seconds: how long it took.
        size: bytes of its set.
        usual_seconds: how long its last sealed backup took.
        proven_at: when a set of it was last restored and found equal.
    """

    plan: str
    state: MemberState
    at: datetime
    set_id: str = ""
    what: str = ""
    remedy: str = ""
    exit_code: int = 0
    seconds: float = 0.0
    size: int = 0
    usual_seconds: float = 0.0
    proven_at: datetime | None = None


class FleetRecord(Frozen):
    """The last run of a fleet, and the last outcome of each member.

    Attributes:
        began: when the run began.
        ended: when it ended; None while it runs, or where it was killed.
        closes: when its window closes.
        run_id: Dagster's id of the run, "" for none.
        running: members that were being backed up when this was written; none in records of earlier releases.
        waiting: those that had not begun by then.
        outcomes: of members that were ever to be backed up, by plan.
    """

    record_version: Literal[1] = 1
    began: datetime | None = None
    ended: datetime | None = None
    closes: datetime | None = None
    run_id: str = ""
    running: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    outcomes: dict[str, MemberOutcome] = Field(default_factory=dict)

    @property
    def open(self) -> frozenset[str]:
        """Members that the run was about and had not ended: it is under way, or was killed."""
        return frozenset() if self.ended else frozenset((*self.running, *self.waiting))

    def describe(self) -> str:
        """Return how far a run that has not ended is, in one phrase."""
        ended = [one for one in self.outcomes.values() if self.began and one.at >= self.began]
        failed = sum(one.state == "failed" for one in ended)
        now = ", ".join(self.running[:_SHOWN]) + (", …" if len(self.running) > _SHOWN else "")
        return (
            f"{len(ended)} of {len(ended) + len(self.open)} members have ended"
            f"{f', {failed} of them failed' if failed else ''}{f'; now: {now}' if now else ''}"
        )
