"""Collapse check: whether an artefact has become suspiciously small since the last set. Pure."""

from __future__ import annotations

from typing import Literal

from backup_pipeline.model.record import CheckResult, Severity


def row_count_check(
    rows: int, before: int | None, *, drop: float, minimum_rows: int, severity: Literal["WARN", "ERROR"]
) -> CheckResult:
    """Judge a table's row count.

    Args:
        rows: rows now.
        before: rows in the last set; None when it had no such table.
        drop: share that may be missing.
        minimum_rows: tables that had fewer are not judged.
        severity: what a collapse means.
    """
    if before is not None and before < minimum_rows:
        numbers: dict[str, float | int] = {"rows": rows, "rows_before": before}
        return CheckResult(
            name="row_count_not_collapsed",
            passed=True,
            severity=Severity(severity),
            numbers=numbers,
            summary=f"{rows} rows; {before} in the last set, too few to judge",
        )
    return _judge("row_count_not_collapsed", "rows", rows, before, drop, severity)


def size_check(size: int, before: int | None, *, drop: float, severity: Literal["WARN", "ERROR"]) -> CheckResult:
    """Judge an artefact's size in bytes against the last set's."""
    return _judge("size_not_collapsed", "bytes", size, before, drop, severity)


def _judge(name: str, unit: str, now: int, before: int | None, drop: float, severity: str) -> CheckResult:
    if not before:
        return CheckResult(
            name=name,
            passed=True,
            severity=Severity(severity),
            numbers={unit: now},
            summary=f"{now} {unit}; nothing to compare with",
        )
    lost = (before - now) / before
    passed = lost <= drop
    change = f"{-lost:+.1%}"
    return CheckResult(
        name=name,
        passed=passed,
        severity=Severity(severity),
        summary=f"{now} {unit}, {before} in the last set ({change})"
        + ("" if passed else f": more than {drop:.0%} is gone"),
        numbers={unit: now, f"{unit}_before": before, "change": round(-lost, 4)},
    )
