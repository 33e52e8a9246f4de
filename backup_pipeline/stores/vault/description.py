"""`vault.json`: what a vault is, to whom it is encrypted, and how its chunks are cut. Plain, signed."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime, Field
from pydantic import ValidationError as PydanticError

from backup_pipeline.errors import BackupSystemError, RefusedError, SetNotFoundError, StoreError
from backup_pipeline.model.base import Frozen
from backup_pipeline.stores.objects.contract import ObjectPlace
from backup_pipeline.stores.objects.errors import ObjectNotFoundError
from backup_pipeline.stores.vault.encryption import Encryption, Opener, Sealer
from backup_pipeline.stores.vault.locks import earlier_versions
from backup_pipeline.stores.vault.names import DESCRIPTION
from backup_pipeline.stores.vault.signing import Signer, is_signed

VAULT_VERSION = 1
_SIGNED_FOR = "backup-pipeline vault description 1"
_ID_KEY_BYTES = 32


class Cutting(Frozen):
    """How the stream of a set is cut (FastCDC 2020, gear table of destor XORed with a seed from the id key).

    Chunks of 1.9 MiB on average and of much the same size. In vaults made earlier they are of 1.44 MiB (average 1280
    KiB, smallest 768 KiB), or of 1.16 MiB and of very different sizes (1 MiB, 128 KiB, normalisation 1): an edit costs
    a third less there, and a copy of small files a third more requests.
    """

    algorithm: Literal["fastcdc-2020"] = "fastcdc-2020"
    average: int = Field(default=1792 << 10, ge=256, le=4 << 20)
    smallest: int = Field(default=1 << 20, ge=64, le=1 << 20)
    largest: int = Field(default=4 << 20, ge=1024, le=16 << 20)
    normalization: Literal[0, 1, 2, 3] = 2


class Description(Frozen):
    """What `vault.json` says.

    Attributes:
        vault: random id of the vault.
        recipients: age's public keys that chunks and copies are encrypted to from now on.
        generation: counted up when the recipients change: chunks of earlier generations are not used again.
        id_key: the key of the ids in base64: encrypted to the recipients, plain where `encryption` is none.
        signed_by: public keys whose copies belong here; the first signs this.
        signature: the first key's, over everything else as JSON with sorted keys and no spaces.
    """

    vault_version: Literal[1] = 1
    vault: str = Field(pattern=r"^[0-9a-f]{32}$")
    created_at: AwareDatetime
    encryption: Encryption
    recipients: tuple[str, ...]
    generation: int = Field(default=1, ge=1)
    cutting: Cutting = Cutting()
    id_key: str
    signed_by: tuple[str, ...] = Field(min_length=1)
    signature: str = ""

    def sealed_id_key(self) -> bytes:
        """Return the id key as it is kept in the vault."""
        return base64.b64decode(self.id_key)

    def signed_bytes(self) -> bytes:
        """Return what the signature is over."""
        document = self.model_dump(mode="json", exclude={"signature"})
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    def as_bytes(self, signer: Signer) -> bytes:
        """Return the object's bytes, signed."""
        signed = self.model_copy(update={"signature": signer.sign(_SIGNED_FOR, self.signed_bytes())})
        return signed.model_dump_json(indent=1).encode() + b"\n"


def new_description(
    recipients: Sequence[str], encryption: Encryption, signer: Signer, now: datetime, *, where: str = ""
) -> tuple[Description, bytes]:
    """Return a new vault's description and its id key."""
    key = secrets.token_bytes(_ID_KEY_BYTES)
    sealed = Sealer(recipients, encryption, where=where).seal(key)
    made = Description(
        vault=secrets.token_hex(16),
        created_at=now,
        encryption=encryption,
        recipients=tuple(sorted(recipients)),
        id_key=base64.b64encode(sealed).decode(),
        signed_by=(signer.public,),
    )
    return made, key


def with_recipients(known: Description, recipients: Sequence[str], id_key: bytes, *, where: str = "") -> Description:
    """Return the description with other recipients: a new generation, the id key encrypted to them."""
    sealed = Sealer(recipients, known.encryption, where=where).seal(id_key)
    return known.model_copy(
        update={
            "recipients": tuple(sorted(recipients)),
            "generation": known.generation + 1,
            "id_key": base64.b64encode(sealed).decode(),
        }
    )


