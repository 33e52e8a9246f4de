"""Putting restored files and folders in the place of the present ones, and back again.

What is new is built beside the target and swapped in by renames; what was there is kept. A note beside the target
(`.<name>.restore.json`) is written before the first rename, so that a later process can undo the swap, and so that one
that was killed in the middle is recognised and healed: either everything of it has happened afterwards, or nothing.

For a target `/data/storage` and a restore at 2026-11-21 02:00:00 UTC:

    /data/.storage.restored-2026-11-21T020000Z     being built
    /data/storage.before-2026-11-21T020000Z        what was there, until you remove it
    /data/storage.undone-…                         what had been restored, after an undo
    /data/.storage.restore.json                    the note

Files are recognised by device and inode, not by name. What is restored, and whether it is right, is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from backup_pipeline.errors import RefusedError
from backup_pipeline.model.set_id import set_id_at
from backup_pipeline.system.file_exchange import replace_keeping
from backup_pipeline.system.file_swap_note import (
    Identity,
    Part,
    Swap,
    SwapNote,
    SwapState,
    note_path,
    read_note,
    replace_last,
    write_note,
)
from backup_pipeline.system.files import sync_folder, translate_os_error
from backup_pipeline.system.locks import hold_lock, require_held


@dataclass(frozen=True)
class Swapped:
    """What a swap or an undo did: the targets, and where what was there is kept (absent where nothing was)."""

    target: Path
    at: datetime
    label: str
    kept: tuple[Path, ...]


def _id(path: Path) -> Identity | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return (status.st_dev, status.st_ino)


def _known_id(path: Path) -> Identity:
    status = path.lstat()
    return (status.st_dev, status.st_ino)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def new_place(target: Path, now: datetime) -> Path:
    """Return where to build what is to be swapped in at `target`."""
    return target.with_name(f".{target.name}.restored-{set_id_at(now)}")


def kept_place(target: Path, now: datetime) -> Path:
    """Return where what is at `target` will be kept."""
    return target.with_name(f"{target.name}.before-{set_id_at(now)}")


@contextlib.contextmanager
def restoring(target: Path, *, now: datetime, wait_seconds: float = 30.0) -> Iterator[tuple[Path, Path]]:
    """Hold the target for one restore; give its real path and the place to build in, removed again when left.

    Heals what an earlier, killed restore left. The place to build in does not exist yet.

    Raises:
        LockError: another process restores this target.
        RefusedError: the target is a mount point or its folder is missing.
    """
    real = target.resolve()
    if not real.parent.is_dir():
        raise RefusedError(
            "The folder that the target is to stand in is missing.", where=str(real.parent), remedy="Make it first."
        )
    if real.is_mount():
        raise RefusedError(
            "The target is a mount point, which cannot be swapped.",
            where=str(real),
            remedy="Restore into another folder, then copy; or mount the volume one level higher.",
        )
    lock = real.with_name(f".{real.name}.restore.lock")
    with hold_lock(lock, purpose=f"restore of {real.name}", wait_seconds=wait_seconds):
        heal(real)
        new = new_place(real, now)
        for left in list(real.parent.iterdir()):
            # Built by a process that was killed before its note; we hold the lock, and nothing is half done.
            if left.name.startswith(f".{real.name}.restored-"):
                remove(left)
        try:
            yield real, new
        finally:
            # Between two renames what was there may stand at this very place.
            if all(entry.state is SwapState.SWAPPED for entry in read_note(real).swaps):
                remove(new)
                for ending in ("-wal", "-shm", "-journal"):
                    remove(_beside(new, ending))


def take_attributes(present: Path, new: Path, *, deep: bool = False) -> None:
    """Give what was built the mode and, as root, the owner of what it is to replace; nothing when nothing is there.

    Args:
        present: the target.
        new: what was built.
        deep: the owner of everything below it too.
    """
    if not present.exists():
        return
    status = present.stat()
    new.chmod(status.st_mode & 0o777)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        for place in (new, *(new.rglob("*") if deep else ())):
            os.chown(place, status.st_uid, status.st_gid, follow_symlinks=False)


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise translate_os_error(error, path) from error


def swap(
    target: Path,
    now: datetime,
    *,
    names: Sequence[str] = (),
    sidecars: tuple[str, ...] = (),
    label: str = "",
) -> Swapped:
    """Swap in what stands at `new_place(target, now)`; what was there is kept.

    Args:
        target: the real path.
        now: of this restore; the same as was given to `restoring`.
        names: when given, only these entries of the folder are swapped (buckets of a root), all or none.
        sidecars: endings of files that belong to what was there (see Part).
        label: what is restored, for people: the set's name.

    Raises:
        StoreError: a rename failed; everything is as it was before.
    """
    require_held(target.with_name(f".{target.name}.restore.lock"))
    top = target.parent
    new, kept = new_place(target, now), kept_place(target, now)
    if missing := [name for name in (names or ("",)) if _id(new / name) is None]:
        raise RefusedError(
            f"Nothing was built for {', '.join(missing) or target.name}.", where=str(new), remedy="Use another set."
        )
    parts = tuple(
        Part(
            target=(target / name).relative_to(top).as_posix(),
            new=(new / name).relative_to(top).as_posix(),
            kept=(kept / name).relative_to(top).as_posix(),
            old_id=_id(target / name),
            new_id=_known_id(new / name),
            sidecars=sidecars,
        )
        for name in (names or ("",))
    )
    note = read_note(target)
    entry = Swap(at=now, label=label, state=SwapState.SWAPPING, parts=parts)
    note = SwapNote(swaps=(*note.swaps, entry))
    write_note(target, note)
    try:
        for part in parts:
            _swap_part(top, part)
    except BaseException as error:
        heal(target)
        if isinstance(error, OSError):
            raise translate_os_error(error, target) from error
        raise
    replace_last(target, note, entry.model_copy(update={"state": SwapState.SWAPPED}))
    sync_folder(top)
    return _reported(target, entry)


def _reported(target: Path, entry: Swap) -> Swapped:
    kept = tuple(target.parent / part.kept for part in entry.parts if part.old_id)
    return Swapped(target, entry.at, entry.label, kept)


def _move_sidecars(part: Part, source: Path, to: Path) -> None:
    for ending in part.sidecars:
        if _id(_beside(source, ending)) and not _id(_beside(to, ending)):
            _beside(source, ending).rename(_beside(to, ending))


def _swap_part(top: Path, part: Part) -> None:
    target, new, kept = top / part.target, top / part.new, top / part.kept
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # First, so that no log of the old file ever stands beside the new one.
    _move_sidecars(part, target, kept)
    if part.old_id is None:
        new.rename(target)
    else:
        replace_keeping(target, new, kept)
    sync_folder(target.parent)


def _roll_back_part(top: Path, part: Part) -> None:
    """Bring a part of a swap that was broken off back to what it was."""
    target, new, kept = top / part.target, top / part.new, top / part.kept
    if part.old_id is None:
        if _id(target) == part.new_id:
            target.rename(new)
        return
    old = next((place for place in (kept, new) if _id(place) == part.old_id), None)
    if old is not None and _id(target) is None:
        old.rename(target)
    elif old is not None and _id(target) == part.new_id:
        replace_keeping(target, old, new if old == kept else kept)
    _move_sidecars(part, kept, target)


def _finish_part(top: Path, part: Part) -> None:
    """Put away what an exchange left at the new one's place, when only the last rename was missing."""
    new, kept = top / part.new, top / part.kept
    if part.old_id and _id(new) == part.old_id:
        new.rename(kept)


