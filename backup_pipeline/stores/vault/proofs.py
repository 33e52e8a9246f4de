"""Proofs of copies: small signed objects beside the copies, which lie where nothing is ever written over.

    backup-pipeline vault proof 1 <bytes of the header> <bytes of the content>
    <header: one line of JSON>
    <signature: one line of JSON>
    <content: age(gzip(JSON)); gzip(JSON) where the vault is not encrypted>

The header is plain, so that the machine that writes copies learns without an identity that one of them is proven.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import secrets
from collections.abc import Collection, Iterator
from datetime import UTC

from pydantic import AwareDatetime
from pydantic import ValidationError as PydanticError

from backup_pipeline.errors import BackupSystemError, RefusedError, StoreError, ValidationError
from backup_pipeline.model.base import Frozen
from backup_pipeline.model.proof import Proof, ProofKind, ProofOutcome, proof_as_bytes, proof_file_name, read_proof
from backup_pipeline.model.set_id import SetId
from backup_pipeline.stores.objects.contract import ObjectPlace
from backup_pipeline.stores.objects.errors import ObjectNotFoundError
from backup_pipeline.stores.vault.description import Description
from backup_pipeline.stores.vault.encryption import Opener, Sealer
from backup_pipeline.stores.vault.names import PROOFS, is_copy_name, is_proof_name
from backup_pipeline.stores.vault.signing import Signer, is_public_key, is_signed

PROOF_VERSION = 1
_SIGNED_FOR = "backup-pipeline vault proof 1"
_FIRST_LINE = re.compile(rb"backup-pipeline vault proof (\d{1,6}) (\d{1,6}) (\d{1,10})\n")
_LARGEST = 64 << 20
_LARGEST_PLAIN = 256 << 20
_REMEDY = "It is not counted. Find out who writes to the vault, then verify and drill the copy again."


class ProofHeader(Frozen):
    """The plain part.

    Attributes:
        vault: the vault's id.
        copy_name: the copy that was verified or drilled.
        kind: what was done.
        outcome: how it ended.
        finished_at: when.
        content_sha256: SHA-256 in hex of the encrypted result.
    """

    vault: str
    copy_name: str
    kind: ProofKind
    outcome: ProofOutcome
    finished_at: AwareDatetime
    content_sha256: str


class StoredProof:
    """A proof as it lies in a vault.

    Args:
        description: the vault's.
        name: the object's name below `proofs/`.
        data: its bytes.
        trusted: public keys whose proofs count; the vault's own list when empty.

    Raises:
        StoreError: it is damaged or of a later version.
        RefusedError: it is not signed, signed by somebody else, or of another vault or copy.
    """

    def __init__(self, description: Description, name: str, data: bytes, trusted: Collection[str] = ()) -> None:
        self.name = name
        self.where = f"{PROOFS}{name}"
        first = _FIRST_LINE.match(data)
        if first is None:
            raise StoreError("This is no proof, or its beginning is damaged.", where=self.where, remedy=_REMEDY)
        version, length, content = (int(text) for text in first.groups())
        if version != PROOF_VERSION:
            raise StoreError(
                f"Proofs of version {version} are not known to this release (it reads up to {PROOF_VERSION}).",
                where=self.where,
                remedy="Install the release that wrote it.",
            )
        line = data[first.end() : first.end() + length]
        signature, _, self._sealed = data[first.end() + length + 1 :].partition(b"\n")
        try:
            document = json.loads(signature)
            self.signed_by, value = str(document["key"]), str(document["signature"])
            self.header = ProofHeader.model_validate_json(line)
        except (ValueError, KeyError, TypeError, RecursionError, PydanticError) as error:
            raise StoreError("The proof cannot be read.", where=self.where, remedy=_REMEDY) from error
        if not is_public_key(self.signed_by):  # It may hold anything, and is shown below.
            raise StoreError("The proof cannot be read.", where=self.where, remedy=_REMEDY)
        if self.signed_by not in (trusted or description.signed_by):
            key = self.signed_by[:60]
            raise RefusedError(f"The proof is signed by another key ({key}).", where=self.where, remedy=_REMEDY)
        if not is_signed(self.signed_by, _SIGNED_FOR, line, value):
            raise RefusedError("The proof's signature is not right.", where=self.where, remedy=_REMEDY)
        if self.header.vault != description.vault or self.header.copy_name != name.partition("/")[0]:
            raise RefusedError("The proof belongs to another copy.", where=self.where, remedy=_REMEDY)
        if len(self._sealed) != content:
            raise StoreError("The proof was cut short.", where=self.where, remedy=_REMEDY)

    @property
    def file_name(self) -> str:
        """The name that its file would have in a folder of proofs (see `model.proof`)."""
        return proof_file_name(self.header)

    def content(self, opener: Opener, set_id: SetId) -> Proof:
        """Return the whole result.

        Raises:
            RefusedError: the identity is another's.
            ValidationError: it was changed, or is another set's.
        """
        if hashlib.sha256(self._sealed).hexdigest() != self.header.content_sha256:
            raise ValidationError("The proof was changed.", where=self.where, remedy=_REMEDY)
        try:
            with gzip.open(io.BytesIO(opener.open(self._sealed, name=self.where))) as file:
                return read_proof(file.read(_LARGEST_PLAIN), set_id)
        except (OSError, EOFError, ValueError) as error:
            raise ValidationError("The proof cannot be read.", where=self.where, remedy=_REMEDY) from error


def encode_proof(description: Description, copy: str, proof: Proof, sealer: Sealer, signer: Signer) -> bytes:
    """Return the bytes of a proof's object."""
    sealed = sealer.seal(gzip.compress(proof_as_bytes(proof), mtime=0))
    header = ProofHeader(
        vault=description.vault,
        copy_name=copy,
        kind=proof.kind,
        outcome=proof.outcome,
        finished_at=proof.finished_at,
        content_sha256=hashlib.sha256(sealed).hexdigest(),
    )
    line = header.model_dump_json().encode()
    signature = json.dumps({"key": signer.public, "signature": signer.sign(_SIGNED_FOR, line)}).encode()
    first = f"backup-pipeline vault proof {PROOF_VERSION} {len(line)} {len(sealed)}\n".encode()
    return first + line + b"\n" + signature + b"\n" + sealed


