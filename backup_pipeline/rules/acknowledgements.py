"""Acknowledged incidents: how long one is quiet, when it has become worse, what is reported then.

An acknowledgement changes what is sent, and nothing else: the incident stays open, listed, and counted. Time is passed
in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from backup_pipeline.model.incident import Acknowledgement, Incident, IncidentKind, IncidentState, Notice

DEFAULT_QUIET = timedelta(days=7)
LONGEST_QUIET = timedelta(days=30)
_RANK = {"warning": 0, "error": 1}
_OF_SETS = (IncidentKind.DAMAGED, IncidentKind.NOT_PROVEN)


def acknowledge(state: IncidentState, keys: Collection[str], given: Acknowledgement) -> IncidentState:
    """Return the state in which the open incidents of these keys are acknowledged, as bad as they are now.

    A message about one of them that has not been delivered yet is dropped: somebody knows.
    """
    found = {
        incident.key: incident.model_copy(update={"acknowledged": _measured(given, incident)})
        for incident in state.open
        if incident.key in keys
    }
    return _changed(state, found, lambda notice: notice.over or notice.incident.key not in found)


def withdraw(state: IncidentState, keys: Collection[str], now: datetime) -> IncidentState:
    """Return the state in which the incidents of these keys are not acknowledged any more, and are reported again."""
    return _ended(state, {each.key: f"{_given(each)} was withdrawn." for each in state.open if each.key in keys}, now)


def end_acknowledgements(state: IncidentState, now: datetime) -> IncidentState:
    """Return the state in which acknowledgements end whose time has come; what is still open is reported again."""
    over = {
        each.key: f"{_given(each)} has ended, and it is still so."
        for each in state.open
        if each.acknowledged and each.acknowledged.until <= now
    }
    return _ended(state, over, now)


def worse_than_acknowledged(incident: Incident, at: datetime) -> str:
    """Return in a sentence that an incident, observed at a moment, is worse than it was acknowledged; "" otherwise.

    Worse is: an error that was a warning; more things concerned; a newer set damaged or not equal to its source; a run
    that fails for another reason.
    """
    known = incident.acknowledged
    if known is None or at <= known.at:
        return ""
    if (
        _RANK[incident.severity] > _RANK[known.severity]
        or incident.extent > known.extent
        or (incident.kind in _OF_SETS and incident.set_id > known.set_id)
        or _cause(incident) != known.cause
    ):
        return f"{_given(incident)} has ended: it has become worse."
    return ""


def _measured(given: Acknowledgement, incident: Incident) -> Acknowledgement:
    then = {"severity": incident.severity, "extent": incident.extent, "set_id": incident.set_id}
    return given.model_copy(update={**then, "cause": _cause(incident)})


def _cause(incident: Incident) -> str:
    """Return why a run failed without its figures, which differ each time; of other kinds the reason is a count."""
    if incident.kind is not IncidentKind.RUN_FAILED:
        return ""
    return re.sub(r"\d+", "0", f"{incident.artefact} {incident.reason}")


def _given(incident: Incident) -> str:
    known = incident.acknowledged
    return f"The acknowledgement by {known.by} of {known.at:%Y-%m-%d}" if known else "The acknowledgement"


def _ended(state: IncidentState, notes: dict[str, str], now: datetime) -> IncidentState:
    found = {
        each.key: each.model_copy(update={"acknowledged": None})
        for each in state.open
        if each.key in notes and each.acknowledged
    }
    again = tuple(Notice(incident=each, note=notes[key], made_at=now) for key, each in found.items())
    state = _changed(state, found, lambda notice: True)
    return state.model_copy(update={"notices": (*state.notices, *again)})


def _changed(state: IncidentState, found: dict[str, Incident], keep: Callable[[Notice], bool]) -> IncidentState:
    return state.model_copy(
        update={
            "open": tuple(found.get(each.key, each) for each in state.open),
            "notices": tuple(filter(keep, state.notices)),
        }
    )
