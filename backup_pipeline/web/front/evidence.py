"""Evidence pages: what is signed, a period before it is signed, the page of one to print, and its files."""

from __future__ import annotations

import json
from datetime import UTC, timedelta
from http import HTTPStatus
from pathlib import Path
from zoneinfo import ZoneInfo

from starlette.responses import Response

from backup_pipeline.errors import RefusedError, StoreError
from backup_pipeline.model.evidence import NOT_COUNTED, EventKind, Evidence
from backup_pipeline.operations.evidence.collect import newest_moment
from backup_pipeline.operations.evidence.history import History
from backup_pipeline.operations.evidence.make import (
    CHECKER,
    checker,
    evidence_file,
    evidence_files,
    keys_to_check_with,
    make,
    preview,
    public_key,
)
from backup_pipeline.operations.evidence.statement import read_envelope, signed_evidence
from backup_pipeline.orchestration.evidence_history import history_of
from backup_pipeline.rules.periods import period_of
from backup_pipeline.web.front.pages import PageError, PageRequest

EVENTS = 300
"""How many events of one kind a page lists; the JSON beside it has all."""
_PURPOSES = {
    EventKind.BACKUP: "Backups",
    EventKind.VERIFICATION: "Verifications",
    EventKind.DRILL: "Drills (restored and compared)",
    EventKind.RESTORE: "Restores",
    EventKind.UNDO: "Restores taken back",
    EventKind.RUN: "Other runs that failed",
    EventKind.INCIDENT: "Incidents",
}


def evidence_home(asked: PageRequest) -> Response:
    """Return the list of signed evidence by plan, and the form for a period."""
    site, now = asked.front.site(), asked.front.now()
    # A plan and month that has something; the month before this one where nothing was ever done.
    moments = [(moment, plan) for plan in site.single_plans if (moment := newest_moment(site, plan)) and moment <= now]
    newest, selected = max(moments, default=(now.replace(day=1) - timedelta(days=1), ""))
    month = newest.astimezone(ZoneInfo(site.settings.timezone)).strftime("%Y-%m")
    files = {plan: _listed(evidence_files(site, plan)) for plan in site.single_plans}
    return asked.render(
        "evidence_home.html.jinja",
        files=files,
        month=month,
        selected=selected,
        key=public_key(site, make_one=False),
        keys=keys_to_check_with(site, site.single_plans),
        checker=CHECKER,
    )


def _listed(paths: list[Path]) -> list[tuple[str, Evidence | None]]:
    """Return the newest hundred, None for what cannot be read: one damaged file must not hide the others."""
    found: list[tuple[str, Evidence | None]] = []
    for path in reversed(paths[-100:]):
        try:
            found.append((path.name, read_envelope(path)))
        except StoreError:
            found.append((path.name, None))
    return found


def evidence_page(asked: PageRequest) -> Response:
    """Return the page of a period that is not signed yet, or (`?as=json`) its JSON."""
    as_json = asked.query.get("as") == "json"
    found = _preview(asked, asked.query.get("plan", ""), asked.query.get("period", ""), from_files=False)
    if as_json:
        return _json(found, f"{found.plan}-{found.begin:%Y-%m-%d}-{found.end:%Y-%m-%d}.json")
    return _page(asked, found, name="")


def _known(asked: PageRequest, plan: str) -> str:
    if plan not in asked.front.site().settings.plans:
        raise PageError(HTTPStatus.NOT_FOUND, "There is no such plan.", "The front page lists the plans.")
    return plan


def sign(asked: PageRequest) -> Response:
    """Sign the evidence of a period and lead to its page."""
    found = _preview(asked, asked.field("plan"), asked.field("period"))
    file = make(asked.front.site(), found, made_by=asked.who)
    return asked.redirect("evidence", found.plan, file.name)


def signed_page(asked: PageRequest) -> Response:
    """Return the page of signed evidence; `?as=json` its JSON, `?as=dsse` the signed file."""
    site, plan = asked.front.site(), _known(asked, asked.params["plan"])
    try:
        file = evidence_file(site, plan, asked.params["name"])
    except RefusedError as error:
        raise PageError(HTTPStatus.NOT_FOUND, error.what, error.remedy) from error
    if asked.query.get("as") == "dsse":
        attachment = {"Content-Disposition": f'attachment; filename="{plan}-{file.name}"'}
        return Response(signed_evidence(file)[0], media_type="application/json", headers=attachment)
    found = read_envelope(file)
    if asked.query.get("as") == "json":
        return _json(found, f"{plan}-{file.name.removesuffix('.dsse.json')}.json")
    return _page(asked, found, name=file.name)


def checker_program(asked: PageRequest) -> Response:
    """Return the program that checks signed evidence."""
    return Response(
        checker(),
        media_type="text/x-python; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{CHECKER}"'},
    )


def _preview(asked: PageRequest, plan: str, period: str, *, from_files: bool = True) -> Evidence:
    front, plan = asked.front, _known(asked, plan)
    site, now = front.site(), front.now()
    begin, end = period_of(period, site.settings.timezone) if period else (now - timedelta(days=30), now)
    instance = front.instance
    vaults = [entry.to for entry in site.plan(plan).copies]
    history = History()
    if instance is not None:
        history = history_of(instance, plan, begin, min(end, now), vaults, anew=from_files)
    return preview(site, plan, begin, end, history, now=now.astimezone(UTC), from_files=from_files)


def _page(asked: PageRequest, found: Evidence, *, name: str) -> Response:
    groups = [(title, found.of_kind(kind)) for kind, title in _PURPOSES.items()]
    return asked.render(
        "evidence.html.jinja",
        found=found,
        not_counted=NOT_COUNTED,
        groups=[(title, events[-EVENTS:], len(events)) for title, events in groups if events],
        name=name,
        period=asked.query.get("period", ""),
        key=public_key(asked.front.site(), make_one=False),
        keys=keys_to_check_with(asked.front.site(), [found.plan]),
        zone=asked.front.site().settings.timezone,
        checker=CHECKER,
    )


def _json(found: Evidence, name: str) -> Response:
    text = json.dumps(found.model_dump(mode="json"), indent=1, ensure_ascii=False)
    return Response(
        text + "\n",
        media_type="application/json",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
