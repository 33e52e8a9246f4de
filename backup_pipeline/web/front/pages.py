"""The frame of every page: its request, its templates and their filters, its errors, and its security headers."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs
from zoneinfo import ZoneInfo

import jinja2
from markupsafe import Markup, escape
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from backup_pipeline.errors import BackupSystemError, ExitCode
from backup_pipeline.model.set_id import SetId, set_time
from backup_pipeline.operations.sites.stores import split_place
from backup_pipeline.operations.status.overview import rough
from backup_pipeline.operations.status.page import short_bytes, short_count, short_seconds
from backup_pipeline.web.front.context import Front
from backup_pipeline.web.guard import LOGGED_IN

LOG = logging.getLogger("backup-pipeline.ui")
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
LONGEST_FORM = 256 * 1024
"""Bytes of a form; a longer one is refused."""
# htmx would write a <style> and use eval otherwise; neither passes the policy above.
_HTMX = {"includeIndicatorStyles": False, "allowEval": False, "allowScriptTags": False, "historyCacheSize": 0}
_DOCUMENT = re.compile(r"\bdocs/([a-z0-9-]+\.md)\b")
_TITLES = {
    HTTPStatus.NOT_FOUND: "There is no such page",
    HTTPStatus.CONFLICT: "That cannot be done as things are",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Something is wrong here",
    HTTPStatus.SERVICE_UNAVAILABLE: "That cannot be done here",
}
_STATUS = {
    ExitCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    ExitCode.USAGE: HTTPStatus.BAD_REQUEST,
    ExitCode.LOCKED: HTTPStatus.CONFLICT,
    ExitCode.REFUSED: HTTPStatus.CONFLICT,
}


class PageError(Exception):
    """What a page answers instead of its content: an HTTP status, what is wrong, and the remedy or its alternatives."""

    def __init__(self, status: HTTPStatus, what: str, remedy: str = "", *, ways: Sequence[str] = ()) -> None:
        super().__init__(what)
        self.status, self.what, self.remedy, self.ways = status, what, remedy, tuple(ways)


@dataclass(frozen=True)
class PageRequest:
    """A request as pages read it.

    Attributes:
        front: what all requests share.
        path: of the page, with the prefix.
        params: the named parts of the path.
        query: after the question mark.
        form: the fields of a POST, each with all its values; empty for GET.
        fragment: whether htmx asks, and so only for a part of the page.
        logged_in: whether a password was asked for.
        who: who asks, for tags of runs and logs: the front page and the address of the browser.
    """

    front: Front
    path: str
    params: Mapping[str, str]
    query: QueryParams
    form: Mapping[str, list[str]] = field(default_factory=dict)
    fragment: bool = False
    logged_in: bool = False
    who: str = "front page"

    def field(self, name: str, default: str = "") -> str:
        """Return a field's first value."""
        return self.form.get(name, [default])[0]

    def page_of(self, count: int, size: int) -> tuple[int, int]:
        """Return which page of a long list is asked for (`?page=`, from 0), and how many there are, at least 1."""
        pages = max(1, -(-count // size))
        text = self.query.get("page", "")
        return min(int(text), pages - 1) if text.isascii() and text.isdigit() and len(text) < 9 else 0, pages

    @property
    def plan(self) -> str:
        """The plan that the path names.

        Raises:
            PageError: the settings have no such plan.
        """
        # A plan named like one of our own pages is addressed with a hyphen, which no plan's name has.
        name = self.params["plan"].removeprefix("-")
        if name not in self.front.site().settings.plans:
            raise PageError(HTTPStatus.NOT_FOUND, "There is no such plan.", "The front page lists the plans.")
        return name

    @property
    def place(self) -> str:
        """Where the path's set is read from: a plan, or `VAULT:PLAN` for its copies in a vault.

        A plan that the settings do not have any more may still have copies.

        Raises:
            PageError: the settings have no such plan, or no such vault.
        """
        vault, plan = split_place(self.params["plan"])
        if not vault:
            return self.plan
        if vault not in self.front.site().settings.vaults or not plan:
            raise PageError(HTTPStatus.NOT_FOUND, "There is no such vault.", "The page of a plan lists its vaults.")
        return f"{vault}:{plan}"

    def render(self, template: str, *, status: int = HTTPStatus.OK, **values: Any) -> HTMLResponse:
        """Return a page drawn by a template of this package, with the security headers."""
        page = templates().get_template(template).render(front=self.front, request=self, **values)
        return HTMLResponse(page, status)

    def redirect(self, *parts: str) -> RedirectResponse:
        """Return a redirect (303, so that it is fetched by GET) to one of our own pages."""
        return RedirectResponse(self.front.address(*parts), HTTPStatus.SEE_OTHER)


Page = Callable[[PageRequest], Response]


def endpoint(page: Page) -> Callable[[Request], Awaitable[Response]]:
    """Return Starlette's endpoint of a page: it runs in a thread, and its errors become pages."""

    async def answer(request: Request) -> Response:
        asked = _asked(request)
        try:
            if request.method == "POST":
                asked = _asked(request, parse_qs((await _body(request)).decode("utf-8"), keep_blank_values=True))
            response = await run_in_threadpool(_answered, page, asked)
        except (UnicodeDecodeError, ValueError):
            response = _refused(asked, HTTPStatus.BAD_REQUEST, "What was sent is not a form.", "")
        except PageError as error:
            response = _refused(asked, error.status, error.what, error.remedy, error.ways)
        for name, value in (("Content-Security-Policy", POLICY), ("Cache-Control", "no-store")):
            response.headers.setdefault(name, value)
        return response

    return answer


def _answered(page: Page, asked: PageRequest) -> Response:
    try:
        return page(asked)
    except PageError as error:
        return _refused(asked, error.status, error.what, error.remedy, error.ways)
    except BackupSystemError as error:
        what = f"{error.where}: {error.what}" if error.where else error.what
        status = _STATUS.get(error.exit_code, HTTPStatus.INTERNAL_SERVER_ERROR)
        LOG.warning("%s: %s", asked.path[:200], error)
        return _refused(asked, status, what, error.remedy)


def _refused(asked: PageRequest, status: HTTPStatus, what: str, remedy: str, ways: Sequence[str] = ()) -> Response:
    return asked.render(
        "error.html.jinja", status=status, title=_TITLES.get(status, status.phrase), what=what, remedy=remedy, ways=ways
    )


def _asked(request: Request, form: Mapping[str, list[str]] | None = None) -> PageRequest:
    client = f" from {request.client.host}" if request.client else ""
    return PageRequest(
        front=request.app.state.front,
        path=request.url.path,
        params={name: str(value) for name, value in request.path_params.items()},
        query=request.query_params,
        form=form or {},
        fragment=request.headers.get("hx-request") == "true",
        logged_in=bool(request.scope.get(LOGGED_IN)),
        who=f"front page{client}",
    )


async def _body(request: Request) -> bytes:
    found = b""
    async for part in request.stream():
        found += part
        if len(found) > LONGEST_FORM:
            raise PageError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The form is too long.")
    return found


@cache
def templates() -> jinja2.Environment:
    """Return the templates; every value that they insert is escaped, and a missing one is an error.

    Filters: `prose` (text with commands in backticks, and documents), `size` (bytes), `count`, `seconds`, `age` (of a
    timedelta), `moment` (of a datetime, with its zone's name).
    """
    found = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [
                jinja2.PackageLoader("backup_pipeline.web.front"),
                # The charts, which the printed page has too.
                jinja2.PackageLoader("backup_pipeline.operations.status"),
            ]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(prose=prose, set_moment=set_moment_text, from_ns=file_moment_text)
    found.filters.update(size=short_bytes, count=short_count, seconds=short_seconds, age=rough, moment=moment_text)
    found.globals["htmx"] = json.dumps(_HTMX)
    return found


def prose(text: str, front: Front | None = None) -> Markup:
    """Return a text of ours as HTML: what stands between backticks is code; on a front page documents are links."""
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    if front is not None:
        html = re.sub(_DOCUMENT, rf'<a href="{front.base}/docs/\1">docs/\1</a>', html)
    return Markup(html)  # noqa: S704 - escaped before


def file_moment_text(nanoseconds: int, timezone: str = "UTC") -> str:
    """Return the time of a file for people; "" for one that no calendar has."""
    try:
        return moment_text(datetime.fromtimestamp(nanoseconds / 1e9, UTC), timezone)
    except (OverflowError, ValueError, OSError):
        return ""


def set_moment_text(set_id: str, timezone: str = "UTC") -> str:
    """Return when a set was begun, from its name, for people: `2026-11-21 03:00`."""
    return moment_text(set_time(SetId(set_id)), timezone)


def moment_text(moment: datetime, timezone: str = "UTC") -> str:
    """Return a moment for people in a zone of the site: `2026-11-21 03:00`."""
    return f"{moment.astimezone(ZoneInfo(timezone)):%Y-%m-%d %H:%M}"
