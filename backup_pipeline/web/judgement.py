"""Admission of requests to Dagster. A pure decision: the request's fields in, a refusal or nothing out.

What a browser sends for a page of another site differs in `Host`, `Origin`, `Sec-Fetch-Site` or the content type, none
of which that page can choose. Programs that are no browser (curl, scripts) send none of these headers but `Host`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backup_pipeline.web.addresses import Allowed, Place

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
_READING = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not passed on: the HTTP status, what is wrong, and the remedy."""

    status: int
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says of itself.

    Attributes:
        method: GET, POST, …; `WEBSOCKET` for the opening of a websocket.
        path: decoded, below any prefix or with it.
        scheme: http or https.
        headers: names in lower case; one that comes twice holds both values, with a comma between them.
        query: whether the address carries a GraphQL query.
        form: whether the path is a form of our own (the login), which posts as a form.
        page: whether the path is one of our pages: posts as a form too, and a browser names the page that it is of.
    """

    method: str
    path: str
    scheme: str
    headers: Mapping[str, str]
    query: bool = False
    form: bool = False
    page: bool = False


def judge(asked: Asked, allowed: Allowed) -> Refusal | None:
    """Return why a request is refused, None when it may pass."""
    host = allowed.host(asked.headers.get("host", ""))
    if host is None:
        return Refusal(
            421,
            "The UI is not known under this name.",
            "Use the address that `backup-pipeline up` prints, or add the name to UI_ALLOWED_HOSTS.",
        )
    return _of_another_page(asked, allowed, host) or _of_its_form(asked)


def _of_another_page(asked: Asked, allowed: Allowed, host: Place) -> Refusal | None:
    origin, site = asked.headers.get("origin"), asked.headers.get("sec-fetch-site")
    if origin is not None and not allowed.same_origin(origin, host, asked.scheme):
        return _foreign()
    if site in (None, "same-origin"):
        return None
    if asked.method in _READING and _is_navigation(asked) and not _is_graphql(asked.path):
        return None
    if site == "none" and asked.method in _READING:
        return None
    return _foreign()


def _is_navigation(asked: Asked) -> bool:
    """Return whether a person opens the page itself, in a tab of its own: typed, bookmarked or by a link."""
    return asked.headers.get("sec-fetch-mode") == "navigate" and asked.headers.get("sec-fetch-dest") == "document"


def _of_its_form(asked: Asked) -> Refusal | None:
    if asked.method == "WEBSOCKET":
        return None
    if asked.method in _READING:
        if asked.query and _is_graphql(asked.path):
            return Refusal(405, "GraphQL is not answered to GET.", f"Send it as POST with Content-Type: {JSON}.")
        return None
    if asked.method != "POST":
        return Refusal(405, "This method is not used here.", "Use GET, or POST with JSON.")
    if asked.page and "origin" not in asked.headers and asked.headers.get("sec-fetch-site") != "same-origin":
        return _foreign()
    wanted = FORM if asked.form or asked.page else JSON
    if asked.headers.get("content-type", "").partition(";")[0].strip().lower() != wanted:
        what = "a form" if wanted == FORM else "JSON"
        return Refusal(415, f"What is sent is not {what}.", f"Send it with Content-Type: {wanted}.")
    return None


def _is_graphql(path: str) -> bool:
    return path.rstrip("/").endswith("/graphql")


def _foreign() -> Refusal:
    return Refusal(403, "The request comes from a page of another site.", "Open the UI itself.")
