"""Our pages before a stand-in for Dagster, asked as a browser on this machine asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from backup_pipeline.postgres.server.embedded import free_port
from backup_pipeline.web.access import ui_access
from backup_pipeline.web.front.app import FrontDoor
from backup_pipeline.web.front.context import Front
from backup_pipeline.web.guard import Guard

OWN = {"Origin": "http://127.0.0.1:3000", "Sec-Fetch-Site": "same-origin"}


async def _dagster(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"Dagster: {request.url.path}")


def guarded_pages(front: Front, password: str = "", variables: Mapping[str, str] | None = None) -> ASGIApp:
    """Return the whole application behind its guard; `variables` as in the environment, UI_PASSWORD among them."""
    dagster = Starlette(routes=[Route("/{path:path}", _dagster, methods=["GET", "POST"])])
    access = ui_access({"UI_PASSWORD": password, **(variables or {})}, "127.0.0.1")
    return Guard(FrontDoor(dagster, front), access, front.prefix)


def pages_of(
    folder: Path, *, prefix: str = "", password: str = "", variables: Mapping[str, str] | None = None
) -> TestClient:
    """Return a client of the pages of the site in a folder."""
    front = Front(prefix, settings=folder / "backup.yaml")
    return TestClient(
        guarded_pages(front, password, variables), base_url="http://127.0.0.1:3000", follow_redirects=False
    )


@contextmanager
def served(application: ASGIApp) -> Iterator[str]:
    """Serve an application on this machine, and give its address."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(application, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def application_of(folder: Path, now: Callable[[], datetime] | None = None) -> ASGIApp:
    """Return the whole application of the site in a folder, at a moment where one is given."""
    front = Front(settings=folder / "backup.yaml")
    if now is not None:
        front.now = now
    return guarded_pages(front)
