"""Drills of files: tarballs unpacked, bundles cloned, SQLite copies checked.

The restoring itself, with its comparisons, is the code that a person's restore runs, into a scratch folder.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from backup_pipeline.artefacts import types
from backup_pipeline.artefacts.drilling import DrillArea, DrillBeside, Drills, SealedPart
from backup_pipeline.artefacts.types import FilesRestore, OpenFile
from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.drill_outcome import DrillOutcome
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactRecord


class FileDrills(Drills):
    """The drills of one set's sources that are files."""

    def __init__(self, area: DrillArea) -> None:
        self._area = area

    def drill(self, part: SealedPart, beside: DrillBeside | None) -> DrillOutcome:
        """Restore each artefact's files, and compare the copy of a database with what is beside the set."""
        folder, now = self._area.folder, self._area.now
        outcome = drill_files(part.open_file, part.records, folder, now=now)
        if beside is not None:
            beside.compare_copy(part.open_file, part.records, folder, now)
        return outcome


def drill_files(open_file: OpenFile, records: Sequence[ArtefactRecord], folder: Path, *, now: datetime) -> DrillOutcome:
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
            # Each compares what it writes with the record. Table exports of a SQLite copy are compared with it, there.
            done = types.drill_files(FilesRestore(open_file, record, records, place, now))
            if done is not None:
                files, size = files + done.files, size + done.bytes
                outcome.skipped += [Finding(subject=record.name, problem=f"Not compared: {n}.") for n in done.notes]
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
