"""Evidence of a plan and a period: events, gaps, and the demands of regulations that they answer. No I/O."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, Field

from backup_pipeline.model.base import Frozen

NOT_RECORDED = "not recorded"
# Of the time before the first backup that is known: whether the plan was there at all, nobody knows.
NOTHING_KNOWN = "nothing is known of the plan from this time"
# An emergency set, or one of some sources only: whole for what it is, and no backup of its plan.
NOT_COUNTED = "complete, not counted"


class EventKind(StrEnum):
    """What an event of the evidence is about."""

    BACKUP = "backup"
    VERIFICATION = "verification"
    DRILL = "drill"
    RESTORE = "restore"
    UNDO = "undo"
    RUN = "run"
    INCIDENT = "incident"


class Event(Frozen):
    """One thing that happened.

    Attributes:
        at: when it was finished; of something unfinished, when it began.
        kind: what it was.
        subject: the set, the restored target, or the incident.
        outcome: `complete`, `passed`, `failed`, `incomplete`, `undone`, `open`, `over`, …
        good: whether it is as it should be.
        who: person or schedule, as the run's tags name them; NOT_RECORDED where the history has no such run.
        run_id: Dagster's run, "" for none.
        figures: seconds, bytes, rows, tables.
        sha256: of the manifest that it is about, "" for none.
        detail: one sentence more, counts and names only.
    """

    at: AwareDatetime
    kind: EventKind
    subject: str
    outcome: str
    good: bool
    who: str = NOT_RECORDED
    run_id: str = ""
    figures: dict[str, float | int] = Field(default_factory=dict)
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    detail: str = ""


class Gap(Frozen):
    """A time for which something that was due is not there, or not known any more."""

    begin: AwareDatetime
    end: AwareDatetime
    what: str


class Demand(Frozen):
    """What a regulation demands, and what this evidence says to it.

    Attributes:
        regulation: its name and number.
        place: article or annex.
        demand: in short.
        answer: what was measured in the period.
        shown: whether the answer shows that it was fulfilled; None where this evidence cannot show it.
    """

    regulation: str
    place: str
    demand: str
    answer: str
    shown: bool | None


class Previous(Frozen):
    """The evidence before this one: its file's name and SHA-256."""

    name: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Evidence(Frozen):
    """All that is known of a plan in a period: `begin` (inclusive) to `end` (exclusive).

    Attributes:
        number: 1 for the first evidence of a plan, then one more each time.
        site: the folder's name.
        policy: schedule, checks, retention and sources as the settings had them when it was made.
        previous: the evidence before it; None for the first.
    """

    evidence_version: Literal[1] = 1
    number: int = 1
    site: str
    plan: str
    begin: AwareDatetime
    end: AwareDatetime
    made_at: AwareDatetime
    made_by: str
    pipeline_version: str
    policy: dict[str, str]
    events: tuple[Event, ...]
    gaps: tuple[Gap, ...]
    demands: tuple[Demand, ...]
    previous: Previous | None = None

    def of_kind(self, kind: EventKind) -> tuple[Event, ...]:
        """Return the events of one kind."""
        return tuple(one for one in self.events if one.kind is kind)
