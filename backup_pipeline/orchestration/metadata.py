"""Dagster metadata and check results made from records: standard keys and tables. No decisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from backup_pipeline.errors import INTERRUPTED, BackupSystemError
from backup_pipeline.model.manifest import Manifest
from backup_pipeline.model.record import ArtefactRecord, CheckResult, Severity
from backup_pipeline.rules.quantities import bytes_text, seconds_text
from backup_pipeline.system.limits import received_signal

_MAX_TABLE_ROWS = 200


def table_of(
    rows: tuple[dict[str, Any], ...] | list[dict[str, Any]], *, at_most: int = _MAX_TABLE_ROWS
) -> dg.TableMetadataValue:
    """Return rows of a check or record as a table for the UI; long tables are cut and say so in their last row."""
    shown = [{name: _cell(value) for name, value in _readable(row)} for row in rows[:at_most]]
    if len(rows) > at_most and shown:
        first, *others = shown[0]
        shown.append({first: f"… {len(rows) - at_most} more", **dict.fromkeys(others, "")})
    return dg.MetadataValue.table(
        [dg.TableRecord(row) for row in shown],
        schema=dg.TableSchema([dg.TableColumn(name) for name in (shown[0] if shown else {})]),
    )


def _readable(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the cells of a row, with a size for people before a number of bytes."""
    for name, value in row.items():
        if name == "bytes" and "size" not in row:
            yield "size", bytes_text(value) if isinstance(value, (int, float)) else ""
        yield str(name), value


def with_readable(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata with a text for people before each number of bytes or seconds: `size` before `size_bytes`.

    The numbers stay, for the UI plots them over time.
    """
    found: dict[str, Any] = {}
    for name, value in metadata.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            for name_of, text_of in ((_size_name, bytes_text), (_duration_name, seconds_text)):
                if (label := name_of(name)) and label not in metadata:
                    found[label] = text_of(value)
        found[name] = value
    return found


def _size_name(name: str) -> str:
    """Return what a number of bytes is called for people, "" for any other number."""
    if name in ("bytes", "size_bytes"):
        return "size"
    return name.removesuffix("_bytes").removeprefix("bytes_") if "bytes" in name.split("_") else ""


def _duration_name(name: str) -> str:
    """Return what a number of seconds is called for people, "" for any other number."""
    if name in ("seconds", "estimated_seconds"):
        return "duration" if name == "seconds" else "takes about"
    return name.removesuffix("_seconds") if name.endswith("_seconds") else ""


def _cell(value: Any) -> str | int | float | bool:
    return value if isinstance(value, (str, int, float, bool)) else "" if value is None else str(value)


def record_metadata(record: ArtefactRecord, *, store: str) -> dict[str, Any]:
    """Return the metadata of an artefact's materialisation, with Dagster's standard keys where they exist."""
    metadata: dict[str, Any] = {
        "set": record.set_id,
        "size_bytes": record.size,
        "seconds": round((record.finished_at - record.started_at).total_seconds(), 3),
        "source": record.source_label,
        "checks_failed": sum(1 for check in record.checks if not check.passed),
    }
    if record.files:
        metadata["dagster/uri"] = f"file://{store}/{record.set_id}/{record.files[0].path}"
        metadata["files"] = table_of([{"file": f.path, "bytes": f.size, "sha256": f.sha256} for f in record.files])
    if record.rows is not None:
        metadata["dagster/row_count"] = record.rows
    if record.columns:
        metadata["dagster/column_schema"] = dg.TableSchema(
            [
                dg.TableColumn(
                    c.name,
                    c.type,
                    constraints=dg.TableColumnConstraints(nullable=c.nullable),
                    tags={"generated": ""} if c.generated else None,
                )
                for c in record.columns
            ]
        )
    if len(record.key) == 3:
        metadata["dagster/table_name"] = ".".join(record.key)
    metadata.update({f"fact/{name}": value for name, value in record.facts.items()})
    if record.fingerprint:
        metadata["fingerprint"] = f"{record.fingerprint.algorithm}:{record.fingerprint.value}"
    if record.server_version:
        metadata["server_version"] = record.server_version
    if record.tool:
        metadata["tool"] = f"{record.tool.name} {record.tool.version}"
        if record.tool.warnings:
            metadata["tool_warnings"] = "\n".join(record.tool.warnings[:20])
    for check in record.checks:
        for name, number in check.numbers.items():
            metadata.setdefault(f"{check.name}/{name}", number)
    return with_readable(metadata)


def data_version(record: ArtefactRecord) -> dg.DataVersion | None:
    """Return what stays equal while the content does: the table's fingerprint, else the content's digest."""
    if record.fingerprint:
        return dg.DataVersion(f"{record.fingerprint.value}-{record.fingerprint.rows}")
    digests = [file.content_sha256 or file.sha256 for file in record.files]
    return dg.DataVersion(digests[0][:32]) if digests else None


def _severity(severity: Severity) -> dg.AssetCheckSeverity:
    return dg.AssetCheckSeverity.ERROR if severity is Severity.ERROR else dg.AssetCheckSeverity.WARN


def _check_metadata(check: CheckResult) -> dict[str, Any]:
    metadata: dict[str, Any] = {"summary": check.summary} if check.summary else {}
    metadata.update(with_readable(check.numbers))
    if check.table:
        metadata["table"] = table_of(check.table)
    return metadata


def check_event(key: dg.AssetKey, check: CheckResult) -> dg.AssetCheckEvaluation:
    """Return a check's evaluation, of one that is declared or of one that the definitions did not know yet.

    Dagster makes the same of an `AssetCheckResult`, and before that an output that nobody reads, and a search for the
    materialisation that the run has just made: for each check, and most events of a backup are of checks.
    """
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=check.name,
        passed=check.passed,
        severity=_severity(check.severity),
        description=check.summary or None,
        metadata=_check_metadata(check),
    )


def manifest_metadata(manifest: Manifest, *, store: str) -> dict[str, Any]:
    """Return the metadata of a sealed set."""
    seconds = (manifest.sealed_at - manifest.started_at).total_seconds()
    metadata = {
        "set": manifest.set_id,
        "dagster/uri": f"file://{store}/{manifest.set_id}/manifest.json",
        "dagster/row_count": manifest.rows,
        "size_bytes": manifest.size,
        "artefacts": len(manifest.artefacts),
        "partial": manifest.partial,
        "seconds": round(seconds, 3),
        "contents": table_of(
            [
                {
                    "artefact": record.name,
                    "bytes": record.size,
                    "rows": record.rows,
                    "checks passed": sum(check.passed for check in record.checks),
                    "checks": len(record.checks),
                }
                for record in manifest.artefacts
            ]
        ),
    }
    return with_readable(metadata)


def failure_of(error: BaseException) -> dg.Failure:
    """Return Dagster's failure for an error of the family: what, where, remedy; retried only when it can help."""
    if isinstance(error, BackupSystemError) and received_signal():
        # The programs of the step were ended for it, and their exit codes say nothing of their own.
        error = BackupSystemError(f"{INTERRUPTED}.", remedy="Start it again.")
    if isinstance(error, BackupSystemError):
        metadata: Mapping[str, Any] = {
            "error": type(error).__name__,
            "what": error.what,
            "where": error.where,
            "remedy": error.remedy,
            "exit_code": int(error.exit_code),
        }
        return dg.Failure(description=str(error), metadata=metadata, allow_retries=not error.permanent)
    return dg.Failure(
        description=f"Unexpected {type(error).__name__}. This is a fault of the program.", allow_retries=False
    )
