"""The kind `repository`: a git repository, captured as a ZIP of HEAD and a bundle of its whole history."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.rules.environment import EnvironmentFault
from backup_pipeline.settings.types import SourceSettings
from backup_pipeline.sources.kind import Key, SiteSource, SourceKind, path_faults
from backup_pipeline.sources.repository.settings import RepositorySource


class RepositoryKind(SourceKind[RepositorySource]):
    """A git repository; `.env` and volumes where the settings ask for them."""

    name: ClassVar[str] = "repository"
    settings: ClassVar[type[SourceSettings]] = RepositorySource
    programs: ClassVar[Mapping[str, str]] = {"git": "Install git."}

    def artefacts(self, source: SiteSource[RepositorySource]) -> Sequence[tuple[Key, str]]:
        """Return the keys of ZIP and bundle, and those of what is captured beside them."""
        name, settings = source.name, source.settings
        keys: list[tuple[Key, str]] = [
            ((name, "archive"), ArtefactKind.REPOSITORY_ARCHIVE),
            ((name, "bundle"), ArtefactKind.REPOSITORY_BUNDLE),
        ]
        if settings.include_env or settings.captured_volumes:
            keys.append(((name, "extras"), ArtefactKind.FOLDER_TARBALL))
        volumes = settings.captured_docker_volumes
        return [*keys, *(((name, f"volume_{each}"), ArtefactKind.FOLDER_TARBALL) for each in volumes)]

    def capture(
        self, source: SiteSource[RepositorySource], context: CaptureContext, selected: frozenset[Key] | None
    ) -> Iterator[ArtefactRecord]:
        """Capture ZIP, bundle and what else the settings ask for."""
        from backup_pipeline.sources.repository.capture import capture_repository

        return capture_repository(context, source.settings)

    def place(self, source: SiteSource[RepositorySource]) -> Path:
        """Return the repository's folder."""
        return source.settings.path

    def environment_faults(self, source: SiteSource[RepositorySource]) -> Iterator[EnvironmentFault]:
        """Yield what is wrong with the repository's folder or a volume."""
        return path_faults(source.name, source.settings.path, *source.settings.volumes)
