"""The kind `postgres`: a PostgreSQL database, captured as a dump with its roles and exports of its tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.artefacts.targets import target_of
from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.rules.environment import EnvironmentFault
from backup_pipeline.settings.types import SourceSettings
from backup_pipeline.sources.kind import (
    BackupPart,
    BackupToImport,
    CandidateDatabase,
    Key,
    KnownTable,
    SiteSource,
    SourceKind,
)
from backup_pipeline.sources.postgres.settings import PostgresSource


class PostgresKind(SourceKind[PostgresSource]):
    """A PostgreSQL database."""

    name: ClassVar[str] = "postgres"
    settings: ClassVar[type[SourceSettings]] = PostgresSource
    has_tables: ClassVar[bool] = True

    def artefacts(self, source: SiteSource[PostgresSource]) -> Sequence[tuple[Key, str]]:
        """Return the keys of dump and roles; of the list of databases where it stands for those of a server."""
        if source.settings.databases is not None:
            return [((source.name, "databases"), ArtefactKind.POSTGRES_DATABASES)]
        return [
            ((source.name, "dump"), ArtefactKind.POSTGRES_DUMP),
            ((source.name, "roles"), ArtefactKind.POSTGRES_ROLES),
        ]

    def capture(
        self, source: SiteSource[PostgresSource], context: CaptureContext, selected: frozenset[Key] | None
    ) -> Iterator[ArtefactRecord]:
        """Capture dump, roles and tables in one snapshot; of a server its list of databases."""
        if source.settings.databases is not None:
            from backup_pipeline.sources.postgres.server_list import capture_list

            return capture_list(source, context)
        from backup_pipeline.sources.postgres.capture import capture_postgres

        target = target_of(source.site, source.settings.connection, source.name)
        return capture_postgres(context, source.settings, target, selected=selected)

    def place(self, source: SiteSource[PostgresSource]) -> None:
        """Return None: it is a database."""

    def environment_faults(self, source: SiteSource[PostgresSource]) -> Iterator[EnvironmentFault]:
        """Yield nothing: it has no files on this machine."""
        return iter(())

    def export_formats(self, source: SiteSource[PostgresSource]) -> tuple[str, ...]:
        """Return the formats that the settings name."""
        if source.settings.databases is not None:
            return ()
        return source.settings.tables.formats

    def labels(self, source: SiteSource[PostgresSource], artefact: str) -> frozenset[str] | None:
        """Return what a dump that is not compressed by gzip is labelled with."""
        compression = source.settings.dump_compression
        if artefact != ArtefactKind.POSTGRES_DUMP or compression == "gzip":
            return None
        return frozenset({"postgres", "sql" if compression == "none" else compression})

    def master_tables(self, source: SiteSource[PostgresSource]) -> tuple[str, ...]:
        """Return the patterns that the settings name."""
        return source.settings.master_tables

    def discover_tables(self, source: SiteSource[PostgresSource]) -> Sequence[KnownTable]:
        """Ask the database for the tables that its next capture exports; a server has none of its own."""
        if source.settings.databases is not None:
            return []
        from backup_pipeline.sources.postgres.capture import discover_tables

        target = target_of(source.site, source.settings.connection, source.name)
        return [KnownTable(*found) for found in discover_tables(target, source.settings)]

    def find_databases(self, source: SiteSource[PostgresSource], known: Set[str]) -> Sequence[CandidateDatabase]:
        """Ask the server for its databases."""
        if source.settings.databases is None:
            return ()
        from backup_pipeline.sources.postgres.server_list import find_databases

        return find_databases(source, known)

    def backup_form(self, path: Path) -> str | None:
        """Return the form of a dump of pg_dump or pg_dumpall."""
        from backup_pipeline.postgres.export.foreign_dump import form_of

        return form_of(path)

    def backup_parts(self, path: Path, form: str) -> Sequence[BackupPart] | None:
        """Return the databases of a dump of pg_dumpall."""
        from backup_pipeline.sources.postgres.imported_server import parts_of

        return parts_of(path, form)

    def split_backup(self, path: Path, form: str, wanted: Set[str], folder: Path) -> tuple[Mapping[str, Path], Path]:
        """Write the dump of each wanted database, and the server's roles."""
        from backup_pipeline.sources.postgres.imported_server import split_into

        return split_into(path, frozenset(wanted), folder)

    def backup_names(self, source: SiteSource[PostgresSource]) -> Sequence[str]:
        """Return the database's name, which tools put into their files' names; nothing where it is not known."""
        if source.settings.databases is not None:
            return []
        with suppress(BackupSystemError):
            return [target_of(source.site, source.settings.connection, source.name).database]
        return []

    def import_backup(
        self, source: SiteSource[PostgresSource], context: CaptureContext, backup: BackupToImport
    ) -> Sequence[ArtefactRecord]:
        """Import a dump."""
        from backup_pipeline.sources.postgres.imported import import_dump

        return import_dump(context, backup)
