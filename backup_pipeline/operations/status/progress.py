"""Progress of the backups that are being written now, from their sets' folders: whoever started them, and where.

The size of the plan's set before serves as the measure of what is still to come.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.backup_set import BackupSet, SetState
from backup_pipeline.model.manifest import RECORDS_FOLDER
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.sites.stores import is_whole_backup, open_store
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.claims import writing
from backup_pipeline.stores.contract import PlanStore

_NEARLY = 0.99
_SURE = 0.02
"""From which share on the time so far says something about the time left."""
_MOST_FILES = 20_000
# Asked for every few seconds while a backup runs: the last set of each store is read once.
_BEFORE: dict[Path, tuple[SetId, tuple[ArtefactRecord, ...]]] = {}


@dataclass(frozen=True, slots=True)
class ArtefactProgress:
    """An artefact of a running backup: `done` with its figures, or `expected` with those of the set before."""

    name: str
    done: bool
    size: int
    rows: int | None
    seconds: float


@dataclass(frozen=True)
class SetProgress:
    """A backup that is being written.

    Attributes:
        plan: its plan.
        set_id: its set.
        started_at: when it began.
        artefacts: those that are done, then those that the set before had too.
        written: bytes in its folder so far.
        expected: bytes of the set before; None where there is none.
        share: how much of it is done, 0 to 1; None where nothing is known.
        left: the time left, None where nothing is known.
    """

    plan: str
    set_id: SetId
    started_at: datetime
    artefacts: tuple[ArtefactProgress, ...]
    written: int
    expected: int | None
    share: float | None
    left: timedelta | None

    @property
    def done(self) -> int:
        """How many artefacts are done."""
        return sum(one.done for one in self.artefacts)


def running_sets(site: Site, now: datetime) -> Iterator[SetProgress]:
    """Yield the sets that are being written at `now`; a plan whose store cannot be read is passed over."""
    for plan in site.single_plans:
        try:
            store = open_store(site, plan)
            if writing(store) is None:
                continue
            newest = store.ids()[-1:]
            known = store.read(newest[0]) if newest else None
            if known is not None and known.state is SetState.INCOMPLETE:
                yield _progress(store, known, now)
        except BackupSystemError:
            continue


def _progress(store: PlanStore, known: BackupSet, now: datetime) -> SetProgress:
    before = _set_before(store, known.set_id)
    finished = {record.key for record in known.records}
    artefacts = [_artefact(record, done=True) for record in known.records]
    artefacts += [_artefact(record, done=False) for record in before if record.key not in finished]
    expected = sum(record.size for record in before) or None
    written = _bytes_in(store.folder / known.set_id)
    share = min(_NEARLY, written / expected) if expected else None
    elapsed = now - known.started_at
    left = elapsed * (1 - share) / share if share is not None and share > _SURE else None
    return SetProgress(known.plan, known.set_id, known.started_at, tuple(artefacts), written, expected, share, left)


def _artefact(record: ArtefactRecord, *, done: bool) -> ArtefactProgress:
    seconds = (record.finished_at - record.started_at).total_seconds()
    return ArtefactProgress(record.name, done, record.size, record.rows, seconds)


def _set_before(store: PlanStore, set_id: SetId) -> tuple[ArtefactRecord, ...]:
    """Return the artefacts of the newest whole backup before a set; nothing where there is none."""
    for earlier in reversed([one for one in store.sealed_ids() if one < set_id][-5:]):
        if _BEFORE.get(store.folder, (None, ()))[0] != earlier:
            known = store.read(earlier)
            if not is_whole_backup(known):
                continue
            _BEFORE[store.folder] = (earlier, known.records)
        return _BEFORE[store.folder][1]
    return ()


def _bytes_in(folder: Path) -> int:
    """Return the bytes of a set's files, those among them that are not finished yet."""
    total = 0
    for number, path in enumerate(_files(folder)):
        if number > _MOST_FILES:
            break
        try:
            total += path.stat(follow_symlinks=False).st_size
        except OSError:
            continue  # renamed meanwhile
    return total


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        # What is said of the artefacts is none of them.
        folders[:] = [name for name in folders if Path(root) != folder or f"{name}/" != RECORDS_FOLDER]
        yield from (Path(root) / name for name in names)