def read_description(place: ObjectPlace, trusted: Collection[str] = ()) -> Description:
    """Return what a vault says of itself.

    Args:
        place: where the vault is.
        trusted: public keys of signers that the reader knows from settings or the kit; () takes the vault's word.

    Raises:
        SetNotFoundError: there is no vault.
        StoreError: it is of a later version, or damaged.
        RefusedError: it is signed by none of the trusted keys, or by none at all.
    """
    where = f"{place.label}/{DESCRIPTION}"
    try:
        data = place.get(DESCRIPTION)
    except ObjectNotFoundError as error:
        missing = SetNotFoundError(
            "There is no vault here.",
            where=place.label,
            remedy="backup-pipeline vault init makes one; is the URL right?",
        )
        missing.__cause__ = error
        return _earlier_description(place, trusted, missing)
    try:
        return _checked(data, trusted, where)
    except (RefusedError, StoreError) as error:
        return _earlier_description(place, trusted, error)


def _earlier_description(place: ObjectPlace, trusted: Collection[str], problem: BackupSystemError) -> Description:
    """Return what was deleted or replaced by somebody and is kept by its lock; raises `problem` otherwise."""
    for _, data in earlier_versions(place, DESCRIPTION):
        with contextlib.suppress(RefusedError, StoreError):
            return _checked(data, trusted, f"{place.label}/{DESCRIPTION}")
    raise problem


def _checked(data: bytes, trusted: Collection[str], where: str) -> Description:
    known = _parsed(data, where)
    first = known.signed_by[0]
    if not is_signed(first, _SIGNED_FOR, known.signed_bytes(), known.signature):
        raise RefusedError(
            "The vault's description is not signed by the key that it names.",
            where=where,
            remedy="Somebody changed it. Put the earlier version back, then find out who writes to the vault.",
        )
    if trusted and first not in trusted:
        raise RefusedError(
            f"The vault's description is signed by another key ({first}).",
            where=where,
            remedy="Is this another site's vault, or was vault.json replaced? A key that may write here is listed in "
            "`signers` of the vault's settings.",
        )
    return known


def _parsed(data: bytes, where: str) -> Description:
    try:
        document = json.loads(data)
        version = document.get("vault_version") if isinstance(document, dict) else None
        if version not in (None, VAULT_VERSION):
            raise StoreError(
                f"Vault version {version} is not known to this release (it reads up to {VAULT_VERSION}).",
                where=where,
                remedy="Install the release that wrote it.",
            )
        return Description.model_validate(document)
    except (ValueError, PydanticError, RecursionError) as error:
        raise StoreError(
            "The vault's description cannot be read.",
            where=where,
            remedy="Put its earlier version back; every kit has its content in short.",
        ) from error


def opened_id_key(known: Description, opener: Opener, *, where: str) -> bytes:
    """Return the id key, decrypted with an identity.

    Raises:
        RefusedError: the identity is not one of the vault's recipients.
        StoreError: what is decrypted is no key.
    """
    key = bytes(opener.open(known.sealed_id_key(), name=where))
    if len(key) != _ID_KEY_BYTES:
        raise StoreError("The vault's id key is damaged.", where=where, remedy="Put the earlier vault.json back.")
    return key


def require_recipients(known: Description, recipients: Sequence[str], encryption: Encryption, *, where: str) -> None:
    """Refuse to write into a vault whose recipients are not those of the settings.

    Raises:
        RefusedError: they differ.
    """
    if known.encryption != encryption:
        raise RefusedError(
            f"The vault says encryption {known.encryption}, the settings say {encryption}.",
            where=where,
            remedy="Put that right in the settings, or begin a new vault at another URL.",
        )
    if set(known.recipients) != set(recipients):
        raise RefusedError(
            f"The vault is encrypted to {_listed(known.recipients)}, the settings name {_listed(recipients)}.",
            where=where,
            remedy="Was vault.json replaced? If the settings were changed on purpose: "
            "backup-pipeline vault recipients NAME --change.",
        )


def _listed(recipients: Sequence[str]) -> str:
    return ", ".join(sorted(recipients)) or "nobody"
