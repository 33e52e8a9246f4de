"""The page of a set: what it holds, its checks and proofs, its copies, and who made it."""

from __future__ import annotations

from starlette.responses import Response

from backup_pipeline.operations.status.listing import show_set
from backup_pipeline.web.front.pages import PageRequest


def set_page(asked: PageRequest) -> Response:
    """Return a set's page."""
    site, now = asked.front.site(), asked.front.now()
    one = show_set(site, f"{asked.plan}/{asked.params['set']}")
    return asked.render("set.html.jinja", one=one, now=now, zone=site.settings.timezone)
