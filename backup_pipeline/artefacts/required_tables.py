"""The check of required tables, where a missing one does not fail the source."""

from __future__ import annotations

from collections.abc import Sequence

from backup_pipeline.model.record import CheckResult, Severity


def required_check(required: Sequence[str], missing: Sequence[str]) -> CheckResult | None:
    """Return the check on the required tables, its summary beginning with `5/5`; None where none is required."""
    if not required:
        return None
    found = f"{len(required) - len(missing)}/{len(required)}"
    return CheckResult(
        name="required_tables",
        passed=not missing,
        severity=Severity.WARN,
        summary=f"{found} required tables" + (f"; missing: {', '.join(missing)}" if missing else ""),
        table=tuple({"table": name, "problem": "is missing"} for name in missing),
        numbers={"required": len(required), "missing": len(missing)},
    )
