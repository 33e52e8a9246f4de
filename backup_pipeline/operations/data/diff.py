"""What differs between two sets, or between a set and the live database: rows added, removed and changed per table."""

# ruff: noqa: S608 - every name goes through quoted(), every path is a literal of ours
from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backup_pipeline.artefacts.time_limits import within_the_plans_limit
from backup_pipeline.artefacts.types import primary_key
from backup_pipeline.errors import SetNotFoundError
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.restore import RestoreMode, RestoreOptions
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.data.table_files import TableFiles, sealed
from backup_pipeline.operations.restore.run import plan_restore
from backup_pipeline.operations.retention.in_use import reading
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.contract import Store
from backup_pipeline.system.scratch_folders import scratch_folder
from backup_pipeline.tables.parquet_queries import QueryResult, ViewName, ask, parquet_views, quoted

_SCRATCH = "backup-pipeline-tables-"


@dataclass(frozen=True)
class TableDifference:
    """Rows of one table that the newer side has more, has not, or has otherwise. None where it was not counted."""

    source: str
    table: str
    added: int | None = 0
    removed: int | None = 0
    changed: int | None = 0
    unchanged: int | None = 0
    note: str = ""

    @property
    def differs(self) -> bool:
        """Whether there is any difference."""
        return bool(self.added or self.removed or self.changed or self.added is None)


def diff_sets(
    site: Site, older: tuple[str, SetId], newer: tuple[str, SetId], *, table: str = ""
) -> list[TableDifference]:
    """Compare the table exports of two sets.

    Args:
        site: the site.
        older: plan and set.
        newer: plan and set.
        table: `schema.table` or `source.schema.table`; every table of both when empty.
    """
    with _sides(site, older, newer) as sides:
        return _diff(sides, table)


@contextlib.contextmanager
def _sides(site: Site, older: tuple[str, SetId], newer: tuple[str, SetId]) -> Iterator[list[_Side]]:
    with ExitStack() as stack:
        sides = []
        for place, set_id in (older, newer):
            store = stack.enter_context(reading(site, place, set_id, "diff"))
            sides.append(_Side(store, set_id, stack.enter_context(scratch_folder(_SCRATCH))))
        yield sides


def _diff(sides: list[_Side], table: str) -> list[TableDifference]:
    if not any(side.files.paths for side in sides):
        raise SetNotFoundError(
            "Neither set has tables that can be compared.",
            where=" and ".join(str(side.known.set_id) for side in sides),
            remedy="Imported sets have none, nor have sources without `tables`; compare two sets that have exports.",
        )
    names = sorted(name for name in {*sides[0].files.paths, *sides[1].files.paths} if _is_meant(name, table))
    found = []
    for name in names:
        here = [side.files.paths.get(name) for side in sides]
        label = f"{name[1]}.{name[2]}"
        if here[0] is None or here[1] is None:
            missing, rows = ("older", sides[1].rows(name)) if here[0] is None else ("newer", sides[0].rows(name))
            found.append(
                TableDifference(
                    name[0],
                    label,
                    added=rows if here[0] is None else 0,
                    removed=rows if here[1] is None else 0,
                    note=f"not in the {missing} set",
                )
            )
        elif (mark := sides[0].mark(name)) is not None and mark == sides[1].mark(name):
            found.append(TableDifference(name[0], label, unchanged=sides[0].rows(name)))
        else:
            found.append(_compare(sides, name, label))
    return found


class _Side:
    def __init__(self, store: Store, set_id: SetId, folder: Path) -> None:
        self.store = store
        self.known = sealed(store, set_id)
        self.files = TableFiles(store, self.known, folder)

    def rows(self, name: ViewName) -> int:
        record = self.known.manifest.record(*name) if self.known.manifest else None
        return (record.rows or 0) if record else 0

    def mark(self, name: ViewName) -> Any:
        record = self.known.manifest.record(*name) if self.known.manifest else None
        return (record.fingerprint, record.columns) if record and record.fingerprint else None

    def columns(self, name: ViewName) -> list[str]:
        record = self.known.manifest.record(*name) if self.known.manifest else None
        return [column.name for column in record.columns] if record else []

    def key(self, name: ViewName) -> tuple[str, ...]:
        """Return the table's primary key as the set recorded it; empty when it did not."""
        records = [record for record in self.known.records if record.source == name[0]]
        return primary_key(lambda path: self.store.open(self.known.set_id, path), records, name[1], name[2])


def _is_meant(name: ViewName, table: str) -> bool:
    return not table or table in (".".join(name), f"{name[1]}.{name[2]}", name[2])


