"""One capture of a database by the project's own functions, for measuring in a fresh process. No Dagster here."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.model.manifest import Draft
from backup_pipeline.model.set_id import set_id_at
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.sources.postgres.capture import capture_postgres, discover_tables
from backup_pipeline.sources.postgres.settings import PostgresSource
from backup_pipeline.stores.local import LocalStore

SOURCE = "bench"


def settings_with(**values: Any) -> PostgresSource:
    """Return settings of a source that captures every table."""
    return PostgresSource.model_validate(
        {"kind": "postgres", "dsn_env": "UNUSED", "tables": {"include": ["*"]}, **values}
    )


def writer_in(folder: Path) -> CaptureContext:
    """Return what a capture needs to write into a fresh store at `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    now = datetime.now(UTC)
    writer = LocalStore(folder, "bench").begin(
        Draft(set_id=set_id_at(now), plan="bench", root_run_id="bench", sources=(SOURCE,), started_at=now)
    )
    return CaptureContext(writer, SOURCE)


def capture(target: PostgresTarget, folder: Path, what: str, values: dict[str, Any]) -> dict[str, Any]:
    """Capture `what` ("dump", "tables" or "all") into a fresh store below `folder`; return sizes and rows."""
    context = writer_in(folder)
    settings = settings_with(**values)
    selected: frozenset[tuple[str, ...]] | None = None
    if what == "dump":
        selected = frozenset({(SOURCE, "dump")})
    elif what == "tables":
        selected = frozenset((SOURCE, schema, table) for schema, table, _ in discover_tables(target, settings))
    records = list(capture_postgres(context, settings, target, selected=selected))
    failed = [f"{r.name}: {c.name}: {c.summary}" for r in records for c in r.checks if not c.passed]
    if failed:
        raise RuntimeError(f"checks failed: {failed}")
    return {
        "size": sum(file.size for record in records for file in record.files),
        "rows": sum(record.rows or 0 for record in records),
    }
