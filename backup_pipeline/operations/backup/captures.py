"""The capture of one source, by its kind."""

from __future__ import annotations

from collections.abc import Iterator

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.kind import Key
from backup_pipeline.sources.registry import kind_of


def capture_source(
    site: Site, context: CaptureContext, selected: frozenset[Key] | None = None
) -> Iterator[ArtefactRecord]:
    """Capture one source, yielding records as artefacts complete."""
    kind, source = kind_of(site, context.source)
    return kind.capture(source, context, selected)
