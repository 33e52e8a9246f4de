"""The guard before our pages and Dagster's: an ASGI application around it that every request passes.

Dagster's own webserver answers anybody: it inspects no `Host` and no `Origin`, executes mutations that come as GET, and
has no login. What may pass is decided in `judgement`; here it is read from the request and answered.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import parse_qs, quote

from sqlalchemy.exc import InterfaceError, OperationalError
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backup_pipeline.web.access import UiAccess
from backup_pipeline.web.judgement import Asked, Refusal, judge
from backup_pipeline.web.login_page import POLICY, again_page, local_path, login_page, logout_page, refused_page
from backup_pipeline.web.sessions import SESSION_SECONDS, Guesses, Sessions, is_password

LOG = logging.getLogger("backup-pipeline.ui")

LOGIN, LOGOUT, HEALTH, METRICS = "/login", "/logout", "/healthz", "/metrics"
COOKIE = "backup_pipeline_session"
LOGGED_IN = "backup_pipeline.logged_in"
"""In the scope of a request that passed: whether a password was asked for, so that there is something to log out of."""
_LONGEST_FORM = 8192
_HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# Added to Dagster's own policy: a browser enforces both.
_FRAMES = "frame-ancestors 'none'; form-action 'self'; base-uri 'self'; object-src 'none'"


HISTORY_GONE = Refusal(
    503,
    "The database with Dagster's history cannot be reached, so nothing is shown and no schedule runs.",
    "Start its server (DAGSTER_POSTGRES_URL names it). Backups from the shell need it too; sets are safe and can be "
    "listed, verified and restored from the shell without it.",
)


def is_of_the_history(error: BaseException | None) -> bool:
    """Return whether an error comes from a lost connection to the database of Dagster's history."""
    while error is not None:
        if isinstance(error, (OperationalError, InterfaceError)):
            return True
        error = error.__cause__ or error.__context__
    return False


