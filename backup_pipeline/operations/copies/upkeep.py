"""Keeping a vault in order: removing what was marked, other recipients, encrypting anew."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from backup_pipeline.errors import SettingsError
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.operations.sites.vaults import open_access, read_identity, writer_options
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.vault.clean import CleanResult, clean
from backup_pipeline.stores.vault.description import Description, read_description
from backup_pipeline.stores.vault.encryption import Opener
from backup_pipeline.stores.vault.reencrypt import ReencryptResult
from backup_pipeline.stores.vault.vault import change_recipients, open_reencryption
from backup_pipeline.system.locks import hold_lock


def clean_vault(site: Site, name: str, *, dry_run: bool = False, progress: ProgressSink = no_progress) -> CleanResult:
    """Remove copies whose grace time has ended, and chunks that no copy names.

    Raises:
        LockError: another cleaner works there.
        RefusedError: a copy cannot be read: what it needs is not known, so nothing is removed.
    """
    access = open_access(site, name)
    catalog = access.catalog()
    signer = access.keys.signer()
    if dry_run or signer is None:
        return clean(catalog, progress=progress, dry_run=dry_run)
    # One cleaner on this machine: a lease of its own in the vault is then one that a killed cleaner left.
    lock = access.keys.folder / f"{catalog.description.vault}.clean.lock"
    with hold_lock(lock, purpose=f"cleaning of {name}", wait_seconds=0):
        return clean(catalog, progress=progress, owner=hashlib.sha256(signer.public.encode()).hexdigest()[:16])


@dataclass(frozen=True)
class Recipients:
    """To whom a vault is encrypted and to whom the settings say; how many copies are still of earlier recipients."""

    vault: tuple[str, ...]
    settings: tuple[str, ...]
    generation: int
    earlier_copies: int


def recipients_of(site: Site, name: str) -> Recipients:
    """Return the recipients of a vault beside those of the settings."""
    access = open_access(site, name)
    known = read_description(access.place, access.trusted())
    earlier = [copy for copy in access.catalog().copies()[0] if copy.header.generation != known.generation]
    return Recipients(known.recipients, tuple(access.recipients), known.generation, len(earlier))


def take_recipients(site: Site, name: str) -> Description:
    """Encrypt to the recipients of the settings from now on; nothing is changed where they are the vault's already.

    Raises:
        RefusedError: this machine has not joined the vault, or there are no recipients.
    """
    access = open_access(site, name)
    known = read_description(access.place, access.trusted())
    if set(known.recipients) == set(access.recipients):
        return known
    return change_recipients(access)


def reencrypt_vault(
    site: Site, name: str, identity_file: Path | None, progress: ProgressSink = no_progress
) -> ReencryptResult:
    """Encrypt the copies of earlier recipients to the present ones, where an identity is that reads them.

    Raises:
        SettingsError: no identity is named.
        RefusedError: the settings name other recipients than the vault.
    """
    access = open_access(site, name)
    text, where = read_identity(identity_file, site)
    if not text and access.encryption != "none":
        raise SettingsError(
            "Copies are decrypted to encrypt them anew, and no identity is named.",
            where=f"vault {name}",
            remedy="Run it where the identity of the earlier recipients is: --identity FILE.",
        )
    opener = Opener(text, access.encryption, where=where)
    return open_reencryption(access, opener, writer_options(site, access, progress))()
