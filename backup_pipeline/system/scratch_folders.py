"""Folders for work in between that outlive no process: removed at its end, or by the next one when it was killed.

What lies in them is the caller's matter.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from backup_pipeline.system.locks import hold_lock, living_holder, read_holder

_LOCK_NAME = ".in-use"


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def scratch_folder(
    prefix: str, parent: Path | None = None, *, mode: int = 0o700, remove: Callable[[Path], None] = _remove
) -> Iterator[Path]:
    """Give a fresh folder for the block, and remove those of the same prefix that killed processes have left.

    Args:
        prefix: begins its name; the same for the same kind of work.
        parent: where; the system's temporary folder by default.
        mode: the folder's.
        remove: called to remove a folder with what is in it (and what runs in it).
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    for left in sorted(place.glob(f"{prefix}*")):
        if _is_abandoned(left):
            remove(left)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    folder.chmod(mode)
    try:
        with hold_lock(folder / _LOCK_NAME, purpose="scratch"):
            yield folder
    finally:
        remove(folder)


def _is_abandoned(folder: Path) -> bool:
    """Whether a folder of this user's was left by a process that is dead; without a lock nobody knows."""
    with contextlib.suppress(OSError):
        lock = folder / _LOCK_NAME
        own = not hasattr(os, "geteuid") or folder.stat().st_uid == os.geteuid()
        if folder.is_symlink() or not own:
            return False
        return read_holder(lock) is not None and living_holder(lock) is None
    return False
