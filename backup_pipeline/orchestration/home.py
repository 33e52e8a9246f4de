"""Dagster's home: the folder with dagster.yaml, compute logs and, on a laptop, its SQLite files.

Dagster is not imported here, so that the shell can prepare the home before it pays for that import.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from backup_pipeline.errors import SettingsError
from backup_pipeline.system.files import translate_os_error, write_atomically
from backup_pipeline.system.former_files import keep_former, private_folder
from backup_pipeline.system.packaged_files import packaged_file

HOME_VARIABLE = "DAGSTER_HOME"
FOLDER_NAME = ".dagster"
INSTANCE_FILE = "dagster.yaml"
WORKSPACE_FILE = "workspace.yaml"
# The first line of the packaged dagster.yaml; a file without it is the user's own and is left alone.
_MARK = re.compile(r"^# backup-pipeline dagster\.yaml, version (\d+)")


def default_home(environment: Mapping[str, str], site_folder: Path | None = None) -> Path:
    """Return DAGSTER_HOME, else `.dagster` in the site's folder (else the current one). Makes nothing.

    Raises:
        SettingsError: DAGSTER_HOME is not absolute.
    """
    named = environment.get(HOME_VARIABLE, "").strip()
    if not named:
        return (site_folder or Path.cwd()).absolute() / FOLDER_NAME
    home = Path(named).expanduser()
    if not home.is_absolute():
        raise SettingsError(f"{named} is not an absolute path.", where=HOME_VARIABLE, remedy="Start it with a slash.")
    return home


def ensure_home(site_folder: Path, environment: Mapping[str, str] | None = None) -> Path:
    """Make Dagster's home with the project's dagster.yaml in it, and point this process at it.

    Args:
        site_folder: the folder of backup.yaml; its `.dagster` is the home unless DAGSTER_HOME names one.
        environment: where DAGSTER_HOME is read; the process's by default.

    Returns:
        The home, which DAGSTER_HOME of this process names from now on.

    Raises:
        SettingsError: DAGSTER_HOME is not absolute.
        StoreError: the folder cannot be made or written.
    """
    inspected_at = os.environ if environment is None else environment
    elsewhere = bool(inspected_at.get(HOME_VARIABLE, "").strip())
    home = default_home(inspected_at, site_folder)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not elsewhere:
            # Inside a site, which may be a git repository: its runs are nothing to commit.
            private_folder(home)
        ours = packaged_file(INSTANCE_FILE).read_bytes()
        there = home / INSTANCE_FILE
        known = there.read_bytes() if there.exists() else None
    except OSError as error:
        raise translate_os_error(error, home) from error
    if known is None or _version(known) < _version(ours):
        keep_former(there, datetime.now(UTC))
        write_atomically(there, ours)
    os.environ[HOME_VARIABLE] = str(home)
    return home


def workspace_file() -> Path:
    """Return the project's workspace.yaml, which names its code location."""
    return packaged_file(WORKSPACE_FILE)


def _version(content: bytes) -> float:
    """Return the version that a copy of our file says; infinity for a file that is not ours."""
    found = _MARK.match(content.decode("utf-8", "replace"))
    return int(found.group(1)) if found else float("inf")
