"""An incident: opened once, reported once, closed once when it is over.

How incidents are found stands in `rules/incidents.py`; how people are notified, in `operations/alerts/send.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from backup_pipeline.model.base import Frozen


class IncidentKind(StrEnum):
    """What went wrong; the first part of an incident's key."""

    RUN_FAILED = "run_failed"
    CHECK_FAILED = "check_failed"
    OVERDUE = "overdue"
    NOT_PROVEN = "not_proven"
    NOT_DRILLABLE = "not_drillable"
    DAMAGED = "damaged"
    RETENTION_REFUSED = "retention_refused"
    DISK_FILLING = "disk_filling"
    STORE_UNREADABLE = "store_unreadable"
    NOT_THERE = "not_there"
    COPIES = "copies"


class Acknowledgement(Frozen):
    """A person's word that an incident is known. It stays open and listed, and is not reported again meanwhile.

    Attributes:
        by: who gave it.
        at: when.
        until: when the incident is reported again if it is still open.
        reason: why nothing is done about it now, "" where none was given.
        severity: how bad the incident was then; with `extent`, `set_id` and `cause` what "worse" is measured against.
        extent: how much was concerned then.
        set_id: the set that it was observed in then.
        cause: what had failed then, without figures.
    """

    by: str
    at: datetime
    until: datetime
    reason: str = ""
    severity: str = "error"
    extent: int = 1
    set_id: str = ""
    cause: str = ""

    @property
    def sentence(self) -> str:
        """Who acknowledged it, and until when, for people: `acknowledged by anna until 2026-11-28 12:00 UTC: …`."""
        why = f": {self.reason}" if self.reason else ""
        return f"acknowledged by {self.by} until {self.until:%Y-%m-%d %H:%M} UTC{why}"


class Incident(Frozen):
    """One problem from its beginning to its end.

    Attributes:
        key: what it is about, equal for every sign of the same problem: kind, plan and subject joined by colons.
        plan: the plan it concerns, "" for none.
        set_id: the set it was first observed in, "" for none.
        artefact: the artefact, table or job it concerns, "" for none.
        what: one sentence: what is wrong.
        reason: why, with counts and names only: no secret, no row of data.
        remedy: what to do.
        link: address of the run in the UI, "" when unknown.
        opened_at: when it was first observed.
        closed_at: when all was well again; None while it lasts.
        severity: how bad it is now: "error" or "warning".
        extent: how many things it concerns now (sets, findings); more is worse.
        acknowledged: a person's word that it is known; None where nobody gave it, or where it has ended.
    """

    key: str
    kind: IncidentKind
    plan: str = ""
    set_id: str = ""
    artefact: str = ""
    what: str
    reason: str = ""
    remedy: str = ""
    link: str = ""
    opened_at: datetime
    closed_at: datetime | None = None
    severity: str = "error"
    extent: int = 1
    acknowledged: Acknowledgement | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What was observed of one subject at one moment: a problem, or (incident None) that all is well with it."""

    key: str
    at: datetime
    incident: Incident | None = None


class Notice(Frozen):
    """A message that waits to be delivered: an incident has opened, is reported again, or is over.

    Attributes:
        attempted_at: when a process last took it up; others leave it alone for a while, so that none is sent twice.
        attempts: how often it was tried.
        note: why an incident that was reported is reported again, "" for the first time.
        made_at: when it became due again; None for the first time.
    """

    incident: Incident
    over: bool = False
    note: str = ""
    made_at: datetime | None = None
    attempted_at: datetime | None = None
    attempts: int = 0


class IncidentState(Frozen):
    """All that is remembered of a site's incidents, kept in `.alerts/incidents.json` of its store.

    Attributes:
        open: incidents that last, oldest first.
        closed: the last ones that are over.
        notices: what has not been delivered yet.
        well_since: per key, the last moment at which all was well; an older sign of trouble is stale.
        inspected_at: when the stores were last inspected; None when they never were.
        known_since: per plan, when it was first inspected; a new plan is not overdue before its first time has come.
    """

    state_version: Literal[1] = 1
    open: tuple[Incident, ...] = ()
    closed: tuple[Incident, ...] = ()
    notices: tuple[Notice, ...] = ()
    well_since: dict[str, datetime] = Field(default_factory=dict)
    known_since: dict[str, datetime] = Field(default_factory=dict)
    inspected_at: datetime | None = None
