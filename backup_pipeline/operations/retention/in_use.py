"""Marks of sets that are being read, so that a clean-up keeps them.

Any number may read a set at once; each has a mark of its own in `<store>/.in-use/` (see `system.locks`, decision 0004).
A reader marks first and then checks for a removal; a removal marks first and then checks for readers: whichever came
second gives way, so that nobody ever reads a set that goes. Deciding which sets go is `rules.retention`'s.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from backup_pipeline.errors import SetNotFoundError, StoreError
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.sites.stores import open_store, split_place
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.contract import PlanStore, Store
from backup_pipeline.system.scratch_folders import scratch_folder

FOLDER = ".in-use"
_SCRATCH = "backup-pipeline-vault-"
_REMOVAL = "-removal"


@contextlib.contextmanager
def in_use(store: PlanStore, set_id: SetId, purpose: str) -> Iterator[None]:
    """Keep a set from being removed by a clean-up while the block runs.

    A store that cannot be written (a copy on a read-only medium) is read without a mark.

    Args:
        store: the plan's store.
        set_id: the set.
        purpose: reported by the clean-up, as in "drill".

    Raises:
        SetNotFoundError: the set is being removed just now.
    """
    with contextlib.ExitStack() as stack:
        if store.path_of(set_id).is_dir():
            try:
                mark = store.coordination.mark(_name(set_id), purpose=f"{purpose} of {store.plan}/{set_id}")
                stack.enter_context(mark)
            except StoreError:
                yield
                return
            if going := store.coordination.marks(_name(set_id, _REMOVAL)):
                raise SetNotFoundError(
                    f"The set is being removed by {going[0].describe()}.",
                    where=f"{store.plan}/{set_id}",
                    remedy="Choose another set; backup-pipeline list shows them.",
                )
        yield


@contextlib.contextmanager
def reading(
    site: Site, place: str, set_id: SetId, purpose: str, *, proves: bool = False, keep_bytes: int | None = None
) -> Iterator[Store]:
    """Give the store that a set is read from, and keep the set there, while the block runs.

    What comes down from a vault is kept in scratch space for the block, or until the next one where this is killed. A
    copy that is marked for removal meanwhile stays for the vault's time of grace.

    Args:
        site: the site.
        place: `PLAN`, or `VAULT:PLAN`.
        set_id: the set.
        purpose: as for `in_use`.
        proves: whether a result is to be kept with the set.
        keep_bytes: at most so many bytes are kept in scratch space; None as the disk allows.

    Raises:
        SetNotFoundError: the set is being removed just now.
        BackupSystemError: the vault cannot be opened.
    """
    vault, plan = split_place(place)
    with contextlib.ExitStack() as stack:
        if not vault:
            local = open_store(site, plan)
            stack.enter_context(in_use(local, set_id, purpose))
            if not (local.artefacts_elsewhere and set_id in local.sealed_ids()):
                yield local
                return
            vault = site.vault_of(plan)
        from backup_pipeline.operations.sites.vaults import open_vault_store, proof_keeper

        keep = proof_keeper(site, vault, plan) if proves else None
        folder = stack.enter_context(scratch_folder(_SCRATCH))
        store = open_vault_store(site, vault, plan, keep_proof=keep, scratch=folder, keep_bytes=keep_bytes)
        yield stack.enter_context(contextlib.closing(store))


def readers_of(store: PlanStore, set_id: SetId) -> str:
    """Return who reads a set now, as a reason to keep it; "" when nobody does."""
    readers = store.coordination.marks(_name(set_id))
    return f"in use by {', '.join(reader.describe() for reader in readers)}" if readers else ""


@contextlib.contextmanager
def to_be_removed(store: PlanStore, set_id: SetId) -> Iterator[str]:
    """Keep new readers from a set for the block; gives who reads it already ("" when it may be removed)."""
    with store.coordination.mark(_name(set_id, _REMOVAL), purpose=f"removal of {store.plan}/{set_id}"):
        yield readers_of(store, set_id)


def _name(set_id: SetId, ending: str = "") -> str:
    return f"{FOLDER}/{set_id}{ending}"