def heal(target: Path) -> str:
    """Finish or take back what a killed process left half done; return what was done, "" when nothing was.

    A swap whose parts are all in place is finished; otherwise every part is taken back. An undo is finished.
    """
    note = read_note(target)
    if not note.swaps or note.swaps[-1].state is SwapState.SWAPPED:
        return ""
    entry, top = note.swaps[-1], target.parent
    try:
        if entry.state is SwapState.UNDOING:
            for part in entry.parts:
                _undo_part(top, part)
            replace_last(target, note, None)
            return "an undo that was broken off has been finished"
        if all(_id(top / part.target) == part.new_id for part in entry.parts):
            for part in entry.parts:
                _finish_part(top, part)
            replace_last(target, note, entry.model_copy(update={"state": SwapState.SWAPPED}))
            return "a restore that was broken off has been finished"
        for part in reversed(entry.parts):
            _roll_back_part(top, part)
        replace_last(target, note, None)
        remove(new_place(target, entry.at))
        with contextlib.suppress(OSError):
            kept_place(target, entry.at).rmdir()
        return "a restore that was broken off has been taken back"
    except OSError as error:
        raise translate_os_error(error, target) from error


def is_swapped(target: Path, at: datetime) -> bool:
    """Return whether a restore of that moment is in place, after healing one that was killed in the middle.

    Raises:
        LockError: another process restores this target.
    """
    real = target.resolve()
    with hold_lock(real.with_name(f".{real.name}.restore.lock"), purpose=f"inspection of {real.name}", wait_seconds=0):
        heal(real)
        return any(entry.at == at for entry in read_note(real).swaps)


