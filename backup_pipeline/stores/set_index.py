"""Index of the sealed sets of a store: what listing needs of each, so that thousands of manifests are not read again.

Only ever a cache: a set counts as indexed while its manifest, its proofs folder and the files in it have the inode,
size, modification and change time of when they were read; everything else is read. An index that is missing, damaged,
of another form or another user's is not used, and made anew where the store may be written. What is trusted, and what
never reads it, stands in docs/decisions/0016.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from backup_pipeline.errors import BackupSystemError, SetNotFoundError
from backup_pipeline.model.backup_set import BackupSet, SetState
from backup_pipeline.model.base import Frozen
from backup_pipeline.model.indexed_set import IndexedSet, KnownSet, indexed
from backup_pipeline.model.manifest import MANIFEST_NAME
from backup_pipeline.model.proof import PROOFS_FOLDER
from backup_pipeline.stores.contract import PlanStore
from backup_pipeline.system.files import open_ordinary, write_atomically

_VERSION = b"backup-pipeline index 3"
_LARGEST = 64 << 20
"""Bytes of an index; of a store that would need more the oldest sets are read each time."""
_SETTLED_SECONDS = 60.0
"""A file that was changed less than this before it was read may change again within one tick of the clock."""
_WORTH_WRITING = 20
_SHARE_WORTH_WRITING = 50
_OTHERS_MAY_WRITE = 0o022
_LARGEST_KEPT = 16 << 20
"""Bytes of an index whose entries a process keeps; in memory they take several times as much."""

_Mark = tuple[int, int, int, int]
"""Inode, size, modification and change time in nanoseconds."""
_NOT_THERE: _Mark = (0, 0, 0, 0)


class _Entry(Frozen):
    """An indexed set, and the marks of the files that it was read from, by path in the set."""

    marks: dict[str, _Mark]
    known: IndexedSet


_ENTRIES = TypeAdapter(dict[str, _Entry])
_KEPT: dict[Path, tuple[_Mark, dict[str, _Entry]]] = {}
"""What was read of an index, for as long as its file is the same: a server lists a store at every page."""


def index_name(plan: str) -> str:
    """Return the name of the index beside the sets of a plan."""
    return f".index.{plan}.json"


def listed_sets(store: PlanStore, *, settled_seconds: float = _SETTLED_SECONDS) -> list[KnownSet]:
    """Return every set of a store, oldest first, reading those that the index does not hold as they are now.

    Args:
        store: the store.
        settled_seconds: for how long a set must not have changed to come into the index.

    Raises:
        StoreError: the store cannot be read.
    """
    place = store.folder / index_name(store.plan)
    entries = _read(place, store.plan)
    found: list[KnownSet] = []
    fresh: dict[str, _Entry] = {}
    settled = time.time_ns() - int(settled_seconds * 1e9)
    for set_id in store.ids():
        folder = os.path.join(store.folder, set_id)  # noqa: PTH118 - a path object per file takes longer than the file
        entry = entries.get(set_id)
        if entry is not None and _marks(folder, entry.marks) == entry.marks:
            found.append(entry.known)
            continue
        entries.pop(set_id, None)
        before = _marks_there(folder)
        # Retention may remove a set while this reads.
        with contextlib.suppress(SetNotFoundError):
            known = store.read(set_id)
            found.append(known)
            if _may_be_kept(known, before, settled) and _marks(folder, before) == before:
                fresh[set_id] = _Entry(marks=before, known=indexed(known))
    if len(fresh) >= max(_WORTH_WRITING, len(found) // _SHARE_WORTH_WRITING):
        here = {one.set_id for one in found}
        _write(place, {name: each for name, each in (entries | fresh).items() if name in here}, store.file_mode)
    return found


def _may_be_kept(known: BackupSet, marks: Mapping[str, _Mark], settled: int) -> bool:
    return known.state is SetState.COMPLETE and max(max(changed[2:]) for changed in marks.values()) <= settled


def _mark(path: str) -> _Mark:
    try:
        return _mark_of(os.lstat(path))
    except OSError:
        return _NOT_THERE


def _mark_of(status: os.stat_result) -> _Mark:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _marks(folder: str, names: Mapping[str, _Mark]) -> dict[str, _Mark]:
    return {name: _mark(f"{folder}/{name}") for name in names}


def _marks_there(folder: str) -> dict[str, _Mark]:
    """Return the marks of the manifest, the proofs folder, and what is in it; a later name changes its mark."""
    marks = {name: _mark(f"{folder}/{name}") for name in (MANIFEST_NAME, PROOFS_FOLDER)}
    with contextlib.suppress(OSError), os.scandir(f"{folder}/{PROOFS_FOLDER}") as entries:
        marks |= {f"{PROOFS_FOLDER}/{entry.name}": _mark(entry.path) for entry in entries}
    return marks


def _is_trusted(place: Path, status: os.stat_result) -> bool:
    """Return whether nobody can have written the index who cannot write the store itself."""
    if not hasattr(os, "geteuid"):
        return True
    owners = (os.geteuid(), place.parent.stat().st_uid)
    return status.st_uid in owners and not status.st_mode & _OTHERS_MAY_WRITE


def _read(place: Path, plan: str) -> dict[str, _Entry]:
    """Return the entries of an index; none where there is no index that can be used."""
    try:
        with open_ordinary(place) as file:
            status = os.fstat(file.fileno())
            if status.st_size > _LARGEST or not _is_trusted(place, status):
                return {}
            mark, kept = _mark_of(status), _KEPT.get(place)
            if kept is not None and kept[0] == mark:
                return dict(kept[1])
            data = file.read(_LARGEST)
        head, _, body = data.partition(b"\n")
        if head != _head(body):
            return {}
        entries = _ENTRIES.validate_json(body)
    except (OSError, ValueError, RecursionError):  # pydantic's errors among them
        return {}
    entries = {name: each for name, each in entries.items() if (each.known.set_id, each.known.plan) == (name, plan)}
    if len(data) <= _LARGEST_KEPT:
        _KEPT[place] = mark, entries
    return dict(entries)


def _head(body: bytes) -> bytes:
    return _VERSION + b" " + hashlib.sha256(body).hexdigest().encode()


def _write(place: Path, entries: Mapping[str, _Entry], mode: int) -> None:
    """Write an index; where that is not possible, nothing happens: the sets are read each time."""
    body = b"{" + b",".join(_newest_that_fit(entries)) + b"}"
    with contextlib.suppress(BackupSystemError, OSError):
        write_atomically(place, _head(body) + b"\n" + body, mode=mode & ~_OTHERS_MAY_WRITE)


def _newest_that_fit(entries: Mapping[str, _Entry]) -> Sequence[bytes]:
    texts: list[bytes] = []
    room = _LARGEST - len(_head(b"")) - 3
    for name in sorted(entries, reverse=True):
        text = f'"{name}":{entries[name].model_dump_json(exclude_defaults=True)}'.encode()
        room -= len(text) + 1
        if room < 0:
            break
        texts.append(text)
    return texts
