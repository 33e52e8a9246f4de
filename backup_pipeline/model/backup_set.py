"""A backup set as a store lists it: sealed or incomplete, with its proofs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from backup_pipeline.model.manifest import Draft, Failure, Manifest, Purpose
from backup_pipeline.model.proof import IMPORTED_SOURCES, Proof, ProofKind, ProofOutcome, time_of_proof_file
from backup_pipeline.model.record import ArtefactRecord, facts_of
from backup_pipeline.model.set_id import SetId, set_time


class SetState(StrEnum):
    """COMPLETE: sealed. INCOMPLETE: no manifest. DAMAGED: a manifest that cannot be read."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    DAMAGED = "damaged"


class ProvenByFiles:
    """What the results in a set's `proofs/` say of it, for what has `proofs` and `damaged_proofs`."""

    __slots__ = ()

    proofs: tuple[Proof, ...]
    damaged_proofs: tuple[str, ...]

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
        """True when the newest drill passed, compared all sources, and no later verification found damage."""
        return self._drilled(imported=False)

    @property
    def restored(self) -> bool:
        """As `proven`, for a set with imported sources: their tables were counted and not compared with a source."""
        return self._drilled(imported=True)

    def _drilled(self, *, imported: bool) -> bool:
        drill = self.last_proof(ProofKind.DRILL)
        if drill is not None and bool(drill.numbers.get(IMPORTED_SOURCES)) is not imported:
            return False
        if drill is None or not drill.passed or not self._counts(drill):
            return False
        check = self.last_proof(ProofKind.VERIFICATION)
        return check is None or check.passed or check.finished_at < drill.finished_at

    def _counts(self, proof: Proof) -> bool:
        return all(time_of_proof_file(name) < proof.finished_at for name in self.damaged_proofs)


@dataclass(frozen=True, slots=True)
class BackupSet(ProvenByFiles):
    """One folder of a plan's store. `manifest` is None unless the state is COMPLETE.

    Attributes:
        proofs: results of verifications and drills that are as they were written.
        damaged_proofs: names of files among them that are not; nothing from before them counts any more, because
            nobody knows what they said.
        manifest_sha256: digest of `manifest.json` as it was read; "" where there is none, and of a copy in a vault.
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
    manifest_sha256: str = ""

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
    def run_id(self) -> str:
        """Dagster's run that made it; "" for none."""
        return self.manifest.run_id if self.manifest else self.draft.root_run_id if self.draft else ""

    @property
    def size(self) -> int:
        """Bytes of the files that are recorded."""
        return self.manifest.size if self.manifest else sum(record.size for record in self.records)

    @property
    def rows(self) -> int:
        """Rows of all table exports, and of imported dumps."""
        return sum((record.rows or 0) + record.rows_in_dump for record in self.records)

    @property
    def artefacts(self) -> int:
        """How many artefacts are recorded."""
        return len(self.records)

    @property
    def checks(self) -> tuple[int, int]:
        """How many checks passed, and how many did not."""
        results = [check.passed for record in self.records for check in record.checks]
        return sum(results), len(results) - sum(results)

    @property
    def of_plan(self) -> str:
        """The plan that the set itself says it is of; that of its store where it says none."""
        reported = self.manifest or self.draft
        return reported.plan if reported else self.plan

    @property
    def partial(self) -> bool:
        """Whether it has fewer sources than its plan."""
        reported = self.manifest or self.draft
        return bool(reported and reported.partial)

    @property
    def sources(self) -> tuple[str, ...]:
        """Its sources, as far as it says."""
        reported = self.manifest or self.draft
        return reported.sources if reported else ()

    @property
    def environment(self) -> str:
        """The environment that it was made in; "" where none was set."""
        return self.manifest.environment if self.manifest else ""

    @property
    def sealed_at(self) -> datetime | None:
        """When it was sealed."""
        return self.manifest.sealed_at if self.manifest else None

    @property
    def seconds(self) -> float | None:
        """Seconds from its start to its seal."""
        return (self.manifest.sealed_at - self.manifest.started_at).total_seconds() if self.manifest else None

    @property
    def broken_data(self) -> tuple[str, ...]:
        """What of its data was broken where it came from."""
        return self.manifest.broken_data if self.manifest else ()

    @property
    def facts(self) -> dict[str, dict[str, str]]:
        """The facts of every source that has some, by source."""
        return facts_of(self.records)

    @property
    def files(self) -> tuple[tuple[str, int], ...]:
        """Path and size of every file that the manifest vouches for."""
        return tuple(
            (file.path, file.size)
            for record in (self.manifest.artefacts if self.manifest else ())
            for file in record.files
        )
