"""Proofs of copies in vaults: put beside the copy by the machine that drills, noted by the one that writes.

The notes (`vault-proofs/<vault>.json` in the site's state) answer without the network; `note_copy_proofs` brings them
up to date, and needs no identity.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from pydantic import AwareDatetime, Field

from backup_pipeline.errors import RefusedError
from backup_pipeline.model.base import Frozen
from backup_pipeline.model.proof import Proof, ProofKind, ProofOutcome
from backup_pipeline.operations.sites.identity import state_folder
from backup_pipeline.operations.sites.shared_knowledge import share_state
from backup_pipeline.rules.clock_ahead import after_those_ahead
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.vault.description import read_description
from backup_pipeline.stores.vault.proofs import StoredProof, proof_names, stored_proofs, write_proof
from backup_pipeline.stores.vault.signing import Signer
from backup_pipeline.stores.vault.vault import VaultAccess
from backup_pipeline.system.files import make_folders, read_ordinary, write_atomically

LOG = logging.getLogger("vault")
_FOLDER = "vault-proofs"
_PRIVATE = 0o700


class CopyProof(Frozen):
    """What is known of a result beside a copy: enough for status, without an identity.

    Attributes:
        copy_name: the copy in the vault.
        kind: verification or drill.
        outcome: how it ended.
        finished_at: when.
        restore_seconds: how long everything took to be restored from the vault; None for a verification, and where
            another machine drilled: beside the copy it stands encrypted.
        restored_bytes: the size of what was restored; None likewise.
    """

    copy_name: str
    kind: ProofKind
    outcome: ProofOutcome
    finished_at: AwareDatetime
    restore_seconds: float | None = None
    restored_bytes: int | None = None


class _Notes(Frozen):
    vault: str = ""
    proofs: dict[str, CopyProof] = Field(default_factory=dict)


def known_copy_proofs(site: Site, vault: str) -> tuple[CopyProof, ...]:
    """Return what was noted of a vault's proofs, oldest first; nothing is asked of the vault."""
    return _ordered(_noted(site, vault).proofs)


def note_copy_proofs(site: Site, access: VaultAccess) -> tuple[CopyProof, ...]:
    """Note the proofs that stand in a vault, and return them, oldest first. No identity is needed.

    Raises:
        StoreError: the vault cannot be read, or the notes cannot be written.
    """
    catalog = access.catalog()
    before = _noted(site, access.name)
    kept = before.proofs if before.vault == catalog.description.vault else {}
    names = proof_names(access.place)
    proofs = {name: kept[name] for name in names if name in kept}
    new = [name for name in names if name not in kept]
    for name, found in stored_proofs(access.place, catalog.description, new, access.trusted()):
        if isinstance(found, StoredProof):
            header = found.header
            proofs[name] = CopyProof(
                copy_name=header.copy_name, kind=header.kind, outcome=header.outcome, finished_at=header.finished_at
            )
        else:
            LOG.warning("a proof in the vault %s does not count: %s", access.name, found)
    _write(site, access.name, _Notes(vault=catalog.description.vault, proofs=proofs))
    return _ordered(proofs)


def is_proven(copy: str, proofs: Iterable[CopyProof]) -> bool:
    """Return whether the newest drill of a copy passed, and no later verification found damage."""
    of_copy = [one for one in proofs if one.copy_name == copy and one.outcome is not ProofOutcome.NOT_HERE]
    drill = max((one for one in of_copy if one.kind is ProofKind.DRILL), key=_finished, default=None)
    check = max((one for one in of_copy if one.kind is ProofKind.VERIFICATION), key=_finished, default=None)
    if drill is None or drill.outcome is not ProofOutcome.PASSED:
        return False
    return check is None or check.outcome is ProofOutcome.PASSED or check.finished_at < drill.finished_at


def proof_signer(access: VaultAccess) -> Signer:
    """Return the key that this machine signs proofs with; made where the settings name the keys that count here.

    Raises:
        RefusedError: this machine has no key, and nobody would know whose proof it is.
    """
    # A key of its own replaces the vault's word for who counts: without `signers` nothing could be read any more.
    signer = access.keys.signer(make=bool(access.signers))
    if signer is None:
        raise RefusedError(
            "This machine has no key to sign proofs with.",
            where=access.where,
            remedy=f"List the writing machine's key (signed_by in vault.json, or on the kit) in vaults.{access.name}."
            "signers here; a key for this machine is made then, which the writing machine lists in its signers.",
        )
    return signer


def keep_copy_proof(site: Site, access: VaultAccess, copy: str, proof: Proof) -> None:
    """Put a result beside its copy, and note it here.

    Raises:
        StoreError: the vault cannot be written.
    """
    description = read_description(access.place, access.trusted())
    there = [one.finished_at for one in _noted(site, access.name).proofs.values() if one.copy_name == copy]
    proof = after_those_ahead(proof, there, datetime.now(UTC))
    name = write_proof(access.place, description, copy, proof, proof_signer(access))
    before = _noted(site, access.name)
    numbers = proof.numbers if proof.kind is ProofKind.DRILL else {}
    made = CopyProof(
        copy_name=copy,
        kind=proof.kind,
        outcome=proof.outcome,
        finished_at=proof.finished_at,
        restore_seconds=numbers.get("rto_seconds"),
        restored_bytes=int(numbers["bytes"]) if "bytes" in numbers else None,
    )
    kept = before.proofs if before.vault == description.vault else {}
    _write(site, access.name, _Notes(vault=description.vault, proofs={**kept, name: made}))


def _finished(proof: CopyProof) -> AwareDatetime:
    return proof.finished_at


def _ordered(proofs: Mapping[str, CopyProof]) -> tuple[CopyProof, ...]:
    return tuple(sorted(proofs.values(), key=_finished))


def _noted(site: Site, vault: str) -> _Notes:
    try:
        return _Notes.model_validate_json(read_ordinary(state_folder(site) / _FOLDER / f"{vault}.json"))
    except (OSError, ValueError):
        return _Notes()


def _write(site: Site, vault: str, notes: _Notes) -> None:
    folder = state_folder(site) / _FOLDER
    make_folders(folder, _PRIVATE)
    write_atomically(folder / f"{vault}.json", notes.model_dump_json(indent=1).encode() + b"\n")
    share_state(site)
