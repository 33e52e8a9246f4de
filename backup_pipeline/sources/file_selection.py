"""Single files of a set against the files that are live: which would be put in place, and what stands against it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from backup_pipeline.archives.tarball import shown
from backup_pipeline.artefacts.contents import Entry, contents_of, selected
from backup_pipeline.artefacts.restorer import RestoreSource
from backup_pipeline.artefacts.tree_restore import obstacle
from backup_pipeline.artefacts.types import artefact_type
from backup_pipeline.errors import ValidationError
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.restore import TableChange
from backup_pipeline.system.files import sha256_of

MOST_FILES = 20_000
"""Each file is a rename of its own: more are restored as a whole folder."""
_LISTED = 500
_TIME_GRAIN = 2_000_000_000


@dataclass(frozen=True)
class SelectedFiles:
    """What a restore of single files is about.

    Attributes:
        write: the paths whose files differ from the live ones, or are missing there.
        bytes: their size.
        state: what the plan's id stands for.
        changes: one line per file, the first ones by name, and one for the others.
        reasons_against: why it cannot be done.
    """

    write: frozenset[str]
    bytes: int
    state: list[str]
    changes: tuple[TableChange, ...]
    reasons_against: tuple[str, ...]


def selected_files(selection: RestoreSource, record: ArtefactRecord, target: Path) -> SelectedFiles:
    """Compare the files that the options name with what stands at the target; those of equal content stay."""
    contents = contents_of(record)
    if contents is None or not artefact_type(record.kind).restore_some:
        why = "only files of folders can be restored one by one; this source comes back as a whole"
        return SelectedFiles(frozenset(), 0, [], (), (why,))
    found, unknown = selected(contents.entries(selection.open, record), selection.options.files)
    reasons = [f"{shown(path)} is not in the set" for path in unknown]
    if len(found) > MOST_FILES:
        reasons.append(f"{len(found)} files are selected, {MOST_FILES} at most: restore the whole folder beside it")
        return SelectedFiles(frozenset(), 0, [], (), tuple(reasons))
    write, state, changes, size = set(), [], [], 0
    for path, entry in sorted(found.items()):
        change, problem, mark = _compared(target, entry)
        reasons += [problem] if problem else []
        state.append(f"{path} {mark}")
        changes.append(change)
        if not change.unchanged:
            write.add(path)
            size += entry.size
    if found and not write and not reasons:
        reasons.append("nothing to do: these files are as they were in the backup")
    return SelectedFiles(frozenset(write), size, state, _listed(changes), tuple(reasons))


def _compared(target: Path, entry: Entry) -> tuple[TableChange, str, str]:
    """Return what would become of one file, why it cannot be put there, and a mark of its state."""
    label = shown(entry.path)
    try:
        problem = obstacle(target, entry.path)
    except ValidationError as error:
        return TableChange(table=label, backup=1), error.what, ""
    place = target / entry.path
    try:
        status = place.lstat()
    except OSError:
        return TableChange(table=label, backup=1, insert=1), f"{label}: {problem}" if problem else "", "absent"
    mark = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
    equal = not problem and stat.S_ISREG(status.st_mode) and status.st_size == entry.size and _has(place, entry.sha256)
    change = TableChange(
        table=label, backup=1, target=1, update=int(not equal), unchanged=int(equal), conflicts=int(not equal)
    )
    return change, f"{label}: {problem}" if problem else "", mark


def _has(place: Path, sha256: str) -> bool:
    try:
        with place.open("rb", buffering=0) as file:
            return bool(sha256) and sha256_of(file)[1] == sha256
    except OSError:
        return False


def _listed(changes: list[TableChange]) -> tuple[TableChange, ...]:
    if len(changes) <= _LISTED:
        return tuple(changes)
    rest = changes[_LISTED:]
    return (*changes[:_LISTED], _sum(f"… {len(rest)} more files", rest))


def _sum(label: str, changes: Iterable[TableChange]) -> TableChange:
    every = list(changes)
    return TableChange(
        table=label,
        backup=sum(each.backup for each in every),
        target=sum(each.target for each in every),
        insert=sum(each.insert or 0 for each in every),
        update=sum(each.update or 0 for each in every),
        unchanged=sum(each.unchanged or 0 for each in every),
        conflicts=sum(each.conflicts or 0 for each in every),
    )


def whole_folder(selection: RestoreSource, record: ArtefactRecord, target: Path) -> tuple[TableChange, ...]:
    """Return, by size and time, how many files of a folder a restore of all of it brings, replaces and takes away."""
    contents = contents_of(record)
    if contents is None or not artefact_type(record.kind).restore_some or not target.is_dir():
        return ()
    live = {
        os.fsencode((Path(folder) / name).relative_to(target)): Path(folder) / name
        for root in _roots(record, target)
        for folder, _, names in os.walk(root)
        for name in names
    }
    insert = update = unchanged = 0
    for entry in contents.entries(selection.open, record):
        if entry.kind != "file":
            continue
        place = live.pop(os.fsencode(entry.path), None)
        status = place.lstat() if place else None
        if status is None:
            insert += 1
        elif status.st_size == entry.size and abs(status.st_mtime_ns - (entry.modified_ns or 0)) < _TIME_GRAIN:
            unchanged += 1
        else:
            update += 1
    gone = len(live)
    note = "by size and time"
    return (
        TableChange(
            table="files",
            backup=insert + update + unchanged,
            target=update + unchanged + gone,
            insert=insert,
            update=update,
            unchanged=unchanged,
            only_in_target=gone,
            conflicts=update,
            note=note,
        ),
    )


def _roots(record: ArtefactRecord, target: Path) -> list[Path]:
    """Return the folders that are swapped: the captured buckets, or everything."""
    buckets = record.details.get("buckets")
    return [target / str(name) for name in buckets] if isinstance(buckets, list) and buckets else [target]
