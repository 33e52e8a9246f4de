"""Restore of a SQLite file from its copy: unpacked beside, checked and compared, then swapped in.

What was there is kept with its `-wal` and `-shm`, so that no log of the old file meets the new one. Undo is
`system.file_swap.undo`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.artefacts.sqlite_copy import compare_sqlite, unpack_sqlite
from backup_pipeline.artefacts.tree_restore import check_room
from backup_pipeline.artefacts.types import FilesRestore, RestoredFiles
from backup_pipeline.errors import RefusedError, ValidationError
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.sqlite.database import SIDECARS, fold_in_log, openers_of
from backup_pipeline.system.file_swap import restoring, swap, take_attributes


def restore(restore: FilesRestore) -> RestoredFiles:
    """Restore a SQLite file; see `restore_sqlite`."""
    return restore_sqlite(restore.open_file, restore.records, restore.target, now=restore.now)


def restore_sqlite(
    open_file: Callable[[str], BinaryIO],
    records: Iterable[ArtefactRecord],
    target: Path,
    *,
    now: datetime,
    in_use: bool = False,
    wait_seconds: float = 30.0,
) -> RestoredFiles:
    """Restore a database to `target`.

    Args:
        open_file: opens a file of the set.
        records: of one source: its copy, and its tables' exports, whose fingerprints are compared.
        target: the database file; what is there is kept beside it with its log.
        now: of this restore; names the kept file.
        in_use: go on although a program has the file open; it goes on writing to the kept one.
        wait_seconds: how long to wait for another restore of this target.

    Raises:
        ValidationError: the copy is damaged, fails its integrity check, or is not what was captured; nothing changed.
        RefusedError: a program has the file open, or there is not enough room.
        LockError: another restore of this target is running.
    """
    records = tuple(records)
    copy = next((record for record in records if record.kind is ArtefactKind.SQLITE_COPY), None)
    if copy is None:
        raise ValidationError("The set has no copy of this database.", where=str(target), remedy="Use another set.")
    size = copy.files[0].content_size or 0
    with restoring(target, now=now, wait_seconds=wait_seconds) as (real, new):
        if real.exists() and not in_use and (openers := openers_of(real)):
            raise RefusedError(
                f"In use by {', '.join(openers)}.",
                where=str(real),
                remedy="Stop it first: it would go on writing to the file that is swapped out.",
            )
        check_room(new.parent, size)
        unpack_sqlite(open_file, copy, new)
        problems = [f"{each.subject}: {each.problem}" for each in compare_sqlite(new, records)]
        if problems:
            raise ValidationError(
                f"The unpacked database is not the captured one: {'; '.join(problems[:5])}",
                where=copy.files[0].path,
                remedy="Use another set.",
            )
        new.chmod(0o600)
        take_attributes(real, new)
        if real.exists():
            fold_in_log(real)
        done = swap(real, now, sidecars=SIDECARS, label=copy.set_id)
    return RestoredFiles(done.target, done.kept, 1, size)
