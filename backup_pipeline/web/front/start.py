"""Buttons that start a run: a backup, or the drill or verification of a set or copy, as Dagster's launchpad would."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import RedirectResponse, Response

from backup_pipeline.errors import RefusedError
from backup_pipeline.operations.sites.stores import resolve_set, split_place
from backup_pipeline.orchestration.activity import active_runs
from backup_pipeline.orchestration.names import COPY_DRILL, COPY_VERIFICATION, backup_job
from backup_pipeline.orchestration.submit import submit_for_set, submit_job
from backup_pipeline.settings.site import Site
from backup_pipeline.web.front.pages import PageError, PageRequest

_STAGES = {"drill": COPY_DRILL, "verification": COPY_VERIFICATION}
"""What can be done with a set, and how the stages of its copies begin."""


def can_start(site: Site, place: str) -> bool:
    """Return whether there are jobs for the sets of a place: a plan, or `VAULT:PLAN` where the plan copies into it.

    Members of fleets have none of their own.
    """
    vault, plan = split_place(place)
    if site.member_of(plan):
        return False
    return plan in site.settings.plans and (not vault or vault in (entry.to for entry in site.plan(plan).copies))


def start(asked: PageRequest) -> Response:
    """Start what a button names (fields `plan`, `work`, and `set` for a drill or verification), then the home page.

    `plan` may be `VAULT:PLAN`, for a drill or verification of a copy.

    Raises:
        PageError: no such plan, vault or work.
        SetNotFoundError: no such set.
        RefusedError: the same run waits or executes already, or Dagster refused it.
    """
    place, work = asked.field("plan"), asked.field("work")
    workspace, site = asked.front.workspace, asked.front.site()
    vault, plan = split_place(place)
    is_fleet = place in site.settings.fleets and work == "backup"
    if not is_fleet and (not can_start(site, place) or not (work in _STAGES or (work == "backup" and not vault))):
        raise PageError(HTTPStatus.BAD_REQUEST, "There is no such plan, or nothing of that name can be started.")
    if workspace is None:
        raise PageError(HTTPStatus.SERVICE_UNAVAILABLE, "Runs cannot be started here.", "Is the daemon running?")
    stage = _STAGES[work] + vault if vault else work
    job = backup_job(plan) if work == "backup" else f"{plan}_{stage}"
    if same := next((run for run in active_runs(workspace.instance) if run.job == job), None):
        raise RefusedError(
            f"The {work} of {place} is {'waiting' if same.waiting else 'running'} already.",
            remedy="The front page shows how far it is; it need not be started twice.",
        )
    if work == "backup":
        run_id = submit_job(workspace, job, asked_by=asked.who)
    else:
        _, set_id = resolve_set(site, f"{place}/{asked.field('set') or 'latest'}")
        run_id = submit_for_set(workspace, plan, set_id, stage, asked_by=asked.who)
    return RedirectResponse(f"{asked.front.base}?started={run_id}", HTTPStatus.SEE_OTHER)