def undo(target: Path, *, now: datetime, wait_seconds: float = 30.0) -> Swapped:
    """Take back the newest restore of a target: what was kept stands there again, what was restored is kept instead.

    Raises:
        RefusedError: there is nothing to undo, or what was kept is gone.
        LockError: another process restores this target.
    """
    real = target.resolve()
    lock = real.with_name(f".{real.name}.restore.lock")
    with hold_lock(lock, purpose=f"undo of {real.name}", wait_seconds=wait_seconds):
        heal(real)
        note = read_note(real)
        if not note.swaps:
            raise RefusedError("There is no restore to undo.", where=str(real), remedy="")
        entry, top = note.swaps[-1], real.parent
        gone = [part.kept for part in entry.parts if part.old_id and _id(top / part.kept) is None]
        if gone:
            raise RefusedError(
                f"What was there before is gone: {', '.join(gone)}.",
                where=str(top),
                remedy=f"Bring it back to that place, or delete {note_path(real).name} to forget the restore.",
            )
        aside = real.with_name(f"{real.name}.undone-{set_id_at(now)}")
        parts = tuple(
            part.model_copy(
                update={
                    "aside": (aside / Path(part.target).relative_to(real.name)).relative_to(top).as_posix(),
                    "old_id": _id(top / part.kept) if part.old_id else None,
                }
            )
            for part in entry.parts
        )
        entry = entry.model_copy(update={"state": SwapState.UNDOING, "parts": parts})
        note = replace_last(real, note, entry)
        try:
            for part in parts:
                _undo_part(top, part)
        except OSError as error:
            raise translate_os_error(error, real) from error
        replace_last(real, note, None)
        with contextlib.suppress(OSError):
            kept_place(real, entry.at).rmdir()
        sync_folder(top)
        restored = tuple(top / part.aside for part in parts if _id(top / part.aside))
        return Swapped(real, entry.at, entry.label, restored)


def _undo_part(top: Path, part: Part) -> None:
    """Take back one part; may be called again after it was broken off anywhere."""
    target, kept, aside = top / part.target, top / part.kept, top / part.aside
    aside.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if part.old_id is None:
        if _id(target) and not _id(aside):
            _move_sidecars(part, target, aside)
            target.rename(aside)
    elif _id(kept) == part.old_id:
        _move_sidecars(part, target, aside)
        if _id(target):
            replace_keeping(target, kept, aside)
        else:
            kept.rename(target)
    elif _id(kept):
        kept.rename(aside)
    _move_sidecars(part, kept, target)
    sync_folder(target.parent)