def write_proof(place: ObjectPlace, description: Description, copy: str, proof: Proof, signer: Signer) -> str:
    """Put a result beside a copy; returns the object's name below `proofs/`.

    Raises:
        StoreError: the vault cannot be written.
    """
    sealer = Sealer(description.recipients, description.encryption, where=place.label)
    name = f"{copy}/{proof.finished_at.astimezone(UTC):%Y-%m-%dT%H%M%SZ}-{secrets.token_hex(4)}"
    place.create(PROOFS + name, encode_proof(description, copy, proof, sealer, signer))
    return name


def proof_names(place: ObjectPlace, copy: str = "") -> list[str]:
    """Return the names of all proofs (of one copy), oldest first."""
    prefix = f"{PROOFS}{copy}/" if copy else PROOFS
    names = (info.name.removeprefix(PROOFS) for info in place.list(prefix))
    return sorted(name for name in names if is_proof_name(name) and is_copy_name(name.partition("/")[0]))


def stored_proofs(
    place: ObjectPlace, description: Description, names: Collection[str], trusted: Collection[str] = ()
) -> Iterator[tuple[str, StoredProof | BackupSystemError]]:
    """Yield each proof by name, or why it does not count; one that is gone meanwhile is passed over."""
    for name in names:
        try:
            data = place.get_range(PROOFS + name, 0, _LARGEST + 1)
            yield name, StoredProof(description, name, data, trusted)
        except ObjectNotFoundError:
            continue
        except BackupSystemError as error:
            if not error.permanent:
                raise
            yield name, error
