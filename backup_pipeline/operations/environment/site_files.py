"""The files that a new site begins with: settings to edit, their schema for editors, and the template of `.env`."""

from __future__ import annotations

from pathlib import Path

from backup_pipeline.errors import SettingsError
from backup_pipeline.settings.loader import DEFAULT_NAME
from backup_pipeline.system.files import write_atomically
from backup_pipeline.system.packaged_files import packaged_file

SCHEMA_NAME = "backup.schema.json"
TEMPLATE_NAME = ".env.template"


def begin_site(folder: Path, *, dry_run: bool = False) -> tuple[Path, ...]:
    """Write backup.yaml, backup.schema.json and .env.template into a folder, each only where it is missing.

    Args:
        folder: the new site's folder, which exists.
        dry_run: write nothing.

    Returns:
        The files that were, or would be, written.

    Raises:
        SettingsError: there is no such folder.
        StoreError: a file cannot be written.
    """
    if not folder.is_dir():
        raise SettingsError("No such folder.", where=str(folder), remedy="Make it, or name another one with --config.")
    written = []
    for name in (DEFAULT_NAME, SCHEMA_NAME, TEMPLATE_NAME):
        place = folder / name
        if not place.exists():
            if not dry_run:
                write_atomically(place, packaged_file(name).read_bytes(), mode=0o644)
            written.append(place)
    return tuple(written)
