"""Drills of what is not a PostgreSQL database: the tarball unpacked, the bundle cloned, the SQLite copy checked.

The restoring itself, with its comparisons, is the code that a person's restore runs, into a scratch folder.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.postgres.compare.scratch_restore import DrillOutcome

OpenFile = Callable[[str], BinaryIO]


def drill_files(open_file: OpenFile, records: list[ArtefactRecord], folder: Path, *, now: datetime) -> DrillOutcome:
    """Restore a source's files into a scratch folder and compare them with their records.

    Args:
        open_file: opens a file of the set.
        records: the artefacts of one source.
        folder: an existing scratch folder; what is put there is removed again.
        now: for names.
    """
    outcome = DrillOutcome()
    began = time.monotonic()
    files = size = 0
    for number, record in enumerate(records):
        place = folder / f"{record.source}-{number}"
        try:
            done = _restore(open_file, record, records, place, now)
            files, size = files + done[0], size + done[1]
            outcome.skipped += [Finding(subject=record.name, problem=f"Not compared: {note}.") for note in done[2]]
        except BackupSystemError as error:
            if not error.permanent:
                raise
            outcome.findings.append(
                Finding(subject=record.name, problem=f"cannot be restored: {error.what}", remedy=error.remedy)
            )
        finally:
            for left in folder.glob(f"*{place.name}*"):
                with suppress(OSError):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
    outcome.numbers |= {"restore_seconds": round(time.monotonic() - began, 3), "files": files, "file_bytes": size}
    return outcome


def _restore(
    open_file: OpenFile, record: ArtefactRecord, records: list[ArtefactRecord], place: Path, now: datetime
) -> tuple[int, int, tuple[str, ...]]:
    """Restore one artefact; return files, bytes, and what could not be set and so was not compared.

    Each of these compares what it wrote with the record.
    """
    match record.kind:
        case ArtefactKind.FOLDER_TARBALL:
            from backup_pipeline.artefacts.tree_restore import unpack_record

            unpacked = unpack_record(open_file, record, place)
            return unpacked.files, unpacked.bytes, unpacked.notes()
        case ArtefactKind.REPOSITORY_BUNDLE | ArtefactKind.REPOSITORY_ARCHIVE:
            from backup_pipeline.sources.repository.restore import restore_repository

            restored = restore_repository(open_file, record, place, now=now)[0]
            return restored.files, restored.bytes, ()
        case ArtefactKind.SQLITE_COPY:
            from backup_pipeline.artefacts.sqlite_restore import restore_sqlite

            copied = restore_sqlite(open_file, records, place, now=now)
            return copied.files, copied.bytes, ()
        case _:
            # Table exports are compared with the SQLite copy that they came from, there.
            return 0, 0, ()
