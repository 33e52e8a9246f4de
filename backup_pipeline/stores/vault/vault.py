"""A vault as operations use it: made, joined, opened for writing, opened for reading."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from backup_pipeline.errors import RefusedError
from backup_pipeline.stores.objects.contract import ObjectPlace
from backup_pipeline.stores.vault.catalog import Clock, VaultCatalog, utc_now
from backup_pipeline.stores.vault.copy_content import CopyContent
from backup_pipeline.stores.vault.copy_object import ListChunks, StoredCopy
from backup_pipeline.stores.vault.description import (
    Description,
    new_description,
    opened_id_key,
    read_description,
    require_recipients,
    with_recipients,
)
from backup_pipeline.stores.vault.encryption import Encryption, Opener, Sealer
from backup_pipeline.stores.vault.machine_keys import MachineKeys
from backup_pipeline.stores.vault.names import DESCRIPTION
from backup_pipeline.stores.vault.reading import CopyReader
from backup_pipeline.stores.vault.recovery_files import write_recovery
from backup_pipeline.stores.vault.reencrypt import ReencryptResult, reencrypt
from backup_pipeline.stores.vault.sending import WriterKeys, WriterOptions
from backup_pipeline.stores.vault.signing import Signer
from backup_pipeline.stores.vault.upload_notes import UploadNotes
from backup_pipeline.stores.vault.write_copy import VaultWriter


@dataclass(frozen=True)
class VaultAccess:
    """What the settings say of a vault.

    Args:
        name: its name in the settings.
        place: where it is.
        recipients: age's public keys.
        encryption: "age", or "none" where that is asked for explicitly.
        signers: public keys beside the site's own whose copies count.
        keys: what this machine keeps.
    """

    name: str
    place: ObjectPlace
    recipients: Sequence[str]
    encryption: Encryption
    signers: Sequence[str]
    keys: MachineKeys

    @property
    def where(self) -> str:
        """The vault, for errors."""
        return f"vaults.{self.name} ({self.place.label})"

    def trusted(self) -> tuple[str, ...]:
        """Return the public keys that count here: the site's own and those of the settings; () where there is none."""
        own = self.keys.signer()
        return (*((own.public,) if own else ()), *self.signers)

    def catalog(self) -> VaultCatalog:
        """Return what stands in the vault, for reading without an identity; as read_description raises."""
        trusted = self.trusted()
        return VaultCatalog(self.place, read_description(self.place, trusted), trusted)


def initialise(access: VaultAccess, *, clock: Clock = utc_now) -> Description:
    """Make a vault.

    Raises:
        RefusedError: there is one, or there are no recipients.
    """
    Sealer(access.recipients, access.encryption, where=access.where)
    refuse_second_vault(access)
    signer = access.keys.signer(make=True)
    assert signer is not None
    made, key = new_description(access.recipients, access.encryption, signer, clock(), where=access.where)
    access.keys.keep_id_key(made.vault, key)
    if not access.place.create(DESCRIPTION, made.as_bytes(signer)):
        raise _second_vault(access)
    write_recovery(access.place)
    return read_description(access.place, (signer.public,))


def refuse_second_vault(access: VaultAccess) -> None:
    """Ask the place before anything is made for a new vault: keys, or an identity that would then open nothing.

    Raises:
        RefusedError: there is a vault.
        StoreError: the place refuses or does not answer.
    """
    if access.place.info(DESCRIPTION) is not None:
        raise _second_vault(access)


def _second_vault(access: VaultAccess) -> RefusedError:
    return RefusedError(
        "There is a vault already.",
        where=access.where,
        remedy=f"backup-pipeline vault init {access.name} --identity FILE lets this machine join it.",
    )


def join(access: VaultAccess, opener: Opener) -> Description:
    """Let this machine write to a vault that is there: its id key is decrypted once and kept.

    Raises:
        RefusedError: the identity is not the vault's, the settings name other recipients, or the vault does not count
            this site's signing key.
    """
    signer = access.keys.signer(make=True)
    assert signer is not None
    known = read_description(access.place, access.trusted() if access.signers else ())
    require_recipients(known, access.recipients, access.encryption, where=access.where)
    key = opened_id_key(known, opener, where=access.where)
    access.keys.keep_id_key(known.vault, key)
    if signer.public not in known.signed_by:
        # Who has the identity speaks for the vault: this site signs it from now on, earlier keys still count.
        known = known.model_copy(update={"signed_by": (signer.public, *known.signed_by)})
        access.place.put(DESCRIPTION, known.as_bytes(signer))
    return known