class Guard:
    """The application: everything that is allowed goes to `inner`.

    Args:
        inner: Dagster's webserver.
        access: the password, and under which names the UI is asked for.
        prefix: path below which Dagster is served, "" for none.
    """

    def __init__(self, inner: ASGIApp, access: UiAccess, prefix: str = "") -> None:
        self._inner = inner
        self._access = access
        self._prefix = prefix
        self._sessions = Sessions()
        self._guesses = Guesses()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, pass it on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._inner(scope, receive, send)
            return
        send = _with_headers(send)
        asked = self._asked(scope)
        refusal = judge(asked, self._access.allowed)
        if refusal is not None:
            LOG.warning("refused %s %s: %s", asked.method, asked.path[:200], refusal.what)
            await _refuse(refusal, asked, scope, receive, send)
        elif (own := await self._own(asked, scope, receive)) is not None:
            await own(scope, receive, send)
        elif self._is_open(scope) or self._has_token(asked):
            scope[LOGGED_IN] = bool(self._access.password)
            await self._pass_on(asked, scope, receive, send)
        else:
            await self._ask_for_password(asked, scope, receive, send)

    async def _pass_on(self, asked: Asked, scope: Scope, receive: Receive, send: Send) -> None:
        """Let Dagster answer; where its history cannot be reached, say so instead of a bare `Internal Server Error`."""
        held: list[Message] = []

        async def sending(message: Message) -> None:
            if held or (message["type"] == "http.response.start" and message["status"] == 500):
                held.append(message)
            else:
                await send(message)

        try:
            await self._inner(scope, receive, sending)
        except Exception as error:
            if not held or not is_of_the_history(error):
                for message in held:
                    await send(message)
                raise
            LOG.error("Dagster's history cannot be reached: %s", type(error).__name__)
            await _refuse(HISTORY_GONE, asked, scope, receive, send)
            return
        for message in held:
            await send(message)

    def _asked(self, scope: Scope) -> Asked:
        headers: dict[str, str] = {}
        for raw, value in scope["headers"]:
            name, text = raw.decode("latin-1").lower(), value.decode("latin-1")
            headers[name] = f"{headers[name]}, {text}" if name in headers else text
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        path = str(scope["path"])
        return Asked(
            method="WEBSOCKET" if scope["type"] == "websocket" else str(scope["method"]),
            path=path,
            scheme="https" if scope["scheme"] in ("https", "wss") else "http",
            headers=headers,
            query="query" in query,
            page=path.startswith(f"{self._prefix}/backups/"),
            form=bool(self._access.password) and path in (self._prefix + LOGIN, self._prefix + LOGOUT),
        )

    async def _own(self, asked: Asked, scope: Scope, receive: Receive) -> Response | None:
        """Return the answer of a page of the guard's own, None where the path is Dagster's."""
        if asked.method == "WEBSOCKET":
            return None
        if asked.path == self._prefix + HEALTH:
            return PlainTextResponse("ok\n", headers={"Cache-Control": "no-store"})
        if not asked.form:
            return None
        request = Request(scope, receive)
        if asked.path == self._prefix + LOGOUT:
            if asked.method != "POST":
                # A link of another page may lead here: only the form ends a session.
                return self._page(logout_page(self._prefix + LOGOUT))
            self._sessions.end(request.cookies.get(self._cookie(scope), ""))
            answer: Response = RedirectResponse(self._prefix + LOGIN, 303)
            answer.delete_cookie(self._cookie(scope), path=self._prefix or "/")
            return answer
        if asked.method == "POST":
            return await self._log_in(asked, request)
        return self._login(request.query_params.get("next", ""))

    async def _log_in(self, asked: Asked, request: Request) -> Response:
        address = request.client.host if request.client else ""
        form = parse_qs((await _body(request)).decode("utf-8", "replace"), keep_blank_values=True)
        following = form.get("next", [""])[0]
        if wait := self._guesses.wait_seconds(address):
            LOG.warning("too many wrong passwords from %s", address)
            answer = self._login(following, f"Too many wrong passwords. Try again in {wait} seconds.", 429)
            answer.headers["Retry-After"] = str(wait)
            return answer
        if not is_password(form.get("password", [""])[0], self._access.password):
            self._guesses.wrong(address)
            LOG.warning("a wrong password from %s", address)
            return self._login(following, "The password is wrong.", 403)
        self._guesses.right(address)
        scope = request.scope
        host = self._access.allowed.host(asked.headers.get("host", ""))
        assert host is not None
        done = RedirectResponse(self._following(following), 303)
        done.set_cookie(
            self._cookie(scope),
            self._sessions.begin(),
            max_age=SESSION_SECONDS,
            path=self._prefix or "/",
            secure=self._access.allowed.is_https(host, asked.scheme),
            httponly=True,
            samesite="strict",
        )
        return done

    def _login(self, following: str, problem: str = "", status: int = 200) -> Response:
        return self._page(login_page(self._prefix + LOGIN, self._following(following), problem), status)

    def _page(self, page: str, status: int = 200) -> Response:
        return HTMLResponse(page, status, {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"})

    def _following(self, text: str) -> str:
        path = local_path(text)
        return path if path.startswith(self._prefix + "/") else self._prefix + "/"

    def _is_open(self, scope: Scope) -> bool:
        if not self._access.password:
            return True
        token = HTTPConnection(scope).cookies.get(self._cookie(scope), "")
        return bool(token) and self._sessions.is_open(token)

    def _has_token(self, asked: Asked) -> bool:
        """Return whether a program asks for the metrics, and nothing else, with their token."""
        token = self._access.metrics_token
        if not token or asked.path != self._prefix + METRICS or asked.method != "GET":
            return False
        scheme, _, given = asked.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and is_password(given.strip(), token)

    def _cookie(self, scope: Scope) -> str:
        # Cookies do not keep the ports of one host apart: two sites on a machine need two names.
        server = scope.get("server")
        return f"{COOKIE}_{server[1]}" if server else COOKIE

    async def _ask_for_password(self, asked: Asked, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = Refusal(401, "Nobody is logged in.", f"Log in at {self._prefix + LOGIN}.")
        wanted = asked.headers.get("accept", "")
        if asked.method != "GET" or "text/html" not in wanted:
            await _refuse(refusal, asked, scope, receive, send)
            return
        query = scope.get("query_string", b"").decode("latin-1")
        address = quote(asked.path) + (f"?{query}" if query else "")
        answer: Response
        if asked.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            answer = HTMLResponse(
                again_page(local_path(address)),
                headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-store"},
            )
        else:
            answer = RedirectResponse(f"{self._prefix}{LOGIN}?next={quote(address, safe='')}", 303)
        await answer(scope, receive, send)


async def _body(request: Request) -> bytes:
    found = b""
    async for part in request.stream():
        found += part
        if len(found) > _LONGEST_FORM:
            return b""
    return found


async def _refuse(refusal: Refusal, asked: Asked, scope: Scope, receive: Receive, send: Send) -> None:
    if asked.method == "WEBSOCKET":
        # Closed before it is accepted: the browser sees the HTTP status 403.
        await send({"type": "websocket.close", "code": 1008, "reason": refusal.what})
        return
    answer: Response
    headers = {"Cache-Control": "no-store"}
    if "text/html" in asked.headers.get("accept", ""):
        page = refused_page(refusal.what, refusal.remedy)
        answer = HTMLResponse(page, refusal.status, {**headers, "Content-Security-Policy": POLICY})
    else:
        # In the form of GraphQL's errors too, which is what Dagster's pages and clients read.
        text = f"{refusal.what} Remedy: {refusal.remedy}"
        answer = JSONResponse(
            {"error": refusal.what, "remedy": refusal.remedy, "errors": [{"message": text}]}, refusal.status, headers
        )
    await answer(scope, receive, send)


def _with_headers(send: Send) -> Send:
    """Return `send` with the security headers put on every answer."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            _put_headers(message)
        await send(message)

    return sending


def _put_headers(message: MutableMapping[str, Any]) -> None:
    kept = [(name, value) for name, value in message.get("headers", ()) if name.decode().title() not in _HEADERS]
    added = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
    message["headers"] = [*kept, *added, (b"content-security-policy", _FRAMES.encode())]
