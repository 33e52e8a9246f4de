"""Presence of a sealed set's files, by name and size. No content is read.

A seal was true when it was written; between two verifications a file may have been moved, emptied or deleted.
"""

from __future__ import annotations

from backup_pipeline.errors import StoreError
from backup_pipeline.model.backup_set import BackupSet
from backup_pipeline.stores.contract import PlanStore

_SHOWN = 3


def files_not_there(store: PlanStore, known: BackupSet) -> list[str]:
    """Return what is wrong with a sealed set's files at a glance, one text for each; empty when all are there."""
    found: list[str] = []
    if store.artefacts_elsewhere:
        # In a vault, where `vault check` checks for them.
        return found
    for record in known.manifest.artefacts if known.manifest else ():
        for file in record.files:
            try:
                size = store.path_of(known.set_id, file.path).stat().st_size
            except (OSError, StoreError):  # StoreError: a path that leads out of the set
                found.append(f"{file.path} is missing")
                continue
            if size != file.size:
                found.append(f"{file.path} has {size} bytes, {file.size} were written")
    return found


def as_text(found: list[str]) -> str:
    """Return the first few in one line."""
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more
