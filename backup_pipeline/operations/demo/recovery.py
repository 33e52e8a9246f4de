"""The demo's worst day: the newest set of each plan recovered from the vault into an empty folder, and compared."""

from __future__ import annotations

import filecmp
import shutil
from dataclasses import dataclass
from pathlib import Path

from backup_pipeline.errors import ValidationError
from backup_pipeline.model.proof import PROOFS_FOLDER
from backup_pipeline.operations.copies.vaults import VaultAddress, recover
from backup_pipeline.operations.sites.keys import machine_keys
from backup_pipeline.settings.site import Site

VAULT = "offsite"
IDENTITY_NAME = "identity.txt"
RECOVERED_FOLDER = "recovered"


@dataclass(frozen=True)
class RecoveredSet:
    """A set that came back equal: its name, where it is, files and bytes that were compared."""

    name: str
    folder: Path
    files: int
    size: int


def recover_and_compare(site: Site) -> list[RecoveredSet]:
    """Recover the newest sets from the demo's vault with nothing but its identity, and compare them file by file.

    Raises:
        ValidationError: a file differs, or one is missing or too many.
    """
    target = site.folder / RECOVERED_FOLDER
    shutil.rmtree(target, ignore_errors=True)
    signer = machine_keys(site).signer()
    folders = recover(
        VaultAddress(site.settings.vaults[VAULT].url),
        site.folder / IDENTITY_NAME,
        target,
        None,
        (signer.public,) if signer else (),
    )
    return [_compared(site, folder) for folder in folders]


def _compared(site: Site, folder: Path) -> RecoveredSet:
    plan, set_id = folder.parent.name, folder.name
    original = site.store_folder(plan) / set_id
    ours, theirs = _files(original), _files(folder)
    wrong = sorted(set(ours) ^ set(theirs)) or [
        path for path in ours if not filecmp.cmp(ours[path], theirs[path], shallow=False)
    ]
    if wrong:
        raise ValidationError(
            f"What was recovered is not what was backed up: {', '.join(wrong[:3])}.",
            where=str(folder),
            remedy=f"backup-pipeline vault check {VAULT} --identity {IDENTITY_NAME}",
        )
    return RecoveredSet(f"{plan}/{set_id}", folder, len(ours), sum(path.stat().st_size for path in ours.values()))


def _files(folder: Path) -> dict[str, Path]:
    """Return every file of a set by its path; proofs are not copied."""
    found = ((path.relative_to(folder), path) for path in folder.rglob("*") if path.is_file())
    return {name.as_posix(): path for name, path in found if name.parts[0] != PROOFS_FOLDER}
