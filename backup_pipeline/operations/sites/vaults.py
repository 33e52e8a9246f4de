"""A site's vaults as its settings name them: their places, keys and identities."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backup_pipeline.errors import BackupSystemError, SettingsError
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.proof import Proof
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.sites.copy_proofs import keep_copy_proof, proof_signer
from backup_pipeline.operations.sites.keys import machine_keys
from backup_pipeline.operations.sites.state import state_database
from backup_pipeline.settings.site import IDENTITY_VARIABLE, Site
from backup_pipeline.stores.objects.opening import open_place
from backup_pipeline.stores.objects.options import PlaceOptions, TimeLimits
from backup_pipeline.stores.state.plan_store import SharedPlanStore
from backup_pipeline.stores.vault.clean import mark
from backup_pipeline.stores.vault.copy_files import PLACE_TROUBLE
from backup_pipeline.stores.vault.locks import lock_end
from backup_pipeline.stores.vault.names import COPIES, copy_name, plan_tag, tag_of
from backup_pipeline.stores.vault.plan_store import PlanVault, VaultPlanStore
from backup_pipeline.stores.vault.sending import WriterOptions
from backup_pipeline.stores.vault.store import VaultStore
from backup_pipeline.stores.vault.upload_notes import UploadNotes
from backup_pipeline.stores.vault.vault import VaultAccess, VaultReader, open_writer
from backup_pipeline.stores.vault.write_copy import VaultWriter
from backup_pipeline.system.files import read_ordinary, translate_os_error

ASKED = TimeLimits(connect=5, read=20, total=30)
"""How long a place may take while somebody waits for a short answer: a wrong address is not tried for minutes."""


def open_access(
    site: Site, name: str, *, more_recipients: tuple[str, ...] = (), limits: TimeLimits | None = None
) -> VaultAccess:
    """Return a vault of the settings.

    Args:
        site: the site.
        name: the vault's name.
        more_recipients: public keys beside those of the settings.
        limits: how long its place may take to answer; as usual by default.

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
        limits=limits or TimeLimits(),
        environment=site.environment,
    )
    keys = machine_keys(site, name)
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


def open_reader(site: Site, name: str, identity_file: Path | None, *, limits: TimeLimits | None = None) -> VaultReader:
    """Return a vault of the settings opened with an identity; `limits` as in open_access."""
    access = open_access(site, name, limits=limits)
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
    site: Site,
    vault: str,
    plan: str,
    *,
    keep_proof: Callable[[str, Proof], None] | None = None,
    scratch: Path | None = None,
    keep_bytes: int | None = None,
) -> VaultStore:
    """Return the copies of a plan in a vault, opened with the identity that the site's environment names.

    Args:
        site: the site.
        vault: the vault's name.
        plan: the plan, which the settings may not have any more.
        keep_proof: see VaultStore.
        scratch: see VaultStore.
        keep_bytes: see VaultStore.

    Raises:
        SettingsError: no such vault, or no identity is named.
        RefusedError: the identity does not open it.
    """
    reader = open_reader(site, vault, None)
    return VaultStore(vault, reader, plan, keep_proof=keep_proof, scratch=scratch, keep_bytes=keep_bytes)


def proof_keeper(site: Site, vault: str, plan: str) -> Callable[[str, Proof], None]:
    """Return what keeps a result beside a copy, and with what is known here of a plan whose only store is the vault.

    Raises:
        RefusedError: this machine cannot sign a result.
    """
    access = open_access(site, vault)
    proof_signer(access)

    def keep(copy: str, proof: Proof) -> None:
        keep_copy_proof(site, access, copy, proof)
        if plan in site.settings.plans and site.vault_of(plan) == vault:
            known = open_plan_store(site, vault, plan)
            if proof.set_id in known.sealed_ids():
                known.add_proof(proof.set_id, proof)

    return keep


def writer_options(site: Site, access: VaultAccess, progress: ProgressSink = no_progress) -> WriterOptions:
    """Return how a vault is written: the settings' limit of speed, and locks as long as they or the storage say."""
    given, bucket, now = site.settings.vaults[access.name], access.place.bucket_lock(), datetime.now(UTC)
    lock_until = None
    if bucket.enabled and bucket.extendable and (days := given.lock_days or bucket.default_days):
        lock_until = lock_end(now, days)
    elif bucket.enabled and 0 < given.lock_days <= (bucket.default_days or 0):
        # What cannot be made longer is sent again when it comes to that: not for a day more than was asked for.
        lock_until = now + timedelta(days=given.lock_days)
    return WriterOptions(bytes_per_second=given.megabytes_per_second * 1e6, lock_until=lock_until, progress=progress)


def open_plan_store(site: Site, vault: str, plan: str) -> VaultPlanStore:
    """Return the store of a plan whose sets are in a vault alone; nothing is asked of the vault yet."""

    def open_plan_writer(notes: UploadNotes) -> VaultWriter:
        access = open_access(site, vault)
        return open_writer(access, writer_options(site, access), notes)

    def mark_copy(set_id: SetId) -> None:
        access = open_access(site, vault)
        catalog = access.catalog()
        key = access.keys.id_key(catalog.description.vault)
        name = copy_name(key, plan, set_id) if key else ""
        if name and access.place.info(COPIES + name) is not None:
            mark(catalog, [name], f"retention of {plan}")

    held = PlanVault(
        name=vault,
        open_writer=open_plan_writer,
        open_copies=lambda: open_vault_store(site, vault, plan),
        mark=mark_copy,
        settings=lambda: settings_text(site),
    )
    folder, file_mode, folder_mode = (
        site.store_folder(plan),
        int(site.settings.file_mode, 8),
        int(site.settings.folder_mode, 8),
    )
    if (database := state_database(site)) is not None:
        return SharedPlanStore(folder, plan, held, database, file_mode=file_mode, folder_mode=folder_mode)
    return VaultPlanStore(folder, plan, held, file_mode=file_mode, folder_mode=folder_mode)


def settings_text(site: Site) -> str:
    """Return the text of backup.yaml, which every copy holds."""
    try:
        return site.file.read_text(encoding="utf-8")
    except OSError as error:
        raise translate_os_error(error, site.file) from error


def plans_in(reader: VaultReader, known: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the plans that a vault holds copies of, as far as the identity opens one of them.

    Args:
        reader: the vault.
        known: names of plans, of which no copy has to be read.
    """
    tags = {plan_tag(reader.id_key, plan): plan for plan in known}
    found: dict[str, str] = {}
    for name in reversed(reader.catalog.copy_names()):
        tag = tag_of(name)
        if tag in tags:
            found[tag] = tags[tag]
        elif tag not in found:
            try:
                found[tag] = reader.content(reader.catalog.copy(name)).plan
            except PLACE_TROUBLE:
                raise
            except BackupSystemError as error:  # damaged, cleaned meanwhile, of other recipients: an older one may do
                if not error.permanent:
                    raise
    return tuple(sorted(set(found.values())))
