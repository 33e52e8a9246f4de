"""Asking a vault what it holds and recording the answer: copies by plan, marks, locks, bytes; without an identity."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from backup_pipeline.errors import BackupSystemError, SetNotFoundError
from backup_pipeline.model.backup_set import BackupSet
from backup_pipeline.model.copy_records import CopyRecord, LockRecord, VaultRecord
from backup_pipeline.model.manifest import Manifest
from backup_pipeline.model.proof import ProofKind
from backup_pipeline.model.set_id import SetId, is_set_id
from backup_pipeline.operations.sites.copy_proofs import note_copy_proofs
from backup_pipeline.operations.sites.copy_records import change_record, device_of, vault_record, with_size
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.objects.contract import ObjectPlace
from backup_pipeline.stores.vault.catalog import VaultCatalog
from backup_pipeline.stores.vault.names import COPIES, copy_name, plan_tag, tag_of
from backup_pipeline.stores.vault.vault import VaultAccess

LOG = logging.getLogger("vault")
_LOCKS_ASKED = 100
"""Of so many copies whose lock is not known, the newest first, the storage is asked in one inspection."""


def inspect_vault(
    site: Site,
    access: VaultAccess,
    now: datetime,
    *,
    catalog: VaultCatalog | None = None,
    stored_bytes: int | None = None,
) -> VaultRecord:
    """Ask a vault for its copies, marks and locks, record what it says, and return the record.

    Args:
        site: the site.
        access: the vault.
        now: the present moment.
        catalog: the vault's catalog, when it is open already.
        stored_bytes: the bytes of all chunks, where they have just been counted; they are counted here when never
            before.

    Raises:
        StoreError, RefusedError, SetNotFoundError: the vault cannot be read.
    """
    catalog = catalog or access.catalog()
    vault = catalog.description.vault
    before = _same_vault(vault_record(site, access.name), vault)
    names, marks = catalog.copy_names(), catalog.marks()
    lock = _lock_of(catalog.place)
    key = access.keys.id_key(catalog.description.vault)
    found = _by_plan(site, key, names) if key is not None else {}
    copies = {
        plan: tuple(_record(site, plan, before.copy_of(plan, one), one, name, marks) for one, name in sets.items())
        for plan, sets in found.items()
    }
    if lock.enabled:
        copies = _with_locks(catalog.place, copies)
    if stored_bytes is None and before.stored_bytes is None:
        stored_bytes = sum(chunk.size for chunk in catalog.chunks().values())
    medium = _medium(site.settings.vaults[access.name].url)
    others = len(names) - sum(len(sets) for sets in found.values())

    try:
        note_copy_proofs(site, access)
    except BackupSystemError as error:
        LOG.warning("the proofs in %s could not be noted: %s", access.name, error)

    def change(current: VaultRecord) -> VaultRecord:
        after = _same_vault(current, vault).model_copy(
            update={"inspected_at": now, "copies": copies, "lock": lock, "medium": medium, "others": others}
        )
        return after if stored_bytes is None else with_size(after, now, stored_bytes)

    return change_record(site, access.name, change)


def _same_vault(record: VaultRecord, vault: str) -> VaultRecord:
    """Return what is recorded of this very vault; nothing when another one stood under the name before."""
    if record.vault in ("", vault):
        return record.model_copy(update={"vault": vault})
    return VaultRecord(vault=vault)


def _by_plan(site: Site, key: bytes, names: list[str]) -> dict[str, dict[SetId, str]]:
    """Return set → name of the copies of each plan, oldest first; names say it to whoever has the id key."""
    found: dict[str, dict[SetId, str]] = {plan: {} for plan in site.settings.plans}
    plans = {plan_tag(key, plan): plan for plan in found}
    for name in names:
        plan, set_id = plans.get(tag_of(name), ""), name.rpartition("-")[0]
        if plan and is_set_id(set_id) and copy_name(key, plan, SetId(set_id)) == name:
            found[plan][SetId(set_id)] = name
    return found


def _record(
    site: Site, plan: str, known: CopyRecord | None, set_id: SetId, name: str, marks: Mapping[str, datetime | None]
) -> CopyRecord:
    record = (
        known
        if known is not None and known.copy_name == name
        else CopyRecord(set_id=set_id, copy_name=name, described=False)
    )
    try:
        record = described(record, open_store(site, plan).read(set_id))
    except SetNotFoundError:
        pass  # retention has removed it here; what was recorded stays
    except BackupSystemError as error:
        LOG.warning("%s/%s cannot be read here: %s", plan, set_id, error)
    return record.model_copy(update={"marked_at": marks.get(name)})


def described(record: CopyRecord, known: BackupSet) -> CopyRecord:
    """Return a copy's record with what its set says of itself here, as long as it is here."""
    manifest = known.manifest
    if manifest is None:
        return record
    return record.model_copy(
        update={
            **manifest_facts(manifest),
            "set_proven": known.proven,
            "set_problem": _problem_of_content(known),
        }
    )


def manifest_facts(manifest: Manifest) -> dict[str, object]:
    """Return what a manifest says that is recorded of its copy, by the fields of CopyRecord."""
    return {
        "described": True,
        "purpose": manifest.purpose,
        "partial": manifest.partial,
        "sources": manifest.sources,
        "broken_data": bool(manifest.broken_data),
        "size": manifest.size,
    }


def _problem_of_content(known: BackupSet) -> str:
    """Return what speaks against the set wherever it lies; damage of its files here says nothing of a copy."""
    drill, check = known.last_proof(ProofKind.DRILL), known.last_proof(ProofKind.VERIFICATION)
    damaged_here = check is not None and not check.passed
    if drill is None or drill.passed or damaged_here:
        return ""
    return f"the drill of its set failed on {drill.finished_at:%Y-%m-%d}"


def _lock_of(place: ObjectPlace) -> LockRecord:
    try:
        found = place.bucket_lock()
    except BackupSystemError as error:
        return LockRecord(supported=False, enabled=False, detail=f"The lock could not be read: {error.what}")
    return LockRecord(
        supported=found.supported,
        enabled=found.enabled,
        default_days=found.default_days,
        mode=found.mode,
        detail=found.detail,
    )


def _with_locks(place: ObjectPlace, copies: dict[str, tuple[CopyRecord, ...]]) -> dict[str, tuple[CopyRecord, ...]]:
    asked = 0
    result = {}
    for plan, known in copies.items():
        records = list(known)
        for index in range(len(records) - 1, -1, -1):
            if records[index].locked_until is None and asked < _LOCKS_ASKED:
                asked += 1
                until = locked_until(place, records[index].copy_name)
                records[index] = records[index].model_copy(update={"locked_until": until})
        result[plan] = tuple(records)
    return result


def locked_until(place: ObjectPlace, copy: str) -> datetime | None:
    """Return until when the storage forbids to delete a copy; None where it does not, or does not say."""
    try:
        return place.lock_state(COPIES + copy).until
    except BackupSystemError as error:
        LOG.warning("the lock of the copy %s cannot be read: %s", copy, error)
        return None


def _medium(url: str) -> str:
    """Return what a vault is stored on, equal for places that are lost together."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        return f"{parts.scheme} {parts.hostname or parts.netloc}"
    try:
        return device_of(Path(unquote(parts.path)).stat().st_dev)
    except OSError:
        return f"folder {parts.path}"
