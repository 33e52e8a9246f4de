"""Schema drift: what has changed since the last set, each change named. Pure.

A change is a warning, but for a primary key that is gone: rows that are written without it may never get it back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backup_pipeline.model.base import JsonValue
from backup_pipeline.model.catalog import LATER_KINDS
from backup_pipeline.model.record import CheckResult, ColumnRecord, Severity

_SHOWN = 200
_IN_SUMMARY = 8
KEYS_CHECK = "primary_keys_kept"
_NAME = "no_schema_drift"


def column_drift(now: Sequence[ColumnRecord], before: Sequence[ColumnRecord] | None) -> CheckResult:
    """Compare a table's columns with those of the last set (None: it had no such table)."""
    if before is None:
        return _result([], "new since the last set, or the first set")
    here, there = {c.name: c for c in now}, {c.name: c for c in before}
    changes: list[dict[str, JsonValue]] = []
    for name in [*there, *(name for name in here if name not in there)]:
        old, new = there.get(name), here.get(name)
        if old is None or new is None:
            changes.append(_change(name, "added" if old is None else "removed", _reported(old), _reported(new)))
        elif (old.type, old.nullable, old.generated) != (new.type, new.nullable, new.generated):
            changes.append(_change(name, "changed", _reported(old), _reported(new)))
    if not changes and list(here) != list(there):
        changes.append(_change("", "reordered", ", ".join(there), ", ".join(here)))
    return _result(changes, "the same columns as in the last set")


def object_drift(now: Mapping[str, Mapping[str, str]], before: Mapping[str, Mapping[str, str]] | None) -> CheckResult:
    """Compare a database's objects (kind → identity → digest of the definition) with those of the last set."""
    if before is None:
        return _result([], "nothing to compare with")
    changes: list[dict[str, JsonValue]] = []
    for kind in sorted(set(now) | set(before)):
        if kind in LATER_KINDS and kind not in before:
            continue  # the last set was made by a release that did not check
        new, old = now.get(kind, {}), before.get(kind, {})
        for name in sorted(set(new) | set(old)):
            if name not in old:
                changes.append({"kind": kind, "object": name, "change": "added"})
            elif name not in new:
                changes.append({"kind": kind, "object": name, "change": "removed"})
            elif new[name] != old[name]:
                changes.append({"kind": kind, "object": name, "change": "changed"})
    return _result(changes, "the same objects as in the last set")


def keys_kept(
    now: Mapping[str, Sequence[str]], before: Mapping[str, Sequence[str]] | None, *, severity: Severity
) -> CheckResult:
    """Report which tables have lost their primary key since the last set.

    Args:
        now: for each table the columns of its primary key, () where it has none.
        before: the same of the last set; None where it does not say.
        severity: what a lost key means.
    """
    lost = sorted(table for table, key in (before or {}).items() if key and table in now and not now[table])
    rows: tuple[dict[str, JsonValue], ...] = tuple(
        {"table": table, "columns": ", ".join((before or {})[table]), "change": "primary key removed"} for table in lost
    )
    summary = "nothing to compare with" if before is None else "every table has kept its primary key"
    if lost:
        named = "; ".join(f"{row['table']} ({row['columns']})" for row in rows[:_IN_SUMMARY])
        more = f"; and {len(rows) - _IN_SUMMARY} more" if len(rows) > _IN_SUMMARY else ""
        summary = (
            f"primary key lost: {named}{more}. Add it again (alter table … add primary key …), or set lost_keys: WARN "
            "for this source where that was meant"
        )
    return CheckResult(
        name=KEYS_CHECK,
        passed=not lost,
        severity=severity,
        summary=summary,
        table=rows[:_SHOWN],
        numbers={"lost": len(lost)},
    )


def _reported(column: ColumnRecord | None) -> str:
    if column is None:
        return ""
    return column.type + ("" if column.nullable else " not null") + (" generated" if column.generated else "")


def _change(column: str, change: str, before: str, now: str) -> dict[str, JsonValue]:
    return {"column": column, "change": change, "before": before, "now": now}


def _result(changes: list[dict[str, JsonValue]], same: str) -> CheckResult:
    return CheckResult(
        name=_NAME,
        passed=not changes,
        severity=Severity.WARN,
        summary=same if not changes else f"since the last set: {_named(changes)}",
        table=tuple(changes[:_SHOWN]),
        numbers={"changes": len(changes)},
    )


def _named(changes: Sequence[Mapping[str, JsonValue]]) -> str:
    shown = "; ".join(change_text(change) for change in changes[:_IN_SUMMARY])
    more = len(changes) - _IN_SUMMARY
    return shown + (f"; and {more} more" if more > 0 else "")


def change_text(change: Mapping[str, JsonValue]) -> str:
    """Return one change as text: "constraint public.t.t_pkey removed", "column note added (text)"."""
    if "kind" in change:
        return f"{change['kind']} {change['object']} {change['change']}"
    before, now = change["before"], change["now"]
    if change["change"] == "reordered":
        return f"columns reordered ({now})"
    types = f"{before} → {now}" if before and now else str(before or now)
    return f"column {change['column']} {change['change']} ({types})"
