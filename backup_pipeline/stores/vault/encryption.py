"""Encryption to age's public keys (age-encryption.org/v1), and decryption with an identity."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import pyrage

from backup_pipeline.errors import RefusedError, SettingsError, ValidationError
from backup_pipeline.stores.objects.contract import Data, DataView
from backup_pipeline.stores.vault.age_format import AgeIdentities, AgeRecipients, key_bytes

Encryption = Literal["age", "none"]
_GRAIN = 1 << 20


class OtherRecipientsError(RefusedError):
    """What is to be read is encrypted to other recipients than the identity's."""


class Sealer:
    """Encrypts to recipients; without them, only where `encryption` says `none` explicitly.

    Raises:
        RefusedError: there is no recipient and encryption is not none.
        SettingsError: one of them is not a public key of age.
    """

    def __init__(self, recipients: Sequence[str], encryption: Encryption = "age", *, where: str = "") -> None:
        if encryption == "age" and not recipients:
            raise RefusedError(
                "The vault has no recipients, and nothing leaves this machine unencrypted by accident.",
                where=where,
                remedy="`backup-pipeline vault init NAME --new-identity FILE` makes a key pair with the vault; where "
                "there is one, list its public key (age1…) in `recipients`. Plain text needs `encryption: none`.",
            )
        for text in recipients:
            _check_recipient(text, where)
        self._recipients = AgeRecipients([key_bytes(text) for text in recipients])
        self.encryption = encryption
        self._free: list[bytearray] = []

    def seal(self, data: Data) -> Data:
        """Return the encrypted bytes."""
        return data if self.encryption == "none" else self._recipients.encrypt(data)

    @contextlib.contextmanager
    def sealed(self, data: DataView) -> Iterator[DataView]:
        """Give the encrypted bytes for the block, in memory that is used again: new memory costs as much as encrypting.

        Several threads may call this at once.
        """
        if self.encryption == "none":
            yield data
            return
        size = self._recipients.sealed_size(len(data))
        memory = self._free.pop() if self._free else bytearray()
        if len(memory) < size:
            memory = bytearray(-(-size // _GRAIN) * _GRAIN)  # So that it soon does for any.
        out = memoryview(memory)[:size]
        self._recipients.encrypt_into(out, data)
        try:
            yield out
        finally:
            self._free.append(memory)


def _check_recipient(text: str, where: str) -> None:
    try:
        pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        raise SettingsError(
            f"{text[:16]!r}… is not a public key of age.",
            where=where,
            remedy="It begins with age1 and has 62 characters: `age-keygen -y FILE` prints it.",
        ) from error


class Opener:
    """Decrypts with the identities of a file as `age-keygen` writes it.

    Args:
        text: the file's text; lines that begin with # are comments. "" for a vault without encryption.
        encryption: the vault's.
        where: the file, for errors.

    Raises:
        SettingsError: there is no identity in it.
    """

    def __init__(self, text: str, encryption: Encryption = "age", *, where: str = "") -> None:
        lines = [line.strip() for line in text.splitlines()]
        self.encryption = encryption
        try:
            self._identities = [
                pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")
            ]
        except pyrage.IdentityError:
            self._identities = []
        self._fast = AgeIdentities([key_bytes(str(one)) for one in self._identities])
        if encryption == "age" and not self._identities:
            raise SettingsError(
                "This is no identity of age.",
                where=where,
                remedy="Name the file with the line AGE-SECRET-KEY-1…, as `vault init --new-identity` or age-keygen "
                "wrote it.",
            )

    @property
    def recipients(self) -> tuple[str, ...]:
        """Public keys that belong to the identities."""
        return tuple(str(one.to_public()) for one in self._identities)

    def plain_or_none(self, data: Data) -> Data | None:
        """Return the plain bytes; None where something is wrong: `open` says what."""
        return data if self.encryption == "none" else self._fast.decrypt(data)

    def open(self, data: Data, *, name: str) -> Data:
        """Return the plain bytes of the object `name`.

        Raises:
            RefusedError: it is encrypted to other keys.
            ValidationError: it was changed or cut short.
        """
        if (opened := self.plain_or_none(data)) is not None:
            return opened
        try:
            plain: bytes = pyrage.decrypt(bytes(data), self._identities)
            return plain
        except pyrage.DecryptError as error:
            if "no matching" in str(error).lower():
                raise OtherRecipientsError(
                    "This identity does not open the vault.",
                    where=name,
                    remedy=f"It belongs to {', '.join(self.recipients)}; use the identity of one of the vault's "
                    "recipients, which vault.json lists.",
                ) from error
            raise ValidationError(
                "The object was changed, cut short, or is not encrypted with age.",
                where=name,
                remedy="Use another copy, then find out who writes to the vault.",
            ) from error
        except ValueError as error:
            raise ValidationError("The object cannot be decrypted.", where=name, remedy="Use another copy.") from error


def new_identity() -> tuple[str, str]:
    """Return a new identity (secret) and its public key."""
    made = pyrage.x25519.Identity.generate()
    return str(made), str(made.to_public())
