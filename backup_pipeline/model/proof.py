"""What was found out about a sealed set later: verifications and drills, kept in its `proofs/` folder."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from backup_pipeline.model.base import Frozen, JsonValue
from backup_pipeline.model.set_id import SetId

PROOFS_FOLDER = "proofs"


class ProofKind(StrEnum):
    """`verification`: every file re-read and equal to the manifest. `drill`: restored and found equal."""

    VERIFICATION = "verification"
    DRILL = "drill"


class Finding(Frozen):
    """One thing that was not as it should be: the file or object, and what is wrong with it."""

    subject: str
    problem: str
    remedy: str = ""


class Proof(Frozen):
    """The result of one verification or drill of a set.

    Attributes:
        passed: whether nothing was found.
        covered: keys of the artefacts that were checked, joined by dots.
        numbers: figures to plot: seconds to restore (rto_seconds), age of data (rpo_seconds), bytes, tables, rows.
        skipped: what could not be looked at here and why; such a proof says so.
    """

    proof_version: Literal[1] = 1
    kind: ProofKind
    set_id: SetId
    plan: str
    manifest_sha256: str
    started_at: datetime
    finished_at: datetime
    passed: bool
    covered: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    skipped: tuple[Finding, ...] = ()
    numbers: dict[str, float | int] = Field(default_factory=dict)
    details: dict[str, JsonValue] = Field(default_factory=dict)
    run_id: str = ""
