"""The password of the UI in a real browser, without JavaScript, before an application that stands for Dagster's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests
from sqlalchemy import create_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from backup_pipeline.web.access import UiAccess, ui_access
from backup_pipeline.web.guard import Guard
from backup_pipeline.web.sessions import GUESS_SECONDS, GUESSES, SESSION_SECONDS, Guesses, Sessions
from backup_pipeline_tests.support import front_pages
from backup_pipeline_tests.support.browser import chromium

PASSWORD = "correct horse battery"


async def _page(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"inside: {request.url.path}?{request.url.query}")


async def _history(_: Request) -> PlainTextResponse:
    with create_engine("postgresql+psycopg2://u:hidden-word@127.0.0.1:1/d").connect():
        return PlainTextResponse("never")


async def _fault(_: Request) -> PlainTextResponse:
    raise ValueError("a fault of another kind")


async def _socket(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("inside")
    await socket.close()


@contextmanager
def served(access: UiAccess) -> Iterator[str]:
    inner = Starlette(
        routes=[
            Route("/history", _history),
            Route("/fault", _fault),
            WebSocketRoute("/graphql", _socket),
            Route("/{path:path}", _page, methods=["GET", "POST"]),
        ]
    )
    with front_pages.served(Guard(inner, access)) as address:
        yield address


def test_the_password_opens_the_ui_for_one_browser_and_guessing_is_slowed() -> None:
    with served(ui_access({"UI_PASSWORD": PASSWORD}, "127.0.0.1")) as address, chromium() as browser:
        plain = browser.new_context(java_script_enabled=False)
        page = plain.new_page()
        page.goto(f"{address}/runs/1?status=failed")
        assert "/login" in page.url
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button").click()
        assert "The password is wrong." in page.content()
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button").click()
        assert page.text_content("body") == "inside: /runs/1?status=failed"
        (cookie,) = plain.cookies()
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        assert PASSWORD not in cookie["value"]

        # A link on a page of another site: the cookie does not come with it, and the page opens all the same.
        page.goto(f"data:text/html,<a href='{address}/assets'>to the assets</a>")
        page.get_by_role("link").click()
        page.wait_for_url("**/assets")
        assert page.text_content("body") == "inside: /assets?"

        other = browser.new_page()
        other.goto(f"{address}/healthz")
        reported = other.evaluate(
            "async () => [(await fetch('/graphql', {method: 'POST', body: '{}', headers: {'Content-Type': "
            "'application/json'}})).status, await new Promise(done => { const socket = new WebSocket(location.origin."
            "replace('http', 'ws') + '/graphql'); socket.onmessage = () => done('in'); socket.onerror = () => "
            "done('closed'); })]"
        )
        assert reported == [401, "closed"]
        other.goto(f"{address}/login")
        for _ in range(GUESSES):
            other.get_by_label("Password").fill("guess")
            other.get_by_role("button").click()
        other.get_by_label("Password").fill(PASSWORD)
        other.get_by_role("button").click()
        assert "Too many wrong passwords." in other.content()

        answer = plain.request.get(f"{address}/healthz")
        assert answer.text() == "ok\n"
        assert plain.request.get(f"{address}/assets").headers["x-frame-options"] == "DENY"
        # Logged out, the cookie that was is worth nothing.
        plain.request.post(f"{address}/logout", form={}, headers={"Origin": address})
        plain.add_cookies([cookie])
        page.goto(f"{address}/assets")
        assert "/login" in page.url


def test_a_session_ends_when_it_is_not_used_and_guesses_are_forgotten() -> None:
    now = [0.0]
    sessions, guesses = Sessions(lambda: now[0]), Guesses(lambda: now[0])
    token = sessions.begin()
    now[0] += SESSION_SECONDS - 1
    assert sessions.is_open(token)
    now[0] += SESSION_SECONDS - 1
    assert sessions.is_open(token)
    now[0] += SESSION_SECONDS + 1
    assert not sessions.is_open(token)
    assert not sessions.is_open("")
    for _ in range(GUESSES):
        assert guesses.wait_seconds("1.2.3.4") == 0
        guesses.wrong("1.2.3.4")
    assert 0 < guesses.wait_seconds("1.2.3.4") <= GUESS_SECONDS + 1
    assert guesses.wait_seconds("5.6.7.8") == 0
    now[0] += GUESS_SECONDS + 1
    assert guesses.wait_seconds("1.2.3.4") == 0


def test_the_cookie_is_secure_where_the_page_is_reached_by_tls() -> None:
    access = ui_access({"UI_PASSWORD": PASSWORD, "UI_URL": "https://ui.example.org"}, "127.0.0.1")
    with served(access) as address:
        headers = {"Host": "ui.example.org", "Origin": "https://ui.example.org"}
        answer = requests.post(
            f"{address}/login",
            {"password": PASSWORD, "next": "//evil.example"},
            headers=headers,
            allow_redirects=False,
            timeout=60,
        )
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/"
    assert "Secure" in answer.headers["Set-Cookie"]


def test_a_history_that_cannot_be_reached_is_said_in_words() -> None:
    with served(ui_access({}, "127.0.0.1")) as address:
        page = requests.get(f"{address}/history", headers={"Accept": "text/html"}, timeout=30)
        assert page.status_code == 503
        assert "history cannot be reached" in page.text
        assert "hidden-word" not in page.text
        assert "DAGSTER_POSTGRES_URL" in requests.get(f"{address}/history", timeout=30).json()["remedy"]
        # Another fault stays what it is.
        assert requests.get(f"{address}/fault", timeout=30).status_code == 500
