"""The kind `sqlite`: a SQLite database file, captured as a consistent copy with exports of its tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.rules.environment import EnvironmentFault
from backup_pipeline.settings.types import SourceSettings
from backup_pipeline.sources.kind import Key, SiteSource, SourceKind, path_faults
from backup_pipeline.sources.sqlite.settings import SqliteSource


class SqliteKind(SourceKind[SqliteSource]):
    """A SQLite database file."""

    name: ClassVar[str] = "sqlite"
    settings: ClassVar[type[SourceSettings]] = SqliteSource
    has_tables: ClassVar[bool] = True

    def artefacts(self, source: SiteSource[SqliteSource]) -> Sequence[tuple[Key, str]]:
        """Return the copy's key."""
        return [((source.name, "copy"), ArtefactKind.SQLITE_COPY)]

    def capture(
        self, source: SiteSource[SqliteSource], context: CaptureContext, selected: frozenset[Key] | None
    ) -> Iterator[ArtefactRecord]:
        """Capture the copy and its tables."""
        from backup_pipeline.sources.sqlite.capture import capture_sqlite

        return capture_sqlite(context, source.settings)

    def place(self, source: SiteSource[SqliteSource]) -> Path:
        """Return the file."""
        return source.settings.path

    def environment_faults(self, source: SiteSource[SqliteSource]) -> Iterator[EnvironmentFault]:
        """Yield what is wrong with the file."""
        return path_faults(source.name, source.settings.path)

    def export_formats(self, source: SiteSource[SqliteSource]) -> tuple[str, ...]:
        """Return the formats that the settings name."""
        return source.settings.tables.formats

    def master_tables(self, source: SiteSource[SqliteSource]) -> tuple[str, ...]:
        """Return the patterns that the settings name."""
        return source.settings.master_tables
