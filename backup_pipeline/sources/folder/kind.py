"""The kind `folder`: a tree of files, captured as a tarball with a listing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.rules.environment import EnvironmentFault
from backup_pipeline.settings.types import SourceSettings
from backup_pipeline.sources.folder.settings import FolderSource
from backup_pipeline.sources.kind import BackupToImport, Key, SiteSource, SourceKind, path_faults


class FolderKind(SourceKind[FolderSource]):
    """A folder tree, such as storage buckets."""

    name: ClassVar[str] = "folder"
    settings: ClassVar[type[SourceSettings]] = FolderSource

    def artefacts(self, source: SiteSource[FolderSource]) -> Sequence[tuple[Key, str]]:
        """Return the tarball's key."""
        return [((source.name, "tarball"), ArtefactKind.FOLDER_TARBALL)]

    def capture(
        self, source: SiteSource[FolderSource], context: CaptureContext, selected: frozenset[Key] | None
    ) -> Iterator[ArtefactRecord]:
        """Capture the tree, or the named buckets of it."""
        from backup_pipeline.sources.folder.capture import capture_folder

        return capture_folder(context, source.settings)

    def place(self, source: SiteSource[FolderSource]) -> Path:
        """Return the root of the tree."""
        return source.settings.path

    def environment_faults(self, source: SiteSource[FolderSource]) -> Iterator[EnvironmentFault]:
        """Yield what is wrong with the root, or with the buckets in it."""
        root = source.settings.path
        buckets = [root / bucket for bucket in source.settings.buckets] if root.exists() else []
        return path_faults(source.name, root, *buckets)

    def backup_form(self, path: Path) -> str | None:
        """Return "tarball" or "tables"."""
        from backup_pipeline.sources.folder.imported import backup_form

        return backup_form(path)

    def import_backup(
        self, source: SiteSource[FolderSource], context: CaptureContext, backup: BackupToImport
    ) -> Sequence[ArtefactRecord]:
        """Import a tarball of the tree, or a folder of exported tables."""
        from backup_pipeline.sources.folder.imported import import_files

        return [import_files(context, backup, source.settings.path)]
