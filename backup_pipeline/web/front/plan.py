"""The page of a plan: its sets, newest first, a page at a time."""

from __future__ import annotations

from starlette.responses import Response

from backup_pipeline.operations.status.plan import plan_status
from backup_pipeline.web.front.pages import PageRequest


def plan_page(asked: PageRequest) -> Response:
    """Return a plan's page."""
    site, now, plan = asked.front.site(), asked.front.now(), asked.plan
    return asked.render("plan.html.jinja", plan=plan_status(site, plan, now), now=now, zone=site.settings.timezone)
