"""The page of a plan: its figures, what each day brought, its copies, its sets; and that of a fleet: its members."""

from __future__ import annotations

from http import HTTPStatus
from zoneinfo import ZoneInfo

from starlette.responses import Response

from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.operations.status.charts import DAY_STATES, calendar, chart
from backup_pipeline.operations.status.listing import ListedSet, show_sets
from backup_pipeline.operations.status.overview import overview_of, plan_overview
from backup_pipeline.operations.status.page import short_bytes, short_seconds
from backup_pipeline.operations.status.plan import plan_status
from backup_pipeline.web.front.copies import copies_page
from backup_pipeline.web.front.home import STANDINGS, calendar_title
from backup_pipeline.web.front.incidents import not_shown, open_incidents
from backup_pipeline.web.front.pages import PageError, PageRequest

SETS = 50
"""How many sets a page lists."""
MEMBERS = 200
"""How many members of a fleet a page lists."""
_POINTS = 200


def plan_page(asked: PageRequest) -> Response:
    """Return a plan's page."""
    if ":" in asked.params["plan"]:
        return copies_page(asked)
    if asked.params["plan"].removeprefix("-") in asked.front.site().settings.fleets:
        return _fleet_page(asked)
    front, now, name = asked.front, asked.front.now(), asked.plan
    site = front.site()
    member = site.member_of(name)
    plan = plan_overview(site, plan_status(site, name, now), now) if member else front.overview().plan(name)
    if plan is None:
        raise PageError(HTTPStatus.NOT_FOUND, "There is no such plan.", "The front page lists the plans.")
    problems = [one.problem for one in overview_of([plan], now).reasons]
    incidents = open_incidents(site, name)
    ids = open_store(site, name).ids()
    page, pages = asked.page_of(len(ids), SETS)
    end = len(ids) - page * SETS
    today = now.astimezone(ZoneInfo(site.settings.timezone)).date()
    return asked.render(
        "plan.html.jinja",
        plan=plan,
        problems=problems,
        incidents=incidents,
        others=not_shown(incidents, problems),
        fleet=member[0] if member else "",
        year=calendar(plan.days, today, calendar_title(plan)),
        charts=[
            chart("Size of a set", plan.sizes[-_POINTS:], short_bytes),
            chart("Time to restore (RTO)", plan.restores[-_POINTS:], short_seconds),
        ],
        sets=list(show_sets(site, name, ids[max(0, end - SETS) : end][::-1])),
        kind_of=_kind_of,
        page=page,
        pages=pages,
        now=now,
        zone=site.settings.timezone,
        standings=STANDINGS,
        day_states=DAY_STATES,
    )


def _fleet_page(asked: PageRequest) -> Response:
    """Return the page of a fleet: a line for each member, those that need somebody first."""
    name = asked.params["plan"].removeprefix("-")
    fleet = next(one for one in asked.front.overview().fleets if one.name == name)
    page, pages = asked.page_of(len(fleet.members), MEMBERS)
    worst_first = fleet.members[::-1]
    site = asked.front.site()
    incidents = open_incidents(site, name)
    return asked.render(
        "fleet.html.jinja",
        fleet=fleet,
        incidents=incidents,
        others=not_shown(incidents, fleet.problems),
        zone=site.settings.timezone,
        members=worst_first[page * MEMBERS : (page + 1) * MEMBERS],
        page=page,
        pages=pages,
        standings=STANDINGS,
    )


def _kind_of(one: ListedSet) -> str:
    """Return what a set is besides a whole backup of its plan: `partial`, `emergency`, "" for neither."""
    return ", ".join(
        name
        for name, holds in (("partial", one.partial), (one.known.purpose.value, one.known.purpose != "backup"))
        if holds
    )
