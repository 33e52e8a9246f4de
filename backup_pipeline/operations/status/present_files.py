"""Presence of a sealed set's files, by name and size. No content is read.

A seal was true when it was written; between two verifications a file may have been moved, emptied or deleted.
"""

from __future__ import annotations

import os

from backup_pipeline.model.indexed_set import KnownSet
from backup_pipeline.stores.contract import PlanStore

_SHOWN = 3


def files_not_there(store: PlanStore, known: KnownSet) -> list[str]:
    """Return what is wrong with a sealed set's files at a glance, one text for each; empty when all are there."""
    found: list[str] = []
    if store.artefacts_elsewhere:
        # In a vault, where `vault check` checks for them.
        return found
    folder = str(store.path_of(known.set_id))
    for path, recorded in known.files:
        try:
            size = os.stat(f"{folder}/{path}").st_size if _is_inside(path) else None  # noqa: PTH116 - thousands of files
        except OSError:
            size = None
        if size is None:
            found.append(f"{path} is missing")
        elif size != recorded:
            found.append(f"{path} has {size} bytes, {recorded} were written")
    return found


def _is_inside(path: str) -> bool:
    """Return whether a recorded path leads to a file below the set's folder."""
    return bool(path.strip("./")) and path[0] != "/" and "\0" not in path and ".." not in path.split("/")


def as_text(found: list[str]) -> str:
    """Return the first few in one line."""
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more
