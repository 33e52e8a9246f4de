"""Acknowledgement of incidents by a person, and its withdrawal: kept where the incidents are, alike on all workers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from backup_pipeline.errors import IncidentNotFoundError, RefusedError
from backup_pipeline.model.incident import Acknowledgement, Incident, IncidentState
from backup_pipeline.operations.alerts.send import hidden_texts
from backup_pipeline.operations.status.incident_state import change_state
from backup_pipeline.redaction import scrub
from backup_pipeline.rules import acknowledgements
from backup_pipeline.rules.acknowledgements import LONGEST_QUIET
from backup_pipeline.settings.site import Site

LONGEST_NAME, LONGEST_REASON = 60, 300


def acknowledge(
    site: Site, keys: Collection[str], *, by: str, now: datetime, quiet: timedelta, reason: str = ""
) -> tuple[Incident, ...]:
    """Note that somebody knows of open incidents, and return them; they are not reported again meanwhile.

    Args:
        site: the site.
        keys: the incidents' keys.
        by: who knows, in one line.
        now: the present moment.
        quiet: for how long nothing is sent unless one becomes worse; at most LONGEST_QUIET.
        reason: why nothing is done about it now, or what is.

    Raises:
        RefusedError: no name, or too long a time. IncidentNotFoundError: no open incident of a key.
        StoreError: it cannot be kept.
    """
    name, why = (_line(site, text) for text in (by, reason))
    if not name or len(name) > LONGEST_NAME or len(why) > LONGEST_REASON:
        raise RefusedError(
            "An incident is acknowledged by somebody: a name is missing, or a text is too long.",
            where="acknowledge",
            remedy=f"Give a name of at most {LONGEST_NAME} characters, and a reason of at most {LONGEST_REASON}.",
        )
    if not timedelta(0) < quiet <= LONGEST_QUIET:
        raise RefusedError(
            "An incident is never silenced for ever.",
            where="acknowledge",
            remedy=f"Acknowledge it for at most {LONGEST_QUIET.days} days, and again then if it still must be.",
        )
    given = Acknowledgement(by=name, at=now, until=now + quiet, reason=why)
    return _change(site, keys, lambda state: acknowledgements.acknowledge(state, keys, given))


def withdraw(site: Site, keys: Collection[str], *, now: datetime) -> tuple[Incident, ...]:
    """Take acknowledgements back: the incidents are reported again. Raises as `acknowledge`."""
    return _change(site, keys, lambda state: acknowledgements.withdraw(state, keys, now))


def _line(site: Site, text: str) -> str:
    """Return a text of a person as one line without secrets of the site, fit for a terminal and a message."""
    shown = "".join(sign if sign.isprintable() else " " for sign in text)
    return scrub(" ".join(shown.split()), hidden_texts(site))


def _change(
    site: Site, keys: Collection[str], changed: Callable[[IncidentState], IncidentState]
) -> tuple[Incident, ...]:
    def change(state: IncidentState) -> tuple[IncidentState, tuple[Incident, ...]]:
        if not keys or (unknown := sorted(set(keys) - {incident.key for incident in state.open})):
            raise IncidentNotFoundError(
                "No such incident is open.",
                where=unknown[0][:200] if keys else "incidents",
                remedy="backup-pipeline incidents lists those that are, with their keys.",
            )
        after = changed(state)
        return after, tuple(incident for incident in after.open if incident.key in keys)

    return change_state(site, change, must_be_stored=True)
