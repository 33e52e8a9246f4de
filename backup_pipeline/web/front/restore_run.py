"""Pages of a restore from its plan on: the plan, the name to type, the progress, what was done, and its undo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qsl

from starlette.responses import Response

from backup_pipeline.errors import LockError, RefusedError, SetNotFoundError
from backup_pipeline.model.restore import RestoreMode, RestoreOptions, RestoreResult, TableChange
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.data.rows_before import MoreRows, sets_with_more_rows
from backup_pipeline.operations.restore.records import results
from backup_pipeline.orchestration.restore_runs import (
    RestoreRun,
    Wanted,
    applied_by,
    restore_run,
    submit_apply,
    submit_plan,
    submit_undo,
    under_way,
)
from backup_pipeline.rules.restore_texts import losses, way_of
from backup_pipeline.web.front.pages import PageError, PageRequest
from backup_pipeline.web.front.restore import workspace_of
from backup_pipeline.web.front.restore_form import query_of
from backup_pipeline.web.front.restore_rows import tables_with_rows


@dataclass(frozen=True)
class Before:
    """Older sets to compare with instead, and the fields of the form that does it."""

    sets: tuple[MoreRows, ...] = ()
    fields: Sequence[tuple[str, str]] = ()


def run_page(asked: PageRequest) -> Response:
    """Return the page of a run: its progress, the plan that it made, or what it did."""
    return _page(asked, _run(asked))


def _run(asked: PageRequest) -> RestoreRun:
    return restore_run(workspace_of(asked).instance, asked.params["run"])


def _page(asked: PageRequest, run: RestoreRun, *, problem: str = "", typed: str = "", status: int = 200) -> Response:
    site = asked.front.site()
    instance = workspace_of(asked).instance
    # A run waits for the one before it, too.
    asks = (run.found and run.is_over) or run.state == "waiting"
    busy = under_way(instance, run.plan, run.source, run.fleet) if asks else None
    undone = _undone(asked, run)
    written = run.result or run.found
    return asked.render(
        "restore_run.html.jinja",
        status=status,
        run=run,
        plan=run.found,
        way=way_of(run.found.options) if run.found else "",
        tables=_changed_first(written.tables) if written else (),
        losses=losses(run.found) if run.found else (),
        query=query_of(run.found.options) if run.found else "",
        before=_before(asked, run),
        shown=tables_with_rows(site, run.found) if run.found else (),
        problem=problem,
        typed=typed,
        said=done_text(run.result) if run.result else "",
        busy=busy,
        used=applied_by(instance, run.run_id) if run.found else None,
        kept=_kept(asked, run),
        undone=undone,
        undone_said=undone_text(undone.numbers) if undone else "",
        zone=site.settings.timezone,
    )


def _before(asked: PageRequest, run: RestoreRun) -> Before | None:
    """Return where to search further where a plan brings nothing back; None where it does, or restores otherwise."""
    plan = run.found
    if plan is None or plan.reasons_against or not plan.tables or any(one.insert or one.update for one in plan.tables):
        return None
    if plan.options.mode is not RestoreMode.UPSERT:
        return Before() if plan.options.files else None
    tables = [one.table for one in plan.tables]
    older = sets_with_more_rows(asked.front.site(), run.place, plan.set_id, plan.source, tables)
    return Before(older, parse_qsl(query_of(plan.options).removeprefix("?")))


def _changed_first(tables: Sequence[TableChange]) -> list[TableChange]:
    """Return tables in the order of a plan and of what was done: first those in which something happens."""
    return sorted(tables, key=lambda t: (t.insert == 0 and t.update == 0 and not t.only_in_target, t.table))


def done_text(result: RestoreResult) -> str:
    """Return in a sentence what a restore did."""
    numbers, options = result.numbers, result.options
    if options.mode is RestoreMode.UPSERT:
        rows = int(numbers.get("rows_written", 0))
        return f"{rows:,} row{' is' if rows == 1 else 's are'} back in {result.restored}."
    if options.files:
        files = int(numbers.get("files", 0))
        return f"{files:,} file{' is' if files == 1 else 's are'} back in {result.restored}."
    if options.into:
        return f"A copy of {result.source} is ready: {result.restored}. What is live was not touched."
    return f"{result.source} is as it was in the backup: {result.restored}. What was live before is kept."


def undone_text(numbers: Mapping[str, float]) -> str:
    """Return in a sentence what the undo of an upsert did."""
    removed, back = (int(numbers.get(name, 0)) for name in ("rows_removed", "rows_put_back"))
    found = []
    if removed:
        found.append(f"{removed:,} row{' that was added is' if removed == 1 else 's that were added are'} gone again")
    if back:
        found.append(f"{back:,} {'row has its' if back == 1 else 'rows have their'} values from before again")
    return f"{', '.join(found)}." if found else "There was nothing left to take back."


def _kept(asked: PageRequest, run: RestoreRun) -> RestoreResult | None:
    """Return what the store keeps of a restore, whose undo may have happened since; also of one that was killed."""
    if run.step != "apply" or not run.is_over:
        return None
    known = results(asked.front.site(), run.plan, run.source)
    if run.result:
        return next((each for each in known if each.restore_id == run.result.restore_id), run.result)
    if run.began is None or run.ended is None:
        return None
    begun = run.began.replace(microsecond=0)
    return next((each for each in known if begun <= each.started_at <= run.ended), None)


def _undone(asked: PageRequest, run: RestoreRun) -> RestoreResult | None:
    """Return the restore that a run of an undo took back."""
    if run.step != "undo" or run.state != "done" or run.began is None or run.ended is None:
        return None
    known = results(asked.front.site(), run.plan, run.source)
    return next((one for one in known if one.undone_at and run.began <= one.undone_at <= run.ended), None)


def apply_page(asked: PageRequest) -> Response:
    """Do what a plan says, once, when the target's name was typed; back to the plan where it was not."""
    run, typed = _run(asked), asked.field("confirm").strip()
    plan = run.found
    if plan is None or not run.is_over or run.step == "undo":
        raise PageError(HTTPStatus.CONFLICT, "This run made no plan that could be applied.", "Begin again.")
    used = applied_by(workspace_of(asked).instance, run.run_id)
    if used and used.is_over:
        return _page(asked, run, problem="Nothing was done now.", status=HTTPStatus.CONFLICT)
    if plan.reasons_against:
        return _page(asked, run, problem="This plan cannot be applied as things are.", status=HTTPStatus.CONFLICT)
    if typed != plan.confirm:
        problem = (
            f"You typed “{typed}”. The name is “{plan.confirm}”. Nothing was done."
            if typed
            else f"Type the name “{plan.confirm}” first. Nothing was done."
        )
        return _page(asked, run, problem=problem, typed=typed, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    if asked.field("plan_id") != plan.plan_id:
        problem = "The page that you sent showed another plan. Read this one."
        return _page(asked, run, problem=problem, status=HTTPStatus.CONFLICT)
    try:
        started = submit_apply(workspace_of(asked), plan, confirm=typed, plan_run=run, asked_by=asked.who)
    except LockError as error:
        return _page(asked, run, problem=f"{error.what} {error.remedy}", typed=typed, status=HTTPStatus.CONFLICT)
    return asked.redirect("restore", "run", started)


def again_page(asked: PageRequest) -> Response:
    """Make the plan of a run once more, as the target and the set are now, and lead to it."""
    run = _run(asked)
    if run.found is None:
        raise PageError(HTTPStatus.CONFLICT, "This run made no plan.", "Begin again.")
    wanted = Wanted(run.plan, run.found.set_id, run.source, run.found.options, run.vault, run.fleet)
    return asked.redirect("restore", "run", submit_plan(workspace_of(asked), wanted, asked_by=asked.who))


def undo_page(asked: PageRequest) -> Response:
    """Show what an undo would do, and do it once when the name of what is live was typed."""
    run = _run(asked)
    kept = _kept(asked, run)
    if kept is None:
        raise PageError(HTTPStatus.CONFLICT, "This run restored nothing that could be undone.", "")
    if kept.undone_at is not None:
        raise PageError(HTTPStatus.CONFLICT, "This restore was undone already.", "")
    if kept.undo.kind == "none" or asked.field("back"):
        return _undo_by_plan(asked, run, kept)
    newest = [each for each in results(asked.front.site(), run.plan, run.source) if each.undone_at is None][-1:]
    if newest and newest[0].restore_id != kept.restore_id:
        raise RefusedError(
            f"{run.source} was restored once more since ({newest[0].restore_id}).",
            remedy="Undo that one first: restores are taken back newest first.",
        )
    typed, problem, status = asked.field("confirm").strip(), "", 200
    if asked.form:
        if typed == kept.undo.live:
            try:
                return asked.redirect(
                    "restore",
                    "run",
                    submit_undo(workspace_of(asked), run, confirm=typed, asked_by=asked.who),
                )
            except LockError as error:
                problem, status = f"{error.what} {error.remedy}", HTTPStatus.CONFLICT
        else:
            problem, status = f"The name is “{kept.undo.live}”. Nothing was done.", HTTPStatus.UNPROCESSABLE_ENTITY
    return asked.render(
        "restore_undo.html.jinja",
        status=status,
        run=run,
        kept=kept,
        typed=typed,
        problem=problem,
        zone=asked.front.site().settings.timezone,
    )


def _undo_by_plan(asked: PageRequest, run: RestoreRun, kept: RestoreResult) -> Response:
    """Lead to the plan of going back to the emergency set that the restore made first."""
    if not kept.emergency_set:
        raise SetNotFoundError("This restore made no emergency set.", remedy=kept.undo.remedy)
    if not asked.form:
        zone = asked.front.site().settings.timezone
        return asked.render("restore_undo.html.jinja", run=run, kept=kept, typed="", problem="", zone=zone)
    wanted = Wanted(run.plan, SetId(kept.emergency_set), run.source, RestoreOptions(), fleet=run.fleet)
    return asked.redirect("restore", "run", submit_plan(workspace_of(asked), wanted, asked_by=asked.who))
