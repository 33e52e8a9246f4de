"""Files beside a plan's sets that hold what is known of its sources: tables, and databases of servers."""

from __future__ import annotations

from pathlib import Path

from backup_pipeline.settings.server_databases import KNOWN_FOLDER
from backup_pipeline.system.files import make_folder_in, make_folders, read_ordinary, write_atomically


def keep_known(store: Path, name: str, data: bytes, *, file_mode: int = 0o600, folder_mode: int = 0o700) -> None:
    """Write a file of what is known of sources into a plan's store, unless it stands there already.

    Raises:
        StoreError: the store cannot be written.
    """
    place = store / KNOWN_FOLDER / name
    try:
        if read_ordinary(place) == data:
            return
    except OSError:
        make_folders(store, folder_mode)
    make_folder_in(store, KNOWN_FOLDER, folder_mode)
    write_atomically(place, data, mode=file_mode)
