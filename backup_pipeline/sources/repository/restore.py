"""Restore of a git repository: from its bundle (all history) or its ZIP (the files of HEAD), then swapped in.

With `.env` where it was captured; volumes only where a place is named for each. Hooks and the configuration of the old
repository are not in a backup; remotes are set without credentials. Undo is `system.file_swap.undo`, for each volume
its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from backup_pipeline.archives.unpack import Limits, Unpacked, unpack_zip
from backup_pipeline.artefacts.tree_restore import OpenFile, unpack_record
from backup_pipeline.artefacts.types import FilesRestore, RestoredFiles
from backup_pipeline.errors import RefusedError, ValidationError
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.sources.repository.git_bundle import check_out, head_commit, push_stash, set_refs, set_remotes
from backup_pipeline.sources.repository.git_refs import KEPT, STASH
from backup_pipeline.sources.repository.inspect import open_bundle, written_name
from backup_pipeline.system.file_swap import restoring, swap, take_attributes

_ENV = Path("env/.env")
_ZIP_RATIO = 1100
"""Deflate cannot shrink further than 1032 : 1; a ZIP that promises more is a bomb."""


def restore(restore: FilesRestore) -> RestoredFiles:
    """Restore a repository, with its `.env` where that was captured; see `restore_repository`."""
    extras = next((record for record in restore.records if record.key[-1] == "extras"), None)
    return restore_repository(restore.open_file, restore.record, restore.target, now=restore.now, extras=extras)[0]


def drill(restore: FilesRestore) -> RestoredFiles:
    """Restore a bundle or a ZIP into an empty place; what was captured beside it is drilled for itself."""
    return restore_repository(restore.open_file, restore.record, restore.target, now=restore.now)[0]


def restore_repository(
    open_file: OpenFile,
    record: ArtefactRecord,
    target: Path,
    *,
    now: datetime,
    extras: ArtefactRecord | None = None,
    volumes: Mapping[str, Path] | None = None,
    wait_seconds: float = 30.0,
) -> tuple[RestoredFiles, ...]:
    """Restore a repository to `target`; the first result is the repository's, the others the volumes'.

    Args:
        open_file: opens a file of the set.
        record: the bundle's (history and working tree) or the ZIP's (files only).
        target: the folder; what is there is kept beside it.
        now: of this restore; names the kept folders.
        extras: the record of `.env` and volumes, where they were captured.
        volumes: where to restore volumes to, by the names in the extras' record; others are not restored.
        wait_seconds: how long to wait for another restore of this target.

    Raises:
        ValidationError: damaged or unsafe; nothing was put in place.
        RefusedError: a volume of that name was not captured, or a target is a mount point.
        LockError: another restore of this target is running.
    """
    wanted = dict(volumes or {})
    captured = extras.details.get("volumes") if extras else None
    known = captured if isinstance(captured, dict) else {}
    if unknown := sorted(wanted.keys() - known.keys()):
        raise RefusedError(
            f"These volumes were not captured: {', '.join(unknown)}.",
            where=record.name,
            remedy=f"The set has: {', '.join(sorted(known)) or 'none'}.",
        )
    with restoring(target, now=now, wait_seconds=wait_seconds) as (real, new):
        if record.kind is ArtefactKind.REPOSITORY_BUNDLE:
            unpacked = _from_bundle(open_file, record, new)
        else:
            unpacked = _from_archive(open_file, record, new)
        results: list[RestoredFiles] = []
        notes: tuple[str, ...] = ()
        if extras is not None:
            side = new.with_name(f"{new.name}-extras")
            shutil.rmtree(side, ignore_errors=True)
            try:
                notes = unpack_record(open_file, extras, side).notes()
                if (side / _ENV).is_file():
                    shutil.copyfile(side / _ENV, new / ".env")
                    (new / ".env").chmod(0o600)
                results = [
                    _restore_volume(side / "volumes" / name, place, record, now, wait_seconds)
                    for name, place in wanted.items()
                ]
            finally:
                shutil.rmtree(side, ignore_errors=True)
        take_attributes(real, new, deep=True)
        done = swap(real, now, label=record.set_id)
    notes += tuple(f"{path} is a link; it was written as a file that holds its target" for path in unpacked.links)
    return (RestoredFiles(done.target, done.kept, unpacked.files, unpacked.bytes, notes), *results)


def _from_bundle(open_file: OpenFile, record: ArtefactRecord, new: Path) -> Unpacked:
    bare = record.details.get("bare") is True
    refs = {
        # Sets of earlier versions hold the HEAD of a linked worktree under a name that is no reference's.
        name if name == "HEAD" or name.startswith("refs/") else f"{KEPT}{name}": target
        for name, target in open_bundle(open_file, record, new, bare=bare).items()
    }
    stashes = _stashes(record, refs)
    own = {name: target for name, target in refs.items() if name not in {stash["ref"] for stash in stashes}}
    symbolic = record.details.get("symbolic")
    set_refs(
        new,
        own,
        head_ref=_head_ref(record, refs),
        symbolic={str(name): str(target) for name, target in symbolic.items()} if isinstance(symbolic, dict) else {},
    )
    for stash in reversed(stashes):
        push_stash(
            new, stash["commit"], message=stash["message"], name=stash["name"], email=stash["email"], date=stash["date"]
        )
    remotes = record.details.get("remotes")
    set_remotes(new, {name: str(url) for name, url in remotes.items()} if isinstance(remotes, dict) else {})
    if not bare and head_commit(new):
        check_out(new)
    if (found := head_commit(new)) != record.details.get("commit"):
        raise ValidationError(f"HEAD is at {found}.", where=record.files[0].path, remedy="Use another set.")
    files = [
        path for path in new.rglob("*") if path.is_file() and not bare and path.relative_to(new).parts[0] != ".git"
    ]
    return Unpacked(len(files), sum(path.stat().st_size for path in files))


def _head_ref(record: ArtefactRecord, refs: Mapping[str, str]) -> str | None:
    """Return the full name of the branch that HEAD names; None where it was detached."""
    if (known := record.details.get("head_ref")) is not None:
        return next((name for name in refs if written_name(name) == known), str(known))
    if not (branch := record.details.get("branch")):
        return None
    # Earlier versions kept the shortest name that was not ambiguous: `heads/main` beside a tag `main`.
    candidates = (f"refs/heads/{branch}", f"refs/{branch}")
    return next((name for name in candidates if name in refs), candidates[0])


def _stashes(record: ArtefactRecord, refs: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the stashes of a bundle, the newest first; the one of earlier versions has only its commit."""
    listed = record.details.get("stashes")
    if isinstance(listed, list):
        stashes = [{str(name): str(value) for name, value in each.items()} for each in listed if isinstance(each, dict)]
        return [stash for stash in stashes if refs.get(stash.get("ref", "")) == stash.get("commit")]
    commit = refs.get(STASH)
    blank = {"message": "stash", "name": "", "email": "", "date": ""}
    return [{"ref": STASH, "commit": commit, **blank}] if commit else []


def _from_archive(open_file: OpenFile, record: ArtefactRecord, new: Path) -> Unpacked:
    files, size = record.details.get("files"), record.details.get("bytes")
    file = record.files[0]
    limits = Limits(
        files if isinstance(files, int) else 1_000_000,
        size if isinstance(size, int) else file.size * _ZIP_RATIO,
    )
    with open_file(file.path) as archive:
        return unpack_zip(archive, file.path, new, limits)


def _restore_volume(
    source: Path, target: Path, record: ArtefactRecord, now: datetime, wait_seconds: float
) -> RestoredFiles:
    with restoring(target, now=now, wait_seconds=wait_seconds) as (real, new):
        shutil.copytree(source, new, symlinks=True)
        files = [path for path in new.rglob("*") if path.is_file()]
        done = swap(real, now, label=record.set_id)
    return RestoredFiles(done.target, done.kept, len(files), sum(path.stat().st_size for path in real.rglob("*")))
