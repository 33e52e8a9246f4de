"""Times that a clock wrote while it was ahead: they must not silence what comes until then. Time is passed in."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from backup_pipeline.model.incident import Incident, IncidentState, Notice, Observation
from backup_pipeline.model.proof import Proof

_NO_YEAR = 9999
CLOCKS_DIFFER = timedelta(minutes=5)
"""What is newer than now by less than this was made by a machine whose clock is a little ahead."""


def is_ahead(moment: datetime, now: datetime) -> bool:
    """Return whether a moment has not come yet: a clock was wrong, or this one is."""
    return moment > now + CLOCKS_DIFFER


def after_those_ahead(proof: Proof, others: Iterable[datetime], now: datetime) -> Proof:
    """Return a result as it is kept beside others of a set: after those that were finished in a time to come.

    By its own time it would be older than they are, and a drill of then would outweigh the damage that is found now.
    """
    # The end of time stands for a file whose name says none.
    ahead = max((at for at in others if is_ahead(at, now) and at.year < _NO_YEAR), default=None)
    if ahead is None or ahead < proof.finished_at:
        return proof
    later = ahead + timedelta(seconds=1) - proof.finished_at
    return proof.model_copy(update={"started_at": proof.started_at + later, "finished_at": proof.finished_at + later})


def observed_by_now(observations: Iterable[Observation], now: datetime) -> tuple[Observation, ...]:
    """Return the observations, those of a time to come as of now."""
    return tuple(
        Observation(each.key, now, each.incident and _opened(each.incident, now)) if is_ahead(each.at, now) else each
        for each in observations
    )


def without_times_ahead(state: IncidentState, now: datetime) -> IncidentState:
    """Return a state in which nothing happened after now.

    Of what lasts and of messages the time becomes now; that all was well at a time to come is forgotten, so that
    trouble is no stale sign until then; an acknowledgement of that time ends now.
    """
    return state.model_copy(
        update={
            "open": tuple(_opened(each, now) for each in state.open),
            "notices": tuple(_free(each, now) for each in state.notices),
            "well_since": {key: at for key, at in state.well_since.items() if not is_ahead(at, now)},
            "known_since": {plan: now if is_ahead(at, now) else at for plan, at in state.known_since.items()},
        }
    )


def _opened(incident: Incident, now: datetime) -> Incident:
    known = incident.acknowledged
    if known and is_ahead(known.at, now):
        incident = incident.model_copy(update={"acknowledged": known.model_copy(update={"at": now, "until": now})})
    return incident.model_copy(update={"opened_at": now}) if is_ahead(incident.opened_at, now) else incident


def _free(notice: Notice, now: datetime) -> Notice:
    """Return a notice that nobody took up in a time to come."""
    changed: dict[str, object] = {"incident": _opened(notice.incident, now)}
    if notice.attempted_at and is_ahead(notice.attempted_at, now):
        changed["attempted_at"] = None
    if notice.made_at and is_ahead(notice.made_at, now):
        changed["made_at"] = now
    return notice.model_copy(update=changed)
