"""A site's vaults as its settings name them: their places, keys and identities."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from backup_pipeline.errors import SettingsError
from backup_pipeline.operations.sites.copy_proofs import keep_copy_proof, proof_signer
from backup_pipeline.operations.sites.identity import state_folder
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.objects.opening import open_place
from backup_pipeline.stores.objects.options import PlaceOptions
from backup_pipeline.stores.vault.machine_keys import MachineKeys
from backup_pipeline.stores.vault.names import tag_of
from backup_pipeline.stores.vault.store import VaultStore
from backup_pipeline.stores.vault.vault import VaultAccess, VaultReader
from backup_pipeline.system.files import read_ordinary, translate_os_error

IDENTITY_VARIABLE = "VAULT_IDENTITY_FILE"


def open_access(site: Site, name: str, *, more_recipients: tuple[str, ...] = ()) -> VaultAccess:
    """Return a vault of the settings.

    Raises:
        SettingsError: no vault of that name, or a variable that it names is not set.
        StoreError: its place cannot be reached.
    """
    if name not in site.settings.vaults:
        known = ", ".join(site.settings.vaults) or "none"
        raise SettingsError(
            f"No vault is called {name!r}.", where=f"{site.file}: vaults", remedy=f"There are: {known}."
        )
    given = site.settings.vaults[name]
    options = PlaceOptions(
        credentials_env=given.credentials_env,
        endpoint_env=given.endpoint_env,
        region=given.region,
        path_style=given.path_style,
        checksums=given.checksums,
        conditional_create=given.conditional_create,
        lock_mode=given.lock_mode,
        key_file=given.key_file,
        known_hosts=given.known_hosts,
        environment=site.environment,
    )
    keys = MachineKeys(state_folder(site) / "vault-keys")
    recipients = (*given.recipients, *more_recipients)
    return VaultAccess(name, open_place(given.url, options), recipients, given.encryption, given.signers, keys)


def read_identity(file: Path | None, site: Site | None = None) -> tuple[str, str]:
    """Return an identity's text and where it stands; "" without a file.

    Raises:
        StoreError: the file cannot be read.
    """
    named = site.value(IDENTITY_VARIABLE) if site else ""
    file = file or (Path(named) if named else None)
    if file is None:
        return "", ""
    try:
        return read_ordinary(file, at_most=1 << 20).decode(errors="replace"), str(file)
    except OSError as error:
        raise translate_os_error(error, file) from error


def open_reader(site: Site, name: str, identity_file: Path | None) -> VaultReader:
    """Return a vault of the settings opened with an identity."""
    access = open_access(site, name)
    text, where = read_identity(identity_file, site)
    if not text and access.encryption != "none":
        raise SettingsError(
            "The copies in this vault are encrypted, and no identity is named.",
            where=access.where,
            remedy=f"Name the file with the line AGE-SECRET-KEY-1…: --identity FILE, or {IDENTITY_VARIABLE}. Without "
            f"it, `backup-pipeline list {name}:` and `vault check {name}` say what is there.",
        )
    return VaultReader(access.place, text, access.trusted(), where=where)


def with_identity(site: Site, file: Path | None) -> Site:
    """Return the site whose vaults are read with the identity of a file; as it is without one."""
    if file is None:
        return site
    return replace(site, environment={**site.environment, IDENTITY_VARIABLE: str(file.expanduser())})


def open_vault_store(
    site: Site, vault: str, plan: str, *, proves: bool = False, scratch: Path | None = None,
    keep_bytes: int | None = None,
) -> VaultStore:  # fmt: skip
    """Return the copies of a plan in a vault, opened with the identity that the site's environment names.

    Args:
        site: the site.
        vault: the vault's name.
        plan: the plan, which the settings may not have any more.
        proves: whether a result is to be kept with a copy.
        scratch: see VaultStore.
        keep_bytes: see VaultStore.

    Raises:
        SettingsError: no such vault, or no identity is named.
        RefusedError: the identity does not open it, or this machine cannot sign what it is to keep.
    """
    reader = open_reader(site, vault, None)
    if not proves:
        return VaultStore(vault, reader, plan, scratch=scratch, keep_bytes=keep_bytes)
    access = open_access(site, vault)
    proof_signer(access)
    keep = partial(keep_copy_proof, site, access, reader)
    return VaultStore(vault, reader, plan, keep_proof=keep, scratch=scratch, keep_bytes=keep_bytes)


def plans_in(reader: VaultReader) -> tuple[str, ...]:
    """Return the plans that a vault holds copies of; one copy of each is read."""
    newest = {tag_of(name): name for name in reader.catalog.copy_names()}
    return tuple(sorted({reader.content(reader.catalog.copy(name)).plan for name in newest.values()}))
