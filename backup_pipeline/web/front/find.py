"""The page that finds a file by its name in all backups, and leads to its download or restore."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import Response

from backup_pipeline.archives.tarball import shown
from backup_pipeline.errors import RefusedError
from backup_pipeline.operations.data.browse import node_number
from backup_pipeline.operations.data.find import FoundFile, Search, Version, find_files
from backup_pipeline.rules.file_patterns import LONGEST, path_matcher
from backup_pipeline.rules.secret_names import is_secret_file
from backup_pipeline.web.front.pages import PageError, PageRequest

_SECONDS, _LONG = 8.0, 240.0
"""How long a page searches before it shows what it found, and how long when it is asked to go on."""
_FILES, _VERSIONS = 40, 5


def find_page(asked: PageRequest) -> Response:
    """Return the page that asks for a file's name (`?name=`, `?plan=`), and what was found of it."""
    site = asked.front.site()
    name, plan = asked.query.get("name", "").strip()[:LONGEST], asked.query.get("plan", "")
    if plan and plan not in site.settings.plans:
        raise PageError(HTTPStatus.NOT_FOUND, "There is no such plan.", "The front page lists the plans.")
    found: Search | None = None
    problem = ""
    if name:
        seconds = _LONG if asked.query.get("long") else _SECONDS
        try:
            found = find_files(site, [plan] if plan else list(site.single_plans), path_matcher([name]), seconds=seconds)
        except RefusedError as error:
            problem = f"{error.what} {error.remedy}"
    page, pages = asked.page_of(len(found.files) if found else 0, _FILES)
    browse = site.settings.browse
    return asked.render(
        "find.html.jinja",
        name=name,
        plan=plan,
        plans=list(site.single_plans),
        found=found,
        problem=problem,
        files=found.files[page * _FILES : (page + 1) * _FILES] if found else (),
        most=_VERSIONS,
        page=page,
        pages=pages,
        shown=shown,
        is_hidden=lambda file: not browse.rows or is_secret_file(file.path, browse.although_secret),
        download=lambda file, version: _download(asked, file, version),
        zone=site.settings.timezone,
    )


def _download(asked: PageRequest, file: FoundFile, version: Version) -> tuple[str, dict[str, str]]:
    """Return path and query of a version's download."""
    place, set_id = version.sets[0]
    address = asked.front.plan_address(place, set_id, "files", file.source, "file")
    return address, {"of": file.artefact, "node": node_number(file.path)}
