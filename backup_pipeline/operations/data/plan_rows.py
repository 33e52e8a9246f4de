"""The rows that a restore's plan counts, as set and target are now: read for a page, logged each time, kept nowhere."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from datetime import datetime

from backup_pipeline.artefacts.restorer import restorer_of
from backup_pipeline.errors import LockError, RefusedError, SetNotFoundError
from backup_pipeline.model.changed_rows import ChangedRows, RowsView
from backup_pipeline.model.restore import RestorePlan
from backup_pipeline.operations.data.browse import log_access, require_shown_table
from backup_pipeline.operations.restore.run import choose
from backup_pipeline.operations.retention.in_use import reading
from backup_pipeline.rules.secret_names import secret_columns
from backup_pipeline.settings.site import Site
from backup_pipeline.system.limits import Limit, limited

_LIMIT = Limit(120, "what a page may take", math.inf, "")
_AT_ONCE = threading.BoundedSemaphore(2)
_DONE = {"added": "put back", "replaced": "replace"}


def rows_of_plan(
    site: Site, place: str, plan: RestorePlan, table: str, view: RowsView, *, who: str, now: datetime
) -> ChangedRows:
    """Return a page of the rows that a plan would put back or replace in a table, as the set and what is live are now.

    Args:
        site: the site; its setting `browse` says what may be shown.
        place: the plan whose store holds the set, or `VAULT:PLAN`.
        plan: the restore's plan.
        table: `schema.table`, of those in which the plan says that such rows are.
        view: which rows; what it hides is hidden besides what `browse` does.
        who: who asks, for the log.
        now: the present moment.

    Raises:
        RefusedError: the rows are not to be shown, or cannot be. SetNotFoundError: the plan has none in that table.
        LockError: others read rows right now. StoreError: the access cannot be logged.
    """
    schema, _, name = table.partition(".")
    change = next((each for each in plan.tables if each.table == table), None)
    if change is None or not (change.insert if view.kind == "added" else change.update):
        raise SetNotFoundError("The plan has no such rows in that table.", where=table[:200], remedy="Read the plan.")
    require_shown_table(site, schema, name)
    exceptions = site.settings.browse.although_secret

    def hidden(columns: Sequence[str]) -> set[str]:
        return {*view.hidden(columns), *secret_columns(schema, name, columns, exceptions)}

    if plan.options.rows or hidden([each.column for each in plan.options.where if each.table == table]):
        # Or its values could be found out one comparison at a time.
        raise RefusedError(
            "Rows are selected by SQL, or by a column that sounds secret: they are counted, and not shown.",
            where=table,
            remedy="Select them by other columns.",
        )
    first = view.page * view.size + 1
    what = f"{plan.source} {table}: rows {first} to {first + view.size - 1} that a restore would {_DONE[view.kind]}"
    if not _AT_ONCE.acquire(blocking=False):
        raise LockError("Others read rows right now.", where=plan.source, remedy="Load the page again in a moment.")
    try:
        log_access(site, place, plan.set_id, what, who, now)
        with limited("Reading the rows", _LIMIT, where=table), reading(site, place, plan.set_id, "browse") as store:
            selection = choose(site, store, plan.set_id, plan.source, plan.options)
            restorer = restorer_of(record.kind for record in selection.records)
            return restorer.changed_rows(selection, table, RowsView(view.kind, hidden, view.page, view.size))
    finally:
        _AT_ONCE.release()
