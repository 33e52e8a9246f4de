"""Copying a plan's sets into its vaults after the seal: what is missing there, one at a time, and what came of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.artefacts.time_limits import within_the_plans_limit
from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.copy_records import CopyRecord, VaultRecord
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.copies.inspection import described, inspect_vault
from backup_pipeline.operations.retention.in_use import reading
from backup_pipeline.operations.sites.copy_records import (
    change_record,
    missing_in,
    note_failure,
    records_folder,
    vault_record,
    with_copy,
    with_size,
)
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.operations.sites.vaults import open_access, settings_text, writer_options
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.vault.vault import open_writer
from backup_pipeline.stores.vault.write_copy import CopyResult
from backup_pipeline.system.locks import hold_lock

LOG = logging.getLogger("vault")
_WAIT_SECONDS = 1500.0
"""How long one copy waits for another into the same vault; less than the time after which work counts as stalled."""


@within_the_plans_limit("The copy")
def copy_into(
    site: Site,
    vault: str,
    plan_name: str,
    set_id: SetId,
    *,
    progress: ProgressSink = no_progress,
    now: Callable[[], datetime] = utc_now,
) -> CopyResult:
    """Copy one sealed set into a vault and record it; the set is not removed meanwhile. A failure is recorded too.

    Args:
        site: the site.
        vault: its name in the settings.
        plan_name: the plan.
        set_id: a sealed set of the plan's own store.
        progress: receives the bytes that are read.
        now: the clock.

    Raises:
        BackupSystemError: it could not be copied; what was sent is not sent again by the next try.
    """
    try:
        return _copy(site, vault, plan_name, set_id, progress, now)
    except Exception as error:
        known = (
            error
            if isinstance(error, BackupSystemError)
            else BackupSystemError(f"Unexpected {type(error).__name__}.", remedy="The run's log has the details.")
        )
        note_failure(site, vault, plan_name, set_id, known, now())
        raise


def _copy(
    site: Site, vault: str, plan: str, set_id: SetId, progress: ProgressSink, now: Callable[[], datetime]
) -> CopyResult:
    settings = settings_text(site)
    with (
        _alone(site, vault, f"copy of {plan}/{set_id} into {vault}"),
        reading(site, plan, set_id, f"copy into {vault}") as store,
    ):
        access = open_access(site, vault)
        writer = open_writer(access, writer_options(site, access, progress))
        result = writer.copy(store, plan, set_id, settings=settings)
        known = store.read(set_id)
        moment = now()

        def change(record: VaultRecord) -> VaultRecord:
            before = record.copy_of(plan, set_id)
            copied = before or CopyRecord(set_id=set_id, copy_name=result.copy)
            update: dict[str, object] = {"copy_name": result.copy}
            if not result.already_there:
                update |= {"copied_at": moment, "sent_bytes": result.sent_bytes}
            after = with_copy(record, plan, described(copied.model_copy(update=update), known))
            if record.stored_bytes is None or not result.sent_bytes:
                return after
            return with_size(after, moment, record.stored_bytes + result.sent_bytes)

        change_record(site, vault, change)
        try:
            inspect_vault(site, access, moment)
        except BackupSystemError as error:
            LOG.warning("%s was copied, and the vault could not be asked afterwards: %s", set_id, error)
    return result


@contextmanager
def _alone(site: Site, vault: str, purpose: str) -> Iterator[None]:
    """Be the only one of this site that copies into a vault: two would send the same chunks."""
    with hold_lock(records_folder(site) / f"{vault}.copying.lock", purpose=purpose, wait_seconds=_WAIT_SECONDS):
        yield


def missing_copies(site: Site, plan: str, vault: str) -> tuple[SetId, ...]:
    """Return the sealed sets that a vault should have next, oldest first, by what is recorded (see `missing_in`)."""
    return missing_in(vault_record(site, vault), plan, open_store(site, plan).sealed_ids())
