"""What became of a fleet's members the last time each was to be backed up: kept beside their stores, no secret."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from backup_pipeline.model.base import Frozen

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
        outcomes: of members that were ever to be backed up, by plan.
    """

    record_version: Literal[1] = 1
    began: datetime | None = None
    ended: datetime | None = None
    closes: datetime | None = None
    run_id: str = ""
    outcomes: dict[str, MemberOutcome] = Field(default_factory=dict)
