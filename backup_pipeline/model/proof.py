"""What was found out about a sealed set later: verifications and drills, kept in its `proofs/` folder."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal, Protocol

from pydantic import AwareDatetime, Field

from backup_pipeline.model.base import Frozen, JsonValue
from backup_pipeline.model.set_id import SetId

PROOFS_FOLDER = "proofs"
IMPORTED_SOURCES = "imported_sources"
"""Figure of a drill: sources of which no fingerprints were taken where they came from. They are restored and counted;
that proves the dump, and not that it holds what its database held."""


class ProofKind(StrEnum):
    """`verification`: every file re-read and equal to the manifest. `drill`: restored and found equal."""

    VERIFICATION = "verification"
    DRILL = "drill"


class ProofOutcome(StrEnum):
    """`not here`: the machine lacks what the set needs to be restored, which says nothing about the set."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_HERE = "could not be drilled here"


class Finding(Frozen):
    """One thing that was not as it should be: the file or object, and what is wrong with it."""

    subject: str
    problem: str
    remedy: str = ""


class Proof(Frozen):
    """The result of one verification or drill of a set.

    Attributes:
        passed: whether nothing was found, and everything could be restored where the drill ran.
        covered: keys of the artefacts that were checked, joined by dots.
        numbers: figures to plot: seconds to restore (rto_seconds), age of data (rpo_seconds), bytes, tables, rows.
        skipped: what could not be inspected here and why; such a proof says so.
        missing_here: what the machine of a drill lacks, so that the set could not be restored there. It says nothing
            against the set. Empty in results of before there was this outcome.
        content_sha256: digest of everything else in the file (see `proof_as_bytes`); "" in memory, and in files that
            were written before there was one.
    """

    proof_version: Literal[1] = 1
    kind: ProofKind
    set_id: SetId
    plan: str
    manifest_sha256: str
    started_at: AwareDatetime
    finished_at: AwareDatetime
    passed: bool
    covered: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    skipped: tuple[Finding, ...] = ()
    missing_here: tuple[Finding, ...] = ()
    numbers: dict[str, float | int] = Field(default_factory=dict)
    details: dict[str, JsonValue] = Field(default_factory=dict)
    run_id: str = ""
    content_sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")

    @property
    def skipped_text(self) -> str:
        """How many things could not be inspected, for summaries: `, 2 skipped`; "" where everything was."""
        return f", {len(self.skipped)} skipped" if self.skipped else ""

    @property
    def outcome(self) -> ProofOutcome:
        """Passed, failed, or could not be drilled here; what was found wrong outweighs what the machine lacks."""
        if self.passed:
            return ProofOutcome.PASSED
        return ProofOutcome.NOT_HERE if self.missing_here and not self.findings else ProofOutcome.FAILED


_FILE_TIME = "%Y-%m-%dT%H%M%S_%fZ"


class Dated(Protocol):
    """A result, or what is known of one."""

    @property
    def kind(self) -> ProofKind:
        """Verification or drill."""

    @property
    def finished_at(self) -> datetime:
        """When it was finished."""


def proof_file_name(proof: Dated) -> str:
    """Return the name of a result's file: when it was finished, and its kind."""
    return f"{proof.finished_at.astimezone(UTC):{_FILE_TIME}}_{proof.kind}.json"


def time_of_proof_file(name: str) -> datetime:
    """Return when the result in a file of that name was finished; the end of time for any other name."""
    try:
        return datetime.strptime(name.partition("Z_")[0] + "Z", _FILE_TIME).replace(tzinfo=UTC)
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)


def proof_as_bytes(proof: Proof) -> bytes:
    """Return a result as its file holds it, with its own digest.

    The digest is the SHA-256 of the JSON document without the field `content_sha256`, with sorted keys and without
    white space. It is no signature: it detects damage and careless edits, not somebody who writes a new digest too.
    """
    document = proof.model_dump(mode="json", exclude={"content_sha256"})
    return _written({**document, "content_sha256": _digest(document)})


def read_proof(data: bytes, set_id: SetId) -> Proof:
    """Return the result that a file of that set holds.

    Raises:
        ValueError: not a result, or not as it was written, or another set's.
    """
    proof = Proof.model_validate_json(data)
    document = json.loads(data)
    if proof.content_sha256:
        written = _written(document)
        del document["content_sha256"]
        if written != data or _digest(document) != proof.content_sha256:
            raise ValueError("it was changed after it was written")
    if proof.set_id != set_id:
        raise ValueError(f"it belongs to set {proof.set_id}")
    return proof.model_copy(update={"content_sha256": ""})


def _digest(document: dict[str, JsonValue]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _written(document: dict[str, JsonValue]) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"
