"""A backup set as a store lists it: sealed or incomplete, with its proofs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from backup_pipeline.model.manifest import Draft, Failure, Manifest, Purpose
from backup_pipeline.model.proof import Proof, ProofKind, ProofOutcome, time_of_proof_file
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.set_id import SetId, set_time


class SetState(StrEnum):
    """COMPLETE: sealed. INCOMPLETE: no manifest. DAMAGED: a manifest that cannot be read."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class BackupSet:
    """One folder of a plan's store. `manifest` is None unless the state is COMPLETE.

    Attributes:
        proofs: results of verifications and drills that are as they were written.
        damaged_proofs: names of files among them that are not; nothing from before them counts any more, because
            nobody knows what they said.
    """

    set_id: SetId
    plan: str
    state: SetState
    manifest: Manifest | None = None
    draft: Draft | None = None
    records: tuple[ArtefactRecord, ...] = ()
    failures: tuple[Failure, ...] = ()
    proofs: tuple[Proof, ...] = field(default=())
    problem: str = ""
    damaged_proofs: tuple[str, ...] = ()

    @property
    def started_at(self) -> datetime:
        """The UTC start time from the set's name."""
        return set_time(self.set_id)

    @property
    def purpose(self) -> Purpose:
        """Why the set was made."""
        known = self.manifest or self.draft
        return known.purpose if known else Purpose.BACKUP

    @property
    def size(self) -> int:
        """Bytes of the files that are recorded."""
        return self.manifest.size if self.manifest else sum(record.size for record in self.records)

    def last_proof(self, kind: ProofKind) -> Proof | None:
        """Return the newest result of that kind that says something about the set: it passed or failed."""
        reported = (p for p in self.proofs if p.kind is kind and p.outcome is not ProofOutcome.NOT_HERE)
        return max(reported, key=lambda p: p.finished_at, default=None)

    @property
    def not_drilled_here(self) -> Proof | None:
        """The newest drill when this machine could not carry it out; None when a later one came to a result."""
        newest = max((p for p in self.proofs if p.kind is ProofKind.DRILL), key=lambda p: p.finished_at, default=None)
        return newest if newest is not None and newest.outcome is ProofOutcome.NOT_HERE else None

    @property
    def verified(self) -> bool:
        """True when the newest verification passed."""
        last = self.last_proof(ProofKind.VERIFICATION)
        return last is not None and last.passed and self._counts(last)

    @property
    def proven(self) -> bool:
        """True when the newest drill passed and no later verification found damage."""
        drill = self.last_proof(ProofKind.DRILL)
        if drill is None or not drill.passed or not self._counts(drill):
            return False
        check = self.last_proof(ProofKind.VERIFICATION)
        return check is None or check.passed or check.finished_at < drill.finished_at

    def _counts(self, proof: Proof) -> bool:
        return all(time_of_proof_file(name) < proof.finished_at for name in self.damaged_proofs)
