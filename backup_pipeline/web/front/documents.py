"""The project's own documents as pages, so that a remedy which names `docs/vaults.md` leads to it."""

from __future__ import annotations

import functools
import itertools
import posixpath
import re
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markupsafe import Markup
from starlette.responses import Response

from backup_pipeline.system.packaged_files import packaged_file
from backup_pipeline.web.front.pages import PageError, PageRequest

_NAME = re.compile(r"(decisions/)?[A-Za-z0-9][A-Za-z0-9-]*\.md", re.ASCII)
_TABLE = '<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>\n'
PICTURES = packaged_file("docs/pictures")
"""The folder of their pictures."""


def document_page(request: PageRequest) -> Response:
    """Show one of the documents: `vaults.md`, `decisions/0012-….md`."""
    name = request.params["name"]
    file = _file(name)
    if file is None:
        raise PageError(HTTPStatus.NOT_FOUND, "There is no such document.")
    title, body = _drawn(name, file.read_text("utf-8"))
    return request.render("document.html.jinja", title=title, body=body)


def _file(name: str) -> Path | None:
    """Return a document by its path below docs/; None where there is none."""
    if not _NAME.fullmatch(name):
        return None
    found = packaged_file(f"docs/{name}")
    return found if found.is_file() else None


@functools.cache
def _drawn(name: str, text: str) -> tuple[str, Markup]:
    """Return a document's title and its HTML; what it names outside of docs/ is no link."""
    # Only the marks of CommonMark and tables: HTML in a document would be shown as its text.
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", lambda *_: _TABLE)
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    tokens = parser.parse(text)
    title = ""
    for opening, inline in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            title = title or inline.content
            opening.attrSet("id", _anchor(inline.content))
        for one in inline.children or ():
            if one.type == "link_open" and not _leads(name, str(one.attrGet("href"))):
                one.attrs.pop("href", None)
    html = parser.renderer.render(tokens, parser.options, {})
    # What is wider than a screen is scrolled with the keyboard too.
    return title, Markup(html.replace("<pre>", '<pre tabindex="0">'))  # noqa: S704 - escaped by the parser


def _leads(name: str, address: str) -> bool:
    """Return whether a link of a document leads to another one, to a part of itself, or to the web."""
    parts = urlsplit(address)
    if parts.scheme or not parts.path:
        return True
    return _file(posixpath.normpath(posixpath.join(posixpath.dirname(name), parts.path))) is not None


def _anchor(heading: str) -> str:
    """Return a heading's anchor as GitHub makes it, which is what links of the documents name."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
