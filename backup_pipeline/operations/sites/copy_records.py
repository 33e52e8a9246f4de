"""What a site records of its copies in vaults: `copies/<vault>.json` in its state, changed under a lock.

Written by whatever works with a vault (copying, checks, cleaning, kits); read by status, alerts and retention, which so
need no network. A record that is lost is built anew from the vault by the next copy or check.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError as PydanticError

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.copy_records import CheckRecord, CopyFailure, CopyRecord, SizeRecord, VaultRecord
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.sites.identity import state_folder
from backup_pipeline.operations.sites.shared_knowledge import state_lock
from backup_pipeline.settings.site import Site
from backup_pipeline.system.files import read_ordinary, write_atomically
from backup_pipeline.system.former_files import keep_damaged, private_folder
from backup_pipeline.system.locks import hold_lock

LOG = logging.getLogger("vault")
_FOLDER = "copies"
_LOCK_SECONDS = 30.0
_SIZES_KEPT = 400
_FINDINGS_KEPT = 20


def records_folder(site: Site) -> Path:
    """Return the private folder of the records, made when it is missing.

    Raises:
        StoreError: it cannot be made.
    """
    private_folder(state_folder(site))
    return private_folder(state_folder(site) / _FOLDER)


def vault_record(site: Site, vault: str) -> VaultRecord:
    """Return what is recorded of a vault; nothing when there is no file, or it cannot be read any more."""
    try:
        return VaultRecord.model_validate_json(read_ordinary(state_folder(site) / _FOLDER / f"{vault}.json"))
    except FileNotFoundError:
        return VaultRecord()
    except (OSError, PydanticError) as error:
        LOG.error("the record of the copies in %s cannot be read (%s) and begins anew", vault, type(error).__name__)
        return VaultRecord()


def change_record(site: Site, vault: str, change: Callable[[VaultRecord], VaultRecord]) -> VaultRecord:
    """Change what is recorded of a vault in one step that no other process comes between, and return it.

    Never raises because of the file: a copy that was made is made, whether that could be written down or not.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = records_folder(site)
            lock = hold_lock(folder / f"{vault}.lock", purpose="recording copies", wait_seconds=_LOCK_SECONDS)
            stack.enter_context(lock)
            stack.enter_context(
                state_lock(site, f"copies/{vault}", purpose="recording copies", wait_seconds=_LOCK_SECONDS)
            )
            after = change(vault_record(site, vault))
            keep_damaged(folder / f"{vault}.json", VaultRecord.model_validate_json, datetime.now(UTC))
            write_atomically(folder / f"{vault}.json", after.model_dump_json(indent=1).encode() + b"\n")
        except BackupSystemError as error:
            LOG.error("the copies in %s cannot be recorded: %s", vault, error)
            return change(vault_record(site, vault))
    return after


def with_copy(record: VaultRecord, plan: str, copy: CopyRecord) -> VaultRecord:
    """Return the record with a copy, in the place of what was recorded of it, and without the plan's failure."""
    others = [one for one in record.copies.get(plan, ()) if one.set_id != copy.set_id]
    copies = tuple(sorted([*others, copy], key=lambda one: one.set_id))
    failures = {name: failure for name, failure in record.failures.items() if name != plan}
    return record.model_copy(update={"copies": {**record.copies, plan: copies}, "failures": failures})


def with_size(record: VaultRecord, at: datetime, size: int) -> VaultRecord:
    """Return the record with the vault's bytes at a moment."""
    return record.model_copy(update={"sizes": (*record.sizes, SizeRecord(at=at, size=size))[-_SIZES_KEPT:]})


def note_failure(site: Site, vault: str, plan: str, set_id: SetId, error: BackupSystemError, at: datetime) -> None:
    """Record that a set could not be copied, and how often in a row."""

    def change(record: VaultRecord) -> VaultRecord:
        before = record.failures.get(plan)
        failure = CopyFailure(
            at=at,
            set_id=min(set_id, before.set_id) if before else set_id,
            what=error.what,
            where=error.where,
            remedy=error.remedy,
            attempts=before.attempts + 1 if before else 1,
        )
        return record.model_copy(update={"failures": {**record.failures, plan: failure}})

    change_record(site, vault, change)


def note_check(
    site: Site, vault: str, plan: str, check: CheckRecord, problems: dict[str, str], at: datetime
) -> VaultRecord:
    """Record a check of a plan's copies; `problems` holds what was found by the names of copies."""

    def change(record: VaultRecord) -> VaultRecord:
        copies = tuple(
            one.model_copy(update={"checked_at": at, "problem": problems.get(one.copy_name, "")})
            for one in record.copies.get(plan, ())
        )
        kept = check.model_copy(update={"findings": check.findings[:_FINDINGS_KEPT]})
        checks = {**record.checks, plan: kept}
        return record.model_copy(update={"copies": {**record.copies, plan: copies}, "checks": checks})

    return change_record(site, vault, change)


def device_of(number: int) -> str:
    """Return the medium of a folder (see VaultRecord.medium) from its device number (os.stat's st_dev)."""
    return f"device {number}"


def missing_in(record: VaultRecord, plan: str, sealed: Sequence[SetId]) -> tuple[SetId, ...]:
    """Return the sealed sets that a vault should have next, oldest first.

    These are the sets that were sealed after the newest one that has a copy; of older ones a backfill, or `vault copy`,
    copies what is wanted. Where no set has a copy yet, it is the first that could not be copied and those after it, or
    the newest one.

    Args:
        record: what is recorded of the vault.
        plan: the plan.
        sealed: the plan's sealed sets, oldest first.
    """
    newest = max((one.set_id for one in record.copies.get(plan, ())), default=None)
    if newest is not None:
        return tuple(one for one in sealed if one > newest)
    failure = record.failures.get(plan)
    since = [one for one in sealed if failure is not None and one >= failure.set_id]
    return tuple(since or sealed[-1:])
