"""The tables of a source with many as one asset: a table of tables in its metadata, one check per kind of check.

Dagster scans the keys of a run for each event, so that its time grows with the square of the number of assets;
a page of thousands of assets is of no use to a person either. Only what Dagster shows is grouped: the set has its
files and records per table as ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from backup_pipeline.model.base import JsonValue
from backup_pipeline.model.record import ArtefactRecord, CheckResult, Severity
from backup_pipeline.orchestration.metadata import data_version, table_of, with_readable
from backup_pipeline.orchestration.names import artefact_key
from backup_pipeline.settings.site import Site

TABLES = "tables"
_LISTED = 1000
_NAMED = 5


def are_grouped(site: Site, count: int) -> bool:
    """Return whether so many tables of one source are one asset."""
    return count > site.settings.table_assets


def tables_key(plan: str, source: str) -> dg.AssetKey:
    """Return the key of the asset that stands for all tables of a source."""
    return artefact_key(plan, (source, TABLES))


def group_checks(records: Sequence[ArtefactRecord], names: Iterable[str]) -> list[CheckResult]:
    """Return one check per kind: what failed is named by table and column, with counts and never with values.

    Args:
        records: of the tables.
        names: checks to report even where no record has them.
    """
    found: dict[str, list[tuple[ArtefactRecord, CheckResult]]] = {name: [] for name in names}
    for record in records:
        for check in record.checks:
            found.setdefault(check.name, []).append((record, check))
    return [_together(name, checks) for name, checks in found.items()]


def _together(name: str, checks: Sequence[tuple[ArtefactRecord, CheckResult]]) -> CheckResult:
    failed = [(record, check) for record, check in checks if not check.passed]
    summary = f"{len(checks)} tables hold"
    if failed:
        tables = ", ".join(record.name for record, _ in failed[:_NAMED])
        more = f" and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
        summary = f"{len(failed)} of {len(checks)} tables do not hold: {tables}{more}"
    error = not failed or any(check.severity is Severity.ERROR for _, check in failed)
    return CheckResult(
        name=name,
        passed=not failed,
        severity=Severity.ERROR if error else Severity.WARN,
        summary=summary,
        table=tuple(row for record, check in failed for row in _rows(record, check)),
        numbers={"tables": len(checks), "failed": len(failed)},
    )


def _rows(record: ArtefactRecord, check: CheckResult) -> list[dict[str, JsonValue]]:
    columns = list(dict.fromkeys(str(row["column"]) for row in check.table if row.get("column")))
    return [{"table": record.name, "column": column, "problem": check.summary} for column in columns or [""]]


def group_metadata(records: Sequence[ArtefactRecord], gone: Sequence[str] = ()) -> dict[str, Any]:
    """Return the metadata of the asset: sums, and a line per table; those with failed checks first, then the largest.

    Args:
        records: of the tables.
        gone: tables that the definitions know and the source has no more.
    """
    failed = {record.key: [check.name for check in record.checks if not check.passed] for record in records}
    lines = [
        {
            "table": record.name,
            "rows": record.rows,
            "bytes": record.size,
            "seconds": round((record.finished_at - record.started_at).total_seconds(), 3),
            "failed checks": ", ".join(failed[record.key]),
        }
        for record in sorted(records, key=lambda r: (not failed[r.key], -r.size, r.key))
    ]
    sums: Mapping[str, Any] = {
        "tables_captured": len(records),
        "size_bytes": sum(record.size for record in records),
        "dagster/row_count": sum(record.rows or 0 for record in records),
        "checks_failed": sum(len(names) for names in failed.values()),
    }
    metadata = {**sums, TABLES: table_of(lines, at_most=_LISTED)} if lines else dict(sums)
    if records:
        metadata["set"] = records[0].set_id
    if gone:
        metadata["no_longer_there"] = ", ".join(gone)
    return with_readable(metadata)


def group_version(records: Sequence[ArtefactRecord]) -> dg.DataVersion:
    """Return what stays equal while the content of every table does."""
    digest = hashlib.sha256()
    for record in sorted(records, key=lambda r: r.key):
        version = data_version(record)
        digest.update(f"{'.'.join(record.key)} {version.value if version else ''}\n".encode())
    return dg.DataVersion(digest.hexdigest()[:32])
