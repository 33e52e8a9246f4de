"""SQLite databases, git repositories and folders of files below a folder. Reads names and first bytes only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from backup_pipeline.errors import SettingsError
from backup_pipeline.operations.first_site.found import Discovery
from backup_pipeline.sqlite.database import is_database

_DEEPEST = 4
_MOST_FOLDERS = 5_000
_SKIPPED = frozenset({"node_modules", "__pycache__", "venv", "site-packages", "backups", "dagster_home"})
# Folders that applications keep their users' files in.
_FILES_OF_USERS = frozenset({"storage", "uploads", "media", "attachments", "documents", "files"})


def find_files(folder: Path, findings: Discovery) -> None:
    """Add the SQLite databases, repositories and folders of users' files below a folder.

    Args:
        folder: where it is searched; hidden folders and those of packages and backups are not entered.
        findings: what they are added to.
    """
    taken: list[Path] = []
    for place, names in _walk(folder):
        if _has_commits(place):
            add_path(place, folder, findings)
        if place.name in _FILES_OF_USERS and place != folder and not any(one in place.parents for one in taken):
            if any(path.is_file() for path in place.rglob("*")):
                taken.append(place)
                add_path(place, folder, findings)
            else:
                findings.passed_over.append((_shown(place, folder), "is an empty folder"))
            continue
        if any(one in place.parents for one in taken):
            continue
        for name in names:
            if is_database(place / name):
                add_path(place / name, folder, findings)


def add_path(path: Path, folder: Path, findings: Discovery) -> None:
    """Add a file or folder that is named or was found, by what it is.

    Raises:
        SettingsError: there is none, or it is no SQLite database.
    """
    shown = _shown(path, folder)
    wanted = path.stem if path.is_file() else path.resolve().name
    if path.is_file():
        if not is_database(path):
            raise SettingsError(
                "Not a SQLite database.", where=str(path), remedy="Name a SQLite file, a repository or a folder."
            )
        findings.add(wanted, "sqlite", f"SQLite database {shown}", {"path": shown})
    elif _has_commits(path):
        findings.add(wanted, "repository", f"git repository {shown}", {"path": shown})
    elif path.is_dir():
        findings.add(wanted, "folder", f"folder {shown}", {"path": shown})
    else:
        raise SettingsError("There is no such file or folder.", where=str(path), remedy="Correct the path.")


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    for visited, (root, folders, names) in enumerate(os.walk(folder)):
        place = Path(root)
        deep = len(place.relative_to(folder).parts) >= _DEEPEST or visited >= _MOST_FOLDERS
        folders[:] = [] if deep else sorted(one for one in folders if one not in _SKIPPED and one[0] != ".")
        yield place, sorted(name for name in names if not name.endswith(("-wal", "-shm", "-journal")))


def _has_commits(place: Path) -> bool:
    """Return whether a folder is the root of a repository with something in it; a new one has nothing to archive."""
    git = place / ".git"
    if git.is_file():
        return True
    heads = git / "refs" / "heads"
    return (git / "packed-refs").is_file() or (heads.is_dir() and any(one.is_file() for one in heads.rglob("*")))


def _shown(path: Path, folder: Path) -> str:
    try:
        return str(path.absolute().relative_to(folder.absolute()))
    except ValueError:
        return str(path.absolute())
