"""Backups of another tool that lie where a plan keeps its sets: listed, never counted, never removed."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from backup_pipeline.model.set_id import is_set_id
from backup_pipeline.settings.site import Site

# 20251101_020000, 20250905-0052, 2025-11-01_0200, 2025-11-01T02:00:00: as home-made tools name what they write.
_DATED = re.compile(
    r"(?<!\d)((?:19|20)\d\d)[-_.]?(0[1-9]|1[0-2])[-_.]?([0-2]\d|3[01])(?:[-_T. ]?([01]\d|2[0-3])[-_:.]?([0-5]\d))?"
)
# Re-exports, records of restores, evidence; their modules are not imported, since `list` waits for what they import.
_OURS = {"evidence", "exports", "restores"}
_DEPTH = 2
MOST = 1000


@dataclass(frozen=True, slots=True)
class ForeignBackup:
    """A folder or file of another tool: path below the store, and the time in its name (no zone is known)."""

    path: str
    dated: datetime


def foreign_backups(site: Site, plan: str) -> list[ForeignBackup]:
    """Return what may be backups of another tool in a plan's store and one level below it, oldest first.

    A name with a date makes a backup; at most MOST are inspected. What cannot be read is skipped.
    """
    store = site.store_folder(plan)

    @functools.cache
    def others() -> set[Path]:
        return {site.store_folder(name).resolve() for name in site.settings.plans if name != plan}

    found = []
    for path in _entries(store, others, _DEPTH):
        if dated := _date_in(path.name):
            found.append(ForeignBackup(path.relative_to(store).as_posix(), dated))
            if len(found) == MOST:
                break
    return sorted(found, key=lambda one: (one.dated, one.path))


def _entries(folder: Path, others: Callable[[], set[Path]], depth: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        path = Path(entry.path)
        mine = entry.name.startswith(".") or entry.name in _OURS or is_set_id(entry.name)
        if mine or entry.is_symlink() or path.resolve() in others():
            continue
        yield path
        if depth > 1 and entry.is_dir() and not _date_in(entry.name):
            yield from _entries(path, others, depth - 1)


def _date_in(name: str) -> datetime | None:
    match = _DATED.search(name)
    if match is None:
        return None
    year, month, day, hour, minute = (int(part) if part else 0 for part in match.groups())
    try:
        return datetime(year, month, day, hour, minute)  # noqa: DTZ001 - the other tool's zone is not known
    except ValueError:
        return None
