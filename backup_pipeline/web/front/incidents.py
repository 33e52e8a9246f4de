"""Open incidents on our pages, and the form by which a person acknowledges them or takes that back."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from http import HTTPStatus

from starlette.responses import RedirectResponse, Response

from backup_pipeline.model.incident import Incident
from backup_pipeline.operations.alerts.acknowledge import acknowledge, withdraw
from backup_pipeline.operations.status.incident_state import read_state
from backup_pipeline.operations.status.plan import Problem
from backup_pipeline.settings.site import Site
from backup_pipeline.web.front.pages import PageError, PageRequest

LOG = logging.getLogger("backup-pipeline.ui")


def open_incidents(site: Site, plan: str = "") -> tuple[Incident, ...]:
    """Return what is open now (of a plan), as this machine knows it: the overview asks for other workers' news."""
    return tuple(one for one in read_state(site, shared=False).open if plan in ("", one.plan))


def not_shown(incidents: Iterable[Incident], problems: Sequence[Problem]) -> list[Incident]:
    """Return incidents that are none of these problems."""
    known = list(incidents)
    shown = {each.key for problem in problems for each in problem.incidents(known)}
    return [one for one in known if one.key not in shown]


def acknowledge_incidents(asked: PageRequest) -> Response:
    """Acknowledge the incidents of the fields `key` (`by`, `reason`, `days`), or take that back (`withdraw`).

    Then the page of the field `plan`, the home page without one.

    Raises:
        PageError: no name, or days that are no number. IncidentNotFoundError: it is over meanwhile.
        RefusedError, StoreError: as `acknowledge`.
    """
    site, now = asked.front.site(), asked.front.now()
    keys = asked.form.get("key", [])
    if asked.field("withdraw"):
        withdraw(site, keys, now=now)
    else:
        days, by = asked.field("days"), asked.field("by").strip()
        if not by:
            raise PageError(HTTPStatus.UNPROCESSABLE_ENTITY, "Who acknowledges it? A name is missing.", "Go back.")
        if not (days.isascii() and days.isdigit() and len(days) < 4):
            raise PageError(HTTPStatus.UNPROCESSABLE_ENTITY, "For how many days? That is not a number.", "Go back.")
        acknowledge(site, keys, by=by, now=now, quiet=timedelta(days=int(days)), reason=asked.field("reason"))
    LOG.info(
        "%s: %d incidents %s", asked.who, len(keys), "reported again" if asked.field("withdraw") else "acknowledged"
    )
    plan = asked.field("plan")
    known = plan in site.settings.plans or plan in site.settings.fleets
    to = asked.front.plan_address(plan) if known else asked.front.base
    return RedirectResponse(to, HTTPStatus.SEE_OTHER)
