"""Set summaries of a store: facts, size and last proofs of every set, cached by the process.

Reading a set costs milliseconds and a site may have thousands, while alerts are evaluated every few minutes. So what
was read of a sealed set is remembered by the process for as long as its folder's files stay as they are. A set's
records, checks and failures are not here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backup_pipeline.errors import SetNotFoundError
from backup_pipeline.model.backup_set import BackupSet, SetState
from backup_pipeline.model.manifest import MANIFEST_NAME
from backup_pipeline.model.proof import PROOFS_FOLDER, Proof, ProofKind
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.sites.stores import is_whole_backup
from backup_pipeline.rules.retention import SetFacts, facts_of
from backup_pipeline.stores.contract import PlanStore

SetMark = tuple[tuple[int, int, int], ...]
_SUMMARIES: dict[Path, dict[SetId, tuple[SetMark, SetSummary]]] = {}


@dataclass(frozen=True, slots=True)
class SetSummary:
    """What was read of a set: its facts, its bytes, whether it is the plan's whole backup, its run and last proofs.

    `not_drilled_here` is the newest drill when this machine could not carry it out.
    """

    facts: SetFacts
    size: int
    whole: bool
    run_id: str
    verification: Proof | None
    drill: Proof | None
    not_drilled_here: Proof | None = None


def set_summaries(store: PlanStore, *, running: bool) -> list[SetSummary]:
    """Return all sets of a store, newest first; `running` when one is being written.

    Raises:
        StoreError: the store cannot be read.
    """
    before = _SUMMARIES.get(store.folder, {})
    after: dict[SetId, tuple[SetMark, SetSummary]] = {}
    found = []
    for set_id in reversed(store.ids()):
        mark = set_mark(store.folder / set_id)
        known = before.get(set_id)
        if known is None or known[0] != mark:
            try:
                read = store.read(set_id)
            except SetNotFoundError:
                continue  # retention removed it meanwhile
            known = (mark, _cached(read, running=running))
            if read.state is not SetState.COMPLETE:
                found.append(known[1])
                continue
        after[set_id] = known
        found.append(known[1])
    _SUMMARIES[store.folder] = after
    return found


def newest_sets(store: PlanStore) -> Iterator[BackupSet]:
    """Yield the sets of a store in full, newest first."""
    for set_id in reversed(store.ids()):
        # Retention may remove a set while this reads.
        with contextlib.suppress(SetNotFoundError):
            yield store.read(set_id)


def _cached(known: BackupSet, *, running: bool) -> SetSummary:
    return SetSummary(
        facts_of(known, running=running),
        known.size,
        is_whole_backup(known),
        known.manifest.run_id if known.manifest else "",
        known.last_proof(ProofKind.VERIFICATION),
        known.last_proof(ProofKind.DRILL),
        known.not_drilled_here,
    )


def set_mark(folder: Path) -> SetMark:
    """Return what changes when the manifest or the proofs of the set in a folder do."""
    found = []
    for path in (folder / MANIFEST_NAME, folder / PROOFS_FOLDER):
        try:
            status = path.stat()
        except OSError:
            found.append((0, 0, 0))
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)
