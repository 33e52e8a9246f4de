"""A backup set as the index of its store holds it: what lists, status and retention need, without its records."""

from __future__ import annotations

from datetime import datetime

from pydantic import AwareDatetime, Field

from backup_pipeline.model.backup_set import BackupSet, ProvenByFiles, SetState
from backup_pipeline.model.base import Frozen
from backup_pipeline.model.manifest import Failure, Purpose
from backup_pipeline.model.proof import Proof
from backup_pipeline.model.set_id import SetId, set_time


class IndexedSet(ProvenByFiles, Frozen):
    """The figures of a `BackupSet`, under the same names.

    Attributes:
        plan: the plan whose store it is in.
        of_plan: the plan that the set itself says it is of.
        seconds: from its start to its seal.
        checks: how many checks passed, and how many did not.
        files: path and size of every file that the manifest vouches for.
        proofs: results of verifications and drills, without what they covered.
    """

    set_id: SetId
    plan: str
    state: SetState
    run_id: str = ""
    manifest_sha256: str = ""
    purpose: Purpose = Purpose.BACKUP
    of_plan: str
    partial: bool = False
    sources: tuple[str, ...] = ()
    environment: str = ""
    sealed_at: AwareDatetime | None = None
    seconds: float | None = None
    size: int
    rows: int = 0
    artefacts: int = 0
    checks: tuple[int, int] = (0, 0)
    broken_data: tuple[str, ...] = ()
    facts: dict[str, dict[str, str]] = Field(default_factory=dict)
    files: tuple[tuple[str, int], ...] = ()
    failures: tuple[Failure, ...] = ()
    proofs: tuple[Proof, ...] = ()
    problem: str = ""
    damaged_proofs: tuple[str, ...] = ()

    @property
    def started_at(self) -> datetime:
        """The UTC start time from the set's name."""
        return set_time(self.set_id)


KnownSet = BackupSet | IndexedSet
"""A set as it was read, or as the index holds it."""


def indexed(known: BackupSet) -> IndexedSet:
    """Return what the index holds of a set."""
    proofs = (proof.model_copy(update={"covered": (), "details": {}}) for proof in known.proofs)
    return IndexedSet(
        set_id=known.set_id,
        plan=known.plan,
        state=known.state,
        run_id=known.run_id,
        manifest_sha256=known.manifest_sha256,
        purpose=known.purpose,
        of_plan=known.of_plan,
        partial=known.partial,
        sources=known.sources,
        environment=known.environment,
        sealed_at=known.sealed_at,
        seconds=known.seconds,
        size=known.size,
        rows=known.rows,
        artefacts=known.artefacts,
        checks=known.checks,
        broken_data=known.broken_data,
        facts=known.facts,
        files=known.files,
        failures=known.failures,
        proofs=tuple(proofs),
        problem=known.problem,
        damaged_proofs=known.damaged_proofs,
    )
