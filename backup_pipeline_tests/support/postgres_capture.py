"""What the capture tests share: a capture of a database into a fresh store, and its database of nasty things."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.artefacts.types import inspect
from backup_pipeline.model.manifest import Draft, Manifest
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactRecord, CheckResult
from backup_pipeline.model.set_id import set_id_at
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.sources.postgres.capture import capture_postgres
from backup_pipeline.sources.postgres.settings import PostgresSource
from backup_pipeline.stores.local import LocalSetWriter, LocalStore

NASTY = (Path(__file__).parent / "sql" / "nasty.sql").read_text()


@dataclass
class Capture:
    """A set that is being captured into `folder`."""

    folder: Path
    writer: LocalSetWriter
    records: dict[tuple[str, ...], ArtefactRecord]

    def path(self, record: ArtefactRecord, suffix: str) -> Path:
        return next(self.folder / f.path for f in record.files if f.path.endswith(suffix))

    def open_file(self, path: str) -> BinaryIO:
        return (self.folder / path).open("rb")

    def findings(self, *key: str) -> list[Finding]:
        return inspect(self.open_file, self.records[key])

    def check(self, name: str, *key: str) -> CheckResult:
        return next(c for c in self.records[key].checks if c.name == name)

    def manifest(self) -> Manifest:
        now = datetime.now(UTC)
        return Manifest(
            set_id=self.writer.draft.set_id,
            plan="p",
            sources=("s",),
            started_at=now,
            sealed_at=now,
            run_id="r",
            root_run_id="r",
            pipeline_version="0",
            artefacts=tuple(self.records.values()),
        )


def settings_with(**values: Any) -> PostgresSource:
    return PostgresSource.model_validate(
        {"kind": "postgres", "dsn_env": "UNUSED", "tables": {"include": ["*"]}} | values
    )


def begin(folder: Path, *, later: int = 0) -> Capture:
    """Begin a set in a store; `later` seconds from now, as sets are named by the second."""
    now = datetime.now(UTC) + timedelta(seconds=later)
    store = LocalStore(folder, "p")
    writer = store.begin(Draft(set_id=set_id_at(now), plan="p", root_run_id="r", sources=("s",), started_at=now))
    return Capture(writer.folder, writer, {})


def capture(
    folder: Path,
    target: PostgresTarget,
    *,
    previous: Manifest | None = None,
    schemas: Path | None = None,
    progress: ProgressSink = no_progress,
    selected: frozenset[tuple[str, ...]] | None = None,
    on_record: Callable[[ArtefactRecord], None] | None = None,
    into: Capture | None = None,
    **values: Any,
) -> Capture:
    done = into or begin(folder)
    context = CaptureContext(done.writer, "s", previous=previous, schemas=schemas, progress=progress)
    for record in capture_postgres(context, settings_with(**values), target, selected=selected):
        done.records[record.key] = record
        if on_record:
            on_record(record)
    return done
