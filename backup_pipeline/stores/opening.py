"""Opening the store of a plan in a folder: operations know it by its contract."""

from __future__ import annotations

from pathlib import Path

from backup_pipeline.stores.contract import PlanStore
from backup_pipeline.stores.local import FILE_MODE, FOLDER_MODE, LocalStore


def folder_store(folder: Path, plan: str, *, file_mode: int = FILE_MODE, folder_mode: int = FOLDER_MODE) -> PlanStore:
    """Return the store in a folder. Nothing is made before the first set begins."""
    return LocalStore(folder, plan, file_mode=file_mode, folder_mode=folder_mode)
