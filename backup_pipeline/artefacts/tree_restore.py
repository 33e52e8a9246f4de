"""Restore of a folder tree from its tarball: unpacked beside, compared, then swapped in. Undo is
`system.file_swap.undo`.

When buckets were captured and the root is there, only these buckets are swapped (all or none); what else stands in the
root is not touched. Otherwise the whole root is swapped.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.archives.file_attributes import attribute_name, read_attributes
from backup_pipeline.archives.tarball import EntryKind, Member, State, shown
from backup_pipeline.archives.tarball_reader import read_listing
from backup_pipeline.archives.unpack import Limits, Unpacked, safe_parts, unpack_tarball
from backup_pipeline.artefacts.types import FilesRestore, RestoredFiles
from backup_pipeline.errors import RefusedError, ValidationError
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.system.file_swap import Swapped, restoring, swap, take_attributes
from backup_pipeline.system.file_system import sync_file_system
from backup_pipeline.system.files import sha256_of

OpenFile = Callable[[str], BinaryIO]
_ROOM = 64 << 20
_NAMED = 10
_TIME_GRAIN = 2_000_000_000  # FAT keeps every second second; only a real difference counts.


def restore(restore: FilesRestore) -> RestoredFiles:
    """Restore a tarball; see `restore_folder`."""
    return restore_folder(restore.open_file, restore.record, restore.target, now=restore.now, progress=restore.progress)


def restore_some(restore: FilesRestore) -> RestoredFiles:
    """Restore only some files of a tarball: into the folder, where what they replace is kept, or as a new folder.

    Raises:
        ValidationError: the tarball is damaged or unsafe; the target is untouched.
        RefusedError: not enough room, or a path leads through a link or a file.
        LockError: another restore of this target is running.
    """
    files = restore.only
    with restoring(restore.target, now=restore.now) as (real, new):
        for path in files:
            if problem := obstacle(real, path):
                raise RefusedError(f"{shown(path)}: {problem}.", where=str(real), remedy="Restore beside it instead.")
        above = {"/".join(parts[:n]) for parts in (path.split("/") for path in files) for n in range(1, len(parts))}
        unpacked = unpack_record(
            restore.open_file, restore.record, new, progress=restore.progress, only=frozenset(files | above)
        )
        if missing := [path for path in files if not (new / path).is_file()]:
            raise ValidationError(
                f"The tarball has no {shown(missing[0])}.", where=restore.record.name, remedy="Use another set."
            )
        if real.is_dir():
            _make_folders_like(new, real, sorted(above))
            done = swap(real, restore.now, names=sorted(files), label=restore.record.set_id)
        else:
            take_attributes(real, new)
            done = swap(real, restore.now, label=restore.record.set_id)
    return reported(done, unpacked, (*_changed_notes(restore.record), *unpacked.notes()))


def obstacle(folder: Path, path: str) -> str:
    """Return why a file cannot be put at a path below a folder, "" when it can.

    Every folder on the way must be one, and no link, which could lead elsewhere.
    """
    parts = safe_parts(path, str(folder))
    for depth in range(1, len(parts)):
        place = folder.joinpath(*parts[:depth])
        if place.is_symlink():
            return f"{shown('/'.join(parts[:depth]))} is a link"
        if place.exists() and not place.is_dir():
            return f"{shown('/'.join(parts[:depth]))} is a file"
    place = folder.joinpath(*parts)
    return "a folder stands there" if place.is_dir() and not place.is_symlink() else ""


def _make_folders_like(new: Path, real: Path, folders: Iterable[str]) -> None:
    """Make the folders that are missing in `real`, with mode and owner as they have in `new`."""
    for path in folders:
        place = real / path
        if place.exists():
            continue
        place.mkdir(mode=0o700)
        status = (new / path).stat()
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            os.chown(place, status.st_uid, status.st_gid)
        place.chmod(stat.S_IMODE(status.st_mode))


def drill(restore: FilesRestore) -> RestoredFiles:
    """Unpack a tarball into an empty place and compare every file; see `unpack_record`."""
    done = unpack_record(restore.open_file, restore.record, restore.target)
    return RestoredFiles(restore.target, (), done.files, done.bytes, done.notes())


def restore_folder(
    open_file: OpenFile,
    record: ArtefactRecord,
    target: Path,
    *,
    now: datetime,
    progress: ProgressSink = no_progress,
    wait_seconds: float = 30.0,
) -> RestoredFiles:
    """Restore a tarball's tree to `target`.

    Args:
        open_file: opens a file of the set.
        record: of kind FOLDER_TARBALL.
        target: the folder; what is there is kept beside it.
        now: of this restore; names the kept folder.
        progress: receives the bytes.
        wait_seconds: how long to wait for another restore of this target.

    Raises:
        ValidationError: the tarball is damaged or unsafe; the target is untouched.
        RefusedError: not enough room, or the target is a mount point.
        LockError: another restore of this target is running.
    """
    with restoring(target, now=now, wait_seconds=wait_seconds) as (real, new):
        unpacked = unpack_record(open_file, record, new, progress=progress)
        take_attributes(real, new)
        buckets = record.details.get("buckets")
        names = [str(name) for name in buckets] if isinstance(buckets, list) and real.is_dir() else []
        done = swap(real, now, names=_outermost(names), label=record.set_id)
    return reported(done, unpacked, (*_changed_notes(record), *unpacked.notes()))


def _outermost(names: list[str]) -> list[str]:
    return [name for name in sorted(set(names)) if not any(name.startswith(f"{other}/") for other in names)]


def reported(done: Swapped, unpacked: Unpacked, notes: tuple[str, ...] = ()) -> RestoredFiles:
    """Return what is reported about a swap."""
    return RestoredFiles(done.target, done.kept, unpacked.files, unpacked.bytes, notes)


def _changed_notes(record: ArtefactRecord) -> tuple[str, ...]:
    changed = record.details.get("changed")
    return tuple(f"{path} changed while it was captured" for path in changed) if isinstance(changed, list) else ()


def unpack_record(
    open_file: OpenFile,
    record: ArtefactRecord,
    into: Path,
    *,
    progress: ProgressSink = no_progress,
    only: frozenset[str] | None = None,
) -> Unpacked:
    """Unpack a tarball into the new folder `into`, read every file again and compare; then all of it is on the disk.

    Args:
        open_file: opens a file of the set.
        record: of kind FOLDER_TARBALL.
        into: the new folder.
        progress: receives the bytes.
        only: the paths of what is unpacked, files and the folders above them; everything when None.

    Raises:
        ValidationError: damaged or unsafe, or what was written is not what the listing says.
        RefusedError: not enough room.
    """
    if len(record.files) != 2:
        raise ValidationError(
            "The record does not name a tarball and its listing.", where=record.name, remedy="Use another set."
        )
    tarball, listing = (file.path for file in record.files)
    total, members = _number(record, "bytes"), _number(record, "members")
    on_disk = record.details.get("allocated_bytes")
    if only is not None:
        with open_file(listing) as lines:
            on_disk = sum(member.size for member in read_listing(lines, listing) if member.path in only)
    check_room(into.parent, on_disk if isinstance(on_disk, int) else total)
    with open_file(tarball) as archive, open_file(listing) as lines:
        unpacked = unpack_tarball(
            archive,
            tarball,
            read_listing(lines, listing),
            into,
            Limits(members, total, only),
            owners=hasattr(os, "geteuid"),
            progress=lambda done: progress(Progress(record.name, done, total)),
        )
    progress(Progress(record.name, total, total, finished=True))
    with open_file(listing) as lines:
        problems = [
            f"{each.subject} {each.problem}"
            for each in compare_folder(
                into,
                (member for member in read_listing(lines, listing) if only is None or member.path in only),
                unpacked.lost,
            )
        ]
    if problems:
        raise ValidationError(
            f"{len(problems)} restored files are not the captured ones: {'; '.join(problems[:_NAMED])}.",
            where=tarball,
            remedy="Check the disk, or use another set.",
        )
    _sync(into)
    return unpacked


def _number(record: ArtefactRecord, name: str) -> int:
    value = record.details.get(name)
    if not isinstance(value, int):
        raise ValidationError(f"The record does not say its {name}.", where=record.name, remedy="Use another set.")
    return value


def check_room(folder: Path, needed: int) -> None:
    """Raise RefusedError when `needed` bytes do not fit beside the target."""
    free = shutil.disk_usage(folder).free
    if free < needed + _ROOM:
        raise RefusedError(
            f"Not enough room: {needed / 1e6:,.0f} MB are needed beside what is there, {free / 1e6:,.0f} MB are free.",
            where=str(folder),
            remedy="Free space, or restore to another place.",
        )


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not sync_file_system(descriptor) and hasattr(os, "sync"):
            os.sync()
    finally:
        os.close(descriptor)


def compare_folder(
    folder: Path, listing: Iterable[Member], lost: Mapping[str, list[str]] | None = None
) -> Iterator[Finding]:
    """Yield what of a folder differs from a listing: missing, other size, time, mode, attributes or content, or more.

    Args:
        folder: what was unpacked.
        listing: what went into the tarball.
        lost: what could not be set → paths; it is not compared there.
    """
    files = 0
    except_for: dict[str, set[str]] = {}
    for what, paths in (lost or {}).items():
        for path in paths:
            except_for.setdefault(path, set()).add(what)
    for member in listing:
        if not member.stored or member.state is State.SUPERSEDED:
            continue
        files += member.kind is EntryKind.FILE
        if problem := _difference(folder / member.path, member, except_for.get(member.path, set())):
            yield Finding(subject=shown(member.path), problem=problem)
    present = sum(len(names) for _, _, names in os.walk(folder))
    if present > files:
        yield Finding(subject=str(folder), problem=f"has {present} files, the listing {files}")


def _difference(place: Path, member: Member, except_for: set[str]) -> str:
    try:
        status = place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    if member.kind is EntryKind.FOLDER:
        if not stat.S_ISDIR(status.st_mode):
            return "is not a folder"
        return _other_attributes(place, status, member, except_for)
    if not stat.S_ISREG(status.st_mode):
        return "is not a file"
    if status.st_size != member.size:
        return f"has {status.st_size} bytes instead of {member.size}"
    if abs(status.st_mtime_ns - member.mtime_ns) >= _TIME_GRAIN:
        return "has another time"
    if problem := _other_attributes(place, status, member, except_for):
        return problem
    with place.open("rb", buffering=0) as file:
        digest = sha256_of(file)[1] if member.size else hashlib.sha256().hexdigest()
    return "" if digest == member.sha256 else "has another content"


def _other_attributes(place: Path, status: os.stat_result, member: Member, except_for: set[str]) -> str:
    if os.name != "posix":
        return ""
    if "owner" not in except_for and (status.st_uid, status.st_gid) != (member.uid, member.gid):
        return "has another owner"
    if "mode" not in except_for and (status.st_mode ^ member.mode) & 0o7777:
        return f"has mode {stat.S_IMODE(status.st_mode):04o} instead of {member.mode:04o}"
    kept = tuple(each for each in member.attributes if attribute_name(each[0]) not in except_for)
    if read_attributes(place)[0] != kept:
        return "has other attributes"
    return ""
