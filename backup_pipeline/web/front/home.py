"""The home page: whether the backups are safe, and the standing of each plan."""

from __future__ import annotations

from starlette.responses import Response

from backup_pipeline.operations.status.plan import site_status
from backup_pipeline.web.front.pages import PageRequest


def home(asked: PageRequest) -> Response:
    """Return the home page."""
    site, now = asked.front.site(), asked.front.now()
    return asked.render("home.html.jinja", plans=site_status(site, now), now=now, zone=site.settings.timezone)
