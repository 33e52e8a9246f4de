"""The home page: whether the backups are safe, why not, what runs now, and the standing of each plan."""

from __future__ import annotations

from collections import Counter
from zoneinfo import ZoneInfo

from starlette.responses import Response

from backup_pipeline.operations.status.charts import DAY_STATES, calendar
from backup_pipeline.operations.status.overview import PlanOverview
from backup_pipeline.orchestration.activity import run_state
from backup_pipeline.web.front.incidents import not_shown, open_incidents
from backup_pipeline.web.front.live import live_values
from backup_pipeline.web.front.pages import PageRequest

STANDINGS = {"good": "Good", "attention": "Needs attention", "failing": "Failing"}
_REASONS = 6
_PLANS = 25
"""How many plans a page shows with their calendars."""


def home(asked: PageRequest) -> Response:
    """Return the home page."""
    front, now = asked.front, asked.front.now()
    site, overview = front.site(), front.overview()
    page, pages = asked.page_of(len(overview.plans), _PLANS)
    shown = overview.plans[page * _PLANS : (page + 1) * _PLANS]
    started = _started(asked)
    incidents = open_incidents(site)
    today = now.astimezone(ZoneInfo(site.settings.timezone)).date()
    return asked.render(
        "home.html.jinja",
        overview=overview,
        reasons=overview.reasons[:_REASONS],
        more=overview.reasons[_REASONS:],
        others=not_shown(incidents, [one.problem for one in overview.reasons]),
        incidents=incidents,
        plans=[(plan, calendar(plan.days, today, calendar_title(plan))) for plan in shown],
        page=page,
        pages=pages,
        now=now,
        standings=STANDINGS,
        day_states=DAY_STATES,
        started=started,
        state=run_state(front.instance, started) if front.instance is not None and started else "active",
        **live_values(front, now),
    )


def calendar_title(plan: PlanOverview) -> str:
    """Return a plan's calendar in a sentence, for those who do not see it."""
    states = Counter(state for state, _ in plan.days.values())
    counted = ", ".join(f"{states[state]} {state}" for state in DAY_STATES if states[state])
    return f"Days of {plan.plan} in the past year: {counted or 'no backup yet'}"


def _started(asked: PageRequest) -> str:
    """Return the run that was just started from this page, "" for none; any other text in the address is ignored."""
    run_id = asked.query.get("started", "")
    return run_id if len(run_id) == 36 and all(sign in "0123456789abcdef-" for sign in run_id) else ""
