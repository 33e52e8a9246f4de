"""Checks of copies as they are stored, recorded for status, alerts and retention."""

from __future__ import annotations

from datetime import datetime

from pydantic import ValidationError as PydanticError

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.copy_records import CheckRecord, CopyRecord, VaultRecord
from backup_pipeline.model.manifest import Manifest
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.operations.copies.inspection import inspect_vault, manifest_facts
from backup_pipeline.operations.sites.copy_records import change_record, note_check, vault_record
from backup_pipeline.operations.sites.vaults import open_access
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.vault.check import VaultCheckResult, check_stored
from backup_pipeline.stores.vault.check_locks import check_locks
from backup_pipeline.stores.vault.vault import VaultReader


def check_plan_copies(
    site: Site, vault: str, plan: str, now: datetime, progress: ProgressSink = no_progress
) -> VaultCheckResult:
    """Check a plan's copies in a vault as they are stored, with their locks, and record the result. No identity.

    Args:
        site: the site.
        vault: its name in the settings.
        plan: the plan.
        now: the present moment.
        progress: receives the bytes that are read.

    Raises:
        BackupSystemError: the vault cannot be read.
    """
    access = open_access(site, vault)
    catalog = access.catalog()
    record = inspect_vault(site, access, now, catalog=catalog)
    names = [one.copy_name for one in record.of_plan(plan)]
    if not names:
        return VaultCheckResult()
    result = check_stored(catalog, names=names, progress=progress)
    check_locks(catalog, site.settings.vaults[vault].lock_days, result)
    access.keys.note_bad_chunks(catalog.description.vault, result.bad_chunks, whole=False)
    _note(site, vault, plan, result, now)
    return result


def record_check(site: Site, vault: str, result: VaultCheckResult, now: datetime) -> None:
    """Record a check of the whole vault, for each plan that has copies there.

    Raises:
        BackupSystemError: the vault cannot be asked for its copies.
    """
    access = open_access(site, vault)
    access.keys.note_bad_chunks(access.catalog().description.vault, result.bad_chunks, whole=True)
    record = inspect_vault(site, access, now, stored_bytes=result.read_bytes + result.unused_bytes)
    for plan in record.copies:
        if record.copies[plan]:
            _note(site, vault, plan, result, now)


def _note(site: Site, vault: str, plan: str, result: VaultCheckResult, now: datetime) -> None:
    own = {one.copy_name for one in vault_record(site, vault).copies.get(plan, ())}
    bad = own & result.bad_copies
    # What is said of the storage and of no copy (a lock that is missing) concerns every plan.
    concerns = bool(bad) or not result.bad_copies
    findings = tuple(f"{one.subject}: {one.problem}" for one in result.findings) if concerns else ()
    check = CheckRecord(at=now, copies=result.copies, read_bytes=result.read_bytes, findings=findings)
    problem = f"a check found it damaged on {now:%Y-%m-%d}"
    note_check(site, vault, plan, check, dict.fromkeys(bad, problem), now)


def record_contents(site: Site, vault: str, reader: VaultReader) -> None:
    """Record what the copies hold of which nothing is recorded yet; the identity is where this runs, and not kept."""
    known = {
        one.copy_name: one
        for copies in vault_record(site, vault).copies.values()
        for one in copies
        if not one.described
    }
    found: dict[str, CopyRecord] = {}
    for copy in reader.catalog.copies()[0] if known else ():
        if copy.name in known:
            try:
                manifest = Manifest.model_validate_json(reader.content(copy).manifest)
            except (BackupSystemError, PydanticError):
                continue  # the check names it
            found[copy.name] = known[copy.name].model_copy(update=manifest_facts(manifest))

    def change(record: VaultRecord) -> VaultRecord:
        copies = {plan: tuple(found.get(one.copy_name, one) for one in sets) for plan, sets in record.copies.items()}
        return record.model_copy(update={"copies": copies})

    if found:
        change_record(site, vault, change)
