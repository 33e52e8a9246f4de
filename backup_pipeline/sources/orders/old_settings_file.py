"""`.archiv_config.json`, the settings file of home-made order archives: where the database and the archive are.

Two forms are read: flat (`{"db_path": "werkstatt.db", "archive_path": "Archiv"}`) and with sections
(`{"database": {"path": …}, "archive": {"path": …}}`, `{"paths": {"database": …, "archive": …}}`). Relative paths count
from the file's folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backup_pipeline.errors import SettingsError

WORKSHOP_FILE = ".archiv_config.json"
DATABASE_NAME = "werkstatt.db"
_DATABASE = frozenset(
    {
        "db",
        "db_path",
        "db_file",
        "database",
        "database_path",
        "database_file",
        "datenbank",
        "datenbank_pfad",
        "sqlite",
        "sqlite_path",
    }
)
_ARCHIVE = frozenset(
    {
        "archive",
        "archive_path",
        "archive_root",
        "archive_dir",
        "archive_folder",
        "archiv",
        "archiv_path",
        "archiv_pfad",
        "archiv_root",
        "archiv_ordner",
        "archiv_dir",
        "root_path",
        "base_path",
    }
)
_LOG = frozenset(["log", "log_file", "logfile", "log_path"])
# Below a section of one of the names above.
_WITHIN = frozenset(["path", "file", "pfad", "datei", "root", "folder", "ordner", "dir"])
_LARGEST = 1 << 20


@dataclass(frozen=True)
class WorkshopFile:
    """What such a file says. `log` is None where it names no log file."""

    database: Path
    archive: Path
    log: Path | None = None


def is_workshop_file(path: Path) -> bool:
    """Return whether a file is such a settings file, by its name: JSON, and not this program's own settings."""
    return path.suffix == ".json" and path.is_file() and "sources" not in _document(path)


def read_workshop_file(path: Path) -> WorkshopFile:
    """Return what the file says.

    Where it names only the archive, the database is `werkstatt.db` in it; where it names only the database, the archive
    is the database's folder.

    Raises:
        SettingsError: not JSON, or it names neither database nor archive; the fields that it has are named.
    """
    document = _document(path)
    database, archive = _found(document, _DATABASE), _found(document, _ARCHIVE)
    if database is None and archive is None:
        raise SettingsError(
            f"It names neither a database nor an archive; it has: {', '.join(map(str, document)) or 'nothing'}.",
            where=str(path),
            remedy='Write {"db_path": "werkstatt.db", "archive_path": "Archiv"}, or use --db and --archive.',
        )
    folder = path.absolute().parent
    if archive is None:
        assert database is not None
        there = folder / Path(database).expanduser()
        return WorkshopFile(there, there.parent, _log(document, folder))
    root = folder / Path(archive).expanduser()
    known = root / DATABASE_NAME if database is None else folder / Path(database).expanduser()
    return WorkshopFile(known, root, _log(document, folder))


def _document(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise SettingsError("Larger than any settings file.", where=str(path), remedy="Name the right file.")
        found = json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        why = f"Cannot be read: {error.strerror}."
        raise SettingsError(why, where=str(path), remedy="Correct the file or its mode.") from error
    except (ValueError, RecursionError) as error:
        line = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise SettingsError(f"It is not JSON{line}.", where=str(path), remedy="Correct the file.") from error
    if not isinstance(found, dict):
        raise SettingsError("It is not a JSON object.", where=str(path), remedy="Write {…} with names and values.")
    return found


def _found(document: dict[str, Any], names: frozenset[str]) -> str | None:
    for section in _sections(document):
        for name, value in section.items():
            if name.casefold() not in names:
                continue
            if isinstance(value, str) and value.strip():
                return value.strip()
            if isinstance(value, dict):
                for inner, text in value.items():
                    if inner.casefold() in _WITHIN | names and isinstance(text, str) and text.strip():
                        return text.strip()
    return None


def _sections(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield document
    yield from (value for value in document.values() if isinstance(value, dict))


def _log(document: dict[str, Any], folder: Path) -> Path | None:
    named = _found(document, _LOG)
    return None if named is None else folder / Path(named).expanduser()
