"""The page of rows that a plan would put back or replace, before anything is done."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import Response

from backup_pipeline.model.changed_rows import LONGEST_VALUE, RowsView
from backup_pipeline.model.restore import RestorePlan
from backup_pipeline.operations.data.plan_rows import rows_of_plan
from backup_pipeline.orchestration.restore_runs import restore_run
from backup_pipeline.rules.secret_names import is_secret_table
from backup_pipeline.settings.site import Site
from backup_pipeline.web.front.pages import PageError, PageRequest
from backup_pipeline.web.front.restore import workspace_of

_ROWS = 25


def tables_with_rows(site: Site, plan: RestorePlan) -> frozenset[str]:
    """Return the tables of a plan whose rows can be shown, by the settings and by what the plan restores."""
    options, browse = plan.options, site.settings.browse
    if not browse.rows or options.into or options.files or options.rows:
        return frozenset()
    names = [change.table.partition(".") for change in plan.tables if change.insert or change.update]
    return frozenset(
        f"{schema}.{table}"
        for schema, dot, table in names
        if dot and not is_secret_table(schema, table, browse.although_secret)
    )


def rows_page(asked: PageRequest) -> Response:
    """Return some rows of a table (`?table=`) that the plan of a run would put back, or (`?kind=replaced`) replace."""
    run = restore_run(workspace_of(asked).instance, asked.params["run"])
    plan = run.found
    if plan is None:
        raise PageError(HTTPStatus.CONFLICT, "This run made no plan.", "Begin again.")
    site, table = asked.front.site(), asked.query.get("table", "")
    page = asked.query.get("page", "0")
    view = RowsView(
        "replaced" if asked.query.get("kind") == "replaced" else "added",
        lambda columns: (),
        int(page) if page.isascii() and page.isdigit() and len(page) < 7 else 0,
        _ROWS,
    )
    rows = rows_of_plan(site, run.place, plan, table, view, who=asked.who, now=asked.front.now())
    change = next(each for each in plan.tables if each.table == table)
    return asked.render(
        "restore_rows.html.jinja",
        run=run,
        plan=plan,
        table=table,
        view=view,
        rows=rows,
        count=change.insert if view.kind == "added" else change.update,
        cut=_cut,
        zone=site.settings.timezone,
    )


def _cut(text: str) -> str:
    return f"{text[:LONGEST_VALUE]}…" if len(text) > LONGEST_VALUE else text
