"""A restore's plan in sentences: what happens with what is live, and what of it would be lost."""

from __future__ import annotations

from backup_pipeline.model.restore import ConflictRule, RestoreMode, RestoreOptions, RestorePlan


def way_of(options: RestoreOptions) -> str:
    """Return as a sentence what a restore does with what is live."""
    if options.files:
        return "Only the selected files are put in place." if not options.into else "Files into a new folder."
    if options.mode is RestoreMode.UPSERT:
        if options.on_conflict is ConflictRule.KEEP:
            return "Missing rows are put back. Rows that are there now stay as they are."
        return "Missing rows are put back, and rows that differ get the backup's values."
    if options.into:
        return "A copy is made under a new name. What is live is not touched."
    return "Everything goes back to the backup. What is live now is kept under another name."


def losses(plan: RestorePlan) -> tuple[str, ...]:
    """Return in sentences what of the present content would not be live any more."""
    if plan.options.into or not plan.exists:
        return ()
    files = bool(plan.options.files) or [table.table for table in plan.tables] == ["files"]
    found = []
    gone = sum(table.only_in_target or 0 for table in plan.tables)
    changed = sum(table.update or 0 for table in plan.tables)
    if plan.options.mode is RestoreMode.REBUILD and not plan.options.files and gone:
        verb = "is" if gone == 1 else "are"
        found.append(f"{_counted(gone, files)} that {verb} new since the backup would be gone from what is live")
    if changed:
        found.append(f"{_counted(changed, files)} would lose the changes made since the backup")
    if plan.options.mode is RestoreMode.REBUILD and any(table.insert is None for table in plan.tables):
        found.append("some tables could not be compared row by row: changes in them since the backup would be gone")
    return tuple(found)


def _counted(number: int, files: bool) -> str:
    return f"{number:,} {'file' if files else 'row'}{'' if number == 1 else 's'}"
