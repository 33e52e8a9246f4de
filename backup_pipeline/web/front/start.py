"""Buttons that start a run: a backup, or the drill or verification of a set, as Dagster's launchpad would."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import RedirectResponse, Response

from backup_pipeline.errors import RefusedError
from backup_pipeline.operations.sites.stores import resolve_set
from backup_pipeline.orchestration.activity import active_runs
from backup_pipeline.orchestration.names import backup_job
from backup_pipeline.orchestration.submit import submit_for_set, submit_job
from backup_pipeline.web.front.pages import PageError, PageRequest

STAGES = ("drill", "verification")


def start(asked: PageRequest) -> Response:
    """Start what a button names (fields `plan`, `work`, and `set` for a drill or verification), then the home page.

    Raises:
        PageError: no such plan or work.
        RefusedError: the same run waits or executes already, or Dagster refused it.
    """
    plan, work = asked.field("plan"), asked.field("work")
    workspace = asked.front.workspace
    if plan not in asked.front.site().settings.plans or work not in ("backup", *STAGES):
        raise PageError(HTTPStatus.BAD_REQUEST, "There is no such plan, or nothing of that name can be started.")
    if workspace is None:
        raise PageError(HTTPStatus.SERVICE_UNAVAILABLE, "Runs cannot be started here.", "Is the daemon running?")
    job = backup_job(plan) if work == "backup" else f"{plan}_{work}"
    if same := next((run for run in active_runs(workspace.instance) if run.job == job), None):
        raise RefusedError(
            f"The {work} of {plan} is {'waiting' if same.waiting else 'running'} already.",
            remedy="The front page shows how far it is; it need not be started twice.",
        )
    if work == "backup":
        run_id = submit_job(workspace, job, asked_by=asked.who)
    else:
        _, set_id = resolve_set(asked.front.site(), f"{plan}/{asked.field('set') or 'latest'}")
        run_id = submit_for_set(workspace, plan, set_id, work, asked_by=asked.who)
    return RedirectResponse(f"{asked.front.base}?started={run_id}", HTTPStatus.SEE_OTHER)
