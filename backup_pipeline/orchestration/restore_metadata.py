"""Metadata of restores in Dagster: a plan as a table with the link that applies it, and what a restore did."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg

from backup_pipeline.model.restore import RestorePlan, RestoreResult, TableChange
from backup_pipeline.orchestration.metadata import table_of, with_readable
from backup_pipeline.rules.quantities import bytes_text, seconds_text
from backup_pipeline.rules.restore_texts import losses, way_of

# The whole plan and the whole result, which our pages read.
PLAN_AS_READ, RESULT_AS_KEPT = "plan", "result"
APPLY = "Apply this plan"


def plan_metadata(plan: RestorePlan, link: str) -> dict[str, Any]:
    """Return what the UI shows of a restore's plan: what it would do, with counts and names, and where to apply it."""
    metadata: dict[str, Any] = {APPLY: _how_to_apply(plan, link)}
    metadata |= {
        "what would happen": table_of([{"what": what, "detail": value} for what, value in _summary(plan)]),
        "plan_id": plan.plan_id,
        "target": plan.target,
        "confirm": plan.confirm,
        "exists": plan.exists,
        "can_be_applied": not plan.reasons_against,
        "steps": table_of([{"nr": n, "step": step} for n, step in enumerate(plan.steps, 1)]),
    }
    numbers = {"bytes_needed": plan.bytes_needed, "bytes_free": plan.bytes_free, "estimated_seconds": plan.seconds}
    metadata.update({name: number for name, number in numbers.items() if number is not None})
    for name, texts in (
        ("reasons_against", plan.reasons_against),
        ("warnings", plan.warnings),
        ("missing_roles", plan.missing_roles),
        ("missing_extensions", plan.missing_extensions),
    ):
        if texts:
            metadata[name] = table_of([{name: text} for text in texts])
    if plan.tables:
        metadata["tables"] = table_of([_table_row(table) for table in plan.tables])
    return with_readable(metadata)


def _how_to_apply(plan: RestorePlan, link: str) -> dg.MarkdownMetadataValue:
    if plan.reasons_against:
        return dg.MetadataValue.md("It cannot be applied as things are: see `reasons_against`.")
    return dg.MetadataValue.md(f"**[{APPLY}]({link})**, then type the target's name.")


def _summary(plan: RestorePlan) -> Iterator[tuple[str, str]]:
    """Yield what a person reads before it is applied, as pairs of what and how."""
    yield "restore", plan.source
    yield "from set", f"{plan.plan}/{plan.set_id}"
    yield "into", plan.target if plan.exists else f"{plan.target}, which does not exist yet"
    yield "how", way_of(plan.options)
    for reason in plan.reasons_against:
        yield "cannot be done", reason
    lost = losses(plan)
    for loss in lost:
        yield "would be lost", loss
    if not lost and not plan.reasons_against:
        yield "would be lost", "nothing that is live now"
    if plan.seconds is not None:
        yield "takes about", seconds_text(plan.seconds)
    if plan.bytes_needed is not None:
        free = "" if plan.bytes_free is None else f" of {bytes_text(plan.bytes_free)} free"
        yield "needs", bytes_text(plan.bytes_needed) + free


def _table_row(table: TableChange) -> dict[str, Any]:
    return {
        "table": table.table,
        "backup": table.backup,
        "target": table.target,
        "insert": table.insert,
        "update": table.update,
        "unchanged": table.unchanged,
        "only in target": table.only_in_target,
        "changed since": table.conflicts,
        "note": table.note,
    }


def result_metadata(result: RestoreResult) -> dict[str, Any]:
    """Return what the UI shows of a restore that was done."""
    metadata: dict[str, Any] = {
        "set": result.set_id,
        "target": result.target,
        "restored": result.restored,
        "kept_for_undo": result.undo.kept,
        "emergency_set": result.emergency_set,
        "seconds": round((result.finished_at - result.started_at).total_seconds(), 3),
        **result.numbers,
        RESULT_AS_KEPT: dg.MetadataValue.json(result.model_dump(mode="json")),
    }
    if result.tables:
        metadata["tables"] = table_of([_table_row(table) for table in result.tables])
    if result.warnings:
        metadata["warnings"] = table_of([{"warning": text} for text in result.warnings])
    return with_readable(metadata)
