"""Sets whose content is of no interest, for tests of stores: artefacts of a few bytes, and their manifest."""

from __future__ import annotations

from backup_pipeline.model.manifest import Manifest
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.stores.contract import SetWriter
from backup_pipeline_tests.support.archive_sets import NOW


def write_artefact(writer: SetWriter, files: dict[str, bytes], *key: str) -> ArtefactRecord:
    """Write files and the record of the artefact that they are; `key` is of one file by default."""
    records = []
    for path, data in files.items():
        with writer.create(path) as file:
            file.write(data)
        records.append(writer.file_record(path, file))
    (source,) = writer.draft.sources
    record = ArtefactRecord(
        key=key or (source, *files),
        source=source,
        kind=ArtefactKind.FOLDER_TARBALL,
        set_id=writer.draft.set_id,
        files=tuple(records),
        source_label=source,
        started_at=NOW,
        finished_at=NOW,
    )
    writer.write_record(record)
    return record


def manifest_of(writer: SetWriter) -> Manifest:
    """Return the manifest of all that was written."""
    known = writer.draft
    return Manifest(
        set_id=known.set_id,
        plan=known.plan,
        sources=known.sources,
        started_at=NOW,
        sealed_at=NOW,
        run_id="r",
        root_run_id="r",
        pipeline_version="1",
        artefacts=writer.records(),
    )
