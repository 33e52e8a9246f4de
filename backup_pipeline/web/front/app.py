"""Front door: routes of our pages below /backups; every other path is Dagster's.

A new page is a module with a function `PageRequest -> Response`, and a line in `_routes`.
"""

from __future__ import annotations

import re
from pathlib import Path

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from backup_pipeline.operations.evidence.make import CHECKER
from backup_pipeline.web.front.context import Front
from backup_pipeline.web.front.documents import PICTURES, document_page
from backup_pipeline.web.front.evidence import checker_program, evidence_home, evidence_page, sign, signed_page
from backup_pipeline.web.front.files import (
    diff_page,
    file_download,
    files_home,
    files_source,
    table_download,
    table_page,
    tree_page,
)
from backup_pipeline.web.front.find import find_page
from backup_pipeline.web.front.home import home
from backup_pipeline.web.front.incidents import acknowledge_incidents
from backup_pipeline.web.front.live import live_part
from backup_pipeline.web.front.metrics import metrics
from backup_pipeline.web.front.pages import Page, endpoint
from backup_pipeline.web.front.plan import plan_page
from backup_pipeline.web.front.restore import restore_home, restore_set, restore_source
from backup_pipeline.web.front.restore_rows import rows_page
from backup_pipeline.web.front.restore_run import again_page, apply_page, run_page, undo_page
from backup_pipeline.web.front.set_page import set_page
from backup_pipeline.web.front.start import start

_STATIC = Path(__file__).parent / "static"


class _SetName(Convertor[str]):
    """A part of a path that has the form of a set's name; `latest` is the newest."""

    regex = r"\d{4}-\d{2}-\d{2}T\d{6}Z|latest"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("set", _SetName())


def _routes(base: str) -> list[BaseRoute]:
    """Return the table of pages. `{plan}` is any name, `{set:set}` the name of a set or `latest`."""
    pages: list[tuple[str, Page, tuple[str, ...]]] = [
        ("", home, ("GET",)),
        ("/live", live_part, ("GET",)),
        ("/start", start, ("POST",)),
        ("/acknowledge", acknowledge_incidents, ("POST",)),
        ("/find", find_page, ("GET",)),
        ("/restore", restore_home, ("GET",)),
        ("/restore/run/{run}", run_page, ("GET",)),
        ("/restore/run/{run}/rows", rows_page, ("GET",)),
        ("/restore/run/{run}/apply", apply_page, ("POST",)),
        ("/restore/run/{run}/again", again_page, ("POST",)),
        ("/restore/run/{run}/undo", undo_page, ("GET", "POST")),
        ("/restore/{plan}/{set:set}", restore_set, ("GET",)),
        ("/restore/{plan}/{set:set}/{source}", restore_source, ("GET", "POST")),
        ("/evidence", evidence_home, ("GET",)),
        ("/evidence/show", evidence_page, ("GET",)),
        ("/evidence/sign", sign, ("POST",)),
        (f"/evidence/{CHECKER}", checker_program, ("GET",)),
        ("/evidence/{plan}/{name}", signed_page, ("GET",)),
        ("/docs/{name:path}", document_page, ("GET",)),
        ("/{plan}", plan_page, ("GET",)),
        ("/{plan}/{set:set}", set_page, ("GET",)),
        ("/{plan}/{set:set}/files", files_home, ("GET",)),
        ("/{plan}/{set:set}/files/{source}", files_source, ("GET",)),
        ("/{plan}/{set:set}/files/{source}/tree", tree_page, ("GET",)),
        ("/{plan}/{set:set}/files/{source}/file", file_download, ("GET",)),
        ("/{plan}/{set:set}/files/{source}/table", table_page, ("GET",)),
        ("/{plan}/{set:set}/files/{source}/download", table_download, ("GET",)),
        ("/{plan}/{set:set}/files/{source}/diff", diff_page, ("GET",)),
    ]
    return [
        Mount(f"{base}/static", StaticFiles(directory=_STATIC), name="static"),
        Mount(f"{base}/docs/pictures", StaticFiles(directory=PICTURES, check_dir=False), name="pictures"),
        *(Route(f"{base}{path}", endpoint(page), methods=list(methods)) for path, page, methods in pages),
    ]


def pages_application(front: Front) -> Starlette:
    """Return the application of our pages alone."""

    async def to_the_home_page(_: Request) -> RedirectResponse:
        return RedirectResponse(front.base)

    routes = [
        Route(f"{front.prefix}/", to_the_home_page),
        Route(f"{front.base}/", to_the_home_page),
        Route(f"{front.prefix}/metrics", endpoint(metrics)),
        *_routes(front.base),
    ]
    application = Starlette(routes=routes)
    application.state.front = front
    return application


class FrontDoor:
    """Our pages at `/`, `/metrics` and below `/backups`; all else, websockets and start-up included, is Dagster's.

    Args:
        dagster: Dagster's webserver.
        front: what our pages share.
    """

    def __init__(self, dagster: ASGIApp, front: Front) -> None:
        self._dagster = dagster
        self._pages = pages_application(front)
        self._own = re.compile(f"{re.escape(front.prefix)}(/?|/metrics|/backups(/.*)?)", re.DOTALL)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with one of our pages, or pass it on."""
        own = scope["type"] == "http" and self._own.fullmatch(scope["path"])
        await (self._pages if own else self._dagster)(scope, receive, send)