def _compare(sides: list[_Side], name: ViewName, label: str) -> TableDifference:
    old, new = sides
    shared = [column for column in old.columns(name) if column in new.columns(name)]
    key = new.key(name)
    gone = [column for column in old.columns(name) if column not in shared]
    more = [column for column in new.columns(name) if column not in shared]
    reported = [f"column {c} is gone" for c in gone] + [f"column {c} is new" for c in more]
    if key and set(key) <= set(shared):
        answer = _on_both(sides, name, _by_key(shared, key))
        added, removed, changed, unchanged = answer.rows[0]
    else:
        reported.append("no primary key: whole rows were compared")
        answer = _on_both(sides, name, _by_row(shared))
        added, removed, unchanged = answer.rows[0]
        changed = 0
    return TableDifference(name[0], label, added, removed, changed, unchanged, "; ".join(reported))


def _on_both(sides: list[_Side], name: ViewName, query: str, limit: int | None = None) -> QueryResult:
    old, new = (side.files.path(name) for side in sides)
    files = {("older", "main", "rows"): old, ("newer", "main", "rows"): new}
    with parquet_views(files, [old.parent, new.parent]) as connection:
        return ask(connection, query, limit)


def _by_key(columns: list[str], key: tuple[str, ...]) -> str:
    return (
        "select count(*) filter (where o.__there is null), count(*) filter (where n.__there is null),"
        f" count(*) filter (where {_changed(columns, key)}),"
        f" count(*) filter (where o.__there and n.__there and not {_changed(columns, key)})"
        f" from {_joined(key)}"
    )


def _changed(columns: list[str], key: tuple[str, ...]) -> str:
    others = [column for column in columns if column not in key]
    pairs = " or ".join(f"o.{quoted(c)} is distinct from n.{quoted(c)}" for c in others)
    return f"(o.__there and n.__there and ({pairs or 'false'}))"


def _joined(key: tuple[str, ...]) -> str:
    on = " and ".join(f"o.{quoted(c)} = n.{quoted(c)}" for c in key)
    return (
        "(select *, true as __there from older.main.rows) o"
        f" full join (select *, true as __there from newer.main.rows) n on {on}"
    )


def _by_row(columns: list[str]) -> str:
    listed = ", ".join(quoted(column) for column in columns) or "1"
    old, new = f"select {listed} from older.main.rows", f"select {listed} from newer.main.rows"
    return (
        f"select (select count(*) from ({new} except all {old})), (select count(*) from ({old} except all {new})),"
        f" (select count(*) from ({old} intersect all {new}))"
    )


def differing_keys(
    site: Site,
    older: tuple[str, SetId],
    newer: tuple[str, SetId],
    table: str,
    *,
    limit: int = 20,
    hidden: Collection[str] = (),
) -> QueryResult:
    """Return what happened to single rows of one table: `what` (added, removed, changed) and the primary key.

    Args:
        site: the site.
        older: plan and set.
        newer: plan and set.
        table: as for `diff_sets`; the first that matches.
        limit: rows to return at most.
        hidden: columns of the key that are not returned.
    """
    with _sides(site, older, newer) as sides:
        for name in sorted(set(sides[0].files.paths) & set(sides[1].files.paths)):
            key = sides[1].key(name)
            shared = [column for column in sides[0].columns(name) if column in sides[1].columns(name)]
            if not _is_meant(name, table) or not key or not set(key) <= set(shared):
                continue
            listed = "".join(f", coalesce(n.{quoted(c)}, o.{quoted(c)}) as {quoted(c)}" for c in key if c not in hidden)
            order = 2 if listed else 1
            query = (
                "select case when o.__there is null then 'added' when n.__there is null then 'removed'"
                f" else 'changed' end as what{listed} from {_joined(key)}"
                f" where o.__there is null or n.__there is null or {_changed(shared, key)} order by {order}"
            )
            return _on_both(sides, name, query, limit)
    return QueryResult((), ())


@within_the_plans_limit("The comparison")
def diff_live(
    site: Site, plan_name: str, set_id: SetId, source: str, *, table: str = "", progress: ProgressSink = no_progress
) -> list[TableDifference]:
    """Compare a set with the live database that it was made of; nothing is changed there.

    Args:
        site: the site.
        plan_name: the plan.
        set_id: a sealed set, taken as the older side.
        source: a source that is a database of PostgreSQL.
        table: `schema.table`; every table when empty.
        progress: receives what is being read.
    """
    options = RestoreOptions(mode=RestoreMode.UPSERT, insert_absent=True, tables=(table,) if table else ())
    plan = plan_restore(site, plan_name, set_id, source, options, progress=progress)
    found = [
        TableDifference(source, change.table, change.only_in_target, change.insert, change.conflicts, change.unchanged)
        for change in plan.tables
    ]
    return found + [TableDifference(source, "", None, None, None, None, reason) for reason in plan.reasons_against]