def change_recipients(access: VaultAccess) -> Description:
    """Encrypt to the recipients of the settings from now on; what is there stays as it is until `reencrypt`.

    Raises:
        RefusedError: this machine has not joined the vault, or there are no recipients.
    """
    known = read_description(access.place, access.trusted())
    changed = with_recipients(known, access.recipients, _own_id_key(access, known), where=access.where)
    access.place.put(DESCRIPTION, changed.as_bytes(_own_signer(access)))
    return changed


def _own_signer(access: VaultAccess) -> Signer:
    signer = access.keys.signer()
    if signer is None:
        raise RefusedError("This machine has no signing key for vaults.", where=access.where, remedy=_JOIN)
    return signer


def _own_id_key(access: VaultAccess, known: Description) -> bytes:
    key = access.keys.id_key(known.vault)
    if key is None:
        raise RefusedError(
            f"This machine has no id key of the vault {known.vault}.",
            where=access.where,
            remedy=f"Was vault.json replaced? If this machine has never written here: {_JOIN}",
        )
    return key


_JOIN = "backup-pipeline vault init NAME --identity FILE, once; the identity is not kept."


def open_writer(
    access: VaultAccess, options: WriterOptions | None = None, notes: UploadNotes | None = None
) -> VaultWriter:
    """Return a writer, with everything that could be wrong refused before a byte leaves.

    Args:
        access: the vault.
        options: how.
        notes: of what was uploaded and no copy names yet; those of this machine's copies by default.

    Raises:
        RefusedError: no recipients, or others than the settings'; a vault or signer that this machine does not know.
        SetNotFoundError: there is no vault.
    """
    catalog, keys = _writing(access)
    return VaultWriter(catalog, keys if notes is None else replace(keys, notes=notes), options)


def open_reencryption(
    access: VaultAccess, opener: Opener, options: WriterOptions | None = None
) -> Callable[[], ReencryptResult]:
    """Return what encrypts the copies of earlier recipients anew; refuses as open_writer does."""
    catalog, keys = _writing(access)
    return lambda: reencrypt(catalog, keys, opener, options or WriterOptions())


def _writing(access: VaultAccess) -> tuple[VaultCatalog, WriterKeys]:
    sealer = Sealer(access.recipients, access.encryption, where=access.where)
    signer = _own_signer(access)
    known = read_description(access.place, access.trusted())
    require_recipients(known, access.recipients, access.encryption, where=access.where)
    key = _own_id_key(access, known)
    keys = WriterKeys(
        sealer, signer, key, UploadNotes(access.keys.uploads_file(known.vault)), access.keys.bad_chunks(known.vault)
    )
    return VaultCatalog(access.place, known, access.trusted()), keys


class VaultReader:
    """A vault opened with an identity.

    Args:
        place: where it is.
        identity: text of the identity's file; "" for a vault without encryption.
        trusted: public keys of signers that the reader knows from settings or the kit; () takes the vault's word.
        where: the identity's file, for errors.
        joined_later: read also a vault whose description another machine has signed, which joined after the kit was
            printed: only copies that a trusted key signed count, and their signatures name the vault.

    Raises:
        SetNotFoundError: there is no vault.
        RefusedError: the identity does not open it, or it is not signed by a trusted key.
    """

    def __init__(
        self,
        place: ObjectPlace,
        identity: str,
        trusted: Collection[str] = (),
        *,
        where: str = "",
        joined_later: bool = False,
    ) -> None:
        self.place = place
        try:
            self.description = read_description(place, trusted)
        except RefusedError:
            if not joined_later:
                raise
            self.description = read_description(place)
        self.opener = Opener(identity, self.description.encryption, where=where)
        self.id_key = opened_id_key(self.description, self.opener, where=f"{place.label}/{DESCRIPTION}")
        self.catalog = VaultCatalog(place, self.description, trusted)
        self._lists = ListChunks(place, self.opener, self.id_key)
        self._latest: tuple[StoredCopy, CopyContent] | None = None

    def content(self, copy: StoredCopy) -> CopyContent:
        """Return what a copy says of its set; the latest is kept, as who has found a copy goes on to read it."""
        if self._latest is None or self._latest[0] is not copy:
            self._latest = copy, copy.content(self.opener, self.id_key, self._lists)
        return self._latest[1]

    def reader(self, copy: StoredCopy) -> CopyReader:
        """Return a reader of a copy."""
        return CopyReader(self.place, copy, self.content(copy), self.opener, self.id_key)
