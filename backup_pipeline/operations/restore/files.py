"""Restore of files: folders, repositories, SQLite files. Plan and apply; the work and its
undo are `artefacts.tree_restore`, `sources.repository.restore`, `artefacts.sqlite_restore` and `system.file_swap`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Literal

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.artefacts.types import FilesRestore, restorable, restore_files
from backup_pipeline.errors import RefusedError
from backup_pipeline.model.manifest import MANIFEST_NAME
from backup_pipeline.model.progress import ProgressSink
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.restore import RestoreMode, RestorePlan, RestoreResult, Undo
from backup_pipeline.operations.backup.emergency import make_emergency_set
from backup_pipeline.operations.restore.records import forget_result, keep_result
from backup_pipeline.operations.restore.run import RestoreSource, check_confirmed
from backup_pipeline.sources.registry import place_of

_GUESSED_SPEED = 100_000_000


def _target(selection: RestoreSource) -> Path:
    if selection.options.into:
        return selection.site.folder / selection.options.into
    place = place_of(selection.site, selection.source)
    if place is None:
        raise RefusedError(
            "The set holds files of this source, the settings say it is a database.",
            where=selection.source,
            remedy="Restore into a new place with --into.",
        )
    return place


def _main_record(selection: RestoreSource) -> ArtefactRecord:
    record = restorable(selection.records)
    if record is None:
        raise RefusedError(
            "The set has nothing of this source that can be restored.",
            where=f"{selection.plan_name}/{selection.set_id} {selection.source}",
            remedy="Choose another set.",
        )
    return record


def _state(target: Path) -> str:
    """Return a digest of names, sizes and times of everything at the target; "" when nothing is there."""
    if not os.path.lexists(target):
        return ""
    digest = hashlib.sha256()
    status = target.lstat()
    digest.update(f"{status.st_dev} {status.st_ino}".encode())
    places = [target] if not target.is_dir() else sorted(target.rglob("*"))
    for place in places:
        seen = place.lstat()
        digest.update(os.fsencode(place) + f" {seen.st_size} {seen.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def plan_files(selection: RestoreSource) -> RestorePlan:
    """Return the plan of restoring files."""
    record, target, options = _main_record(selection), _target(selection), selection.options
    exists = os.path.lexists(target)
    reasons = []
    if options.mode is RestoreMode.UPSERT:
        reasons.append("only databases can be restored row by row; leave --upsert away")
    if options.into and exists:
        reasons.append(f"{target} exists already")
    if not target.parent.is_dir():
        reasons.append(f"the folder {target.parent} is missing")
    content = record.files[0].content_size or record.details.get("bytes")
    needed = content if isinstance(content, int) else record.size
    manifest = ""
    if selection.backup.manifest:
        with selection.open(MANIFEST_NAME) as file:
            manifest = hashlib.sha256(file.read()).hexdigest()
    seen = [manifest, selection.source, options.model_dump(mode="json"), str(target), _state(target)]
    steps = [f"unpack beside {target} and compare every file with the record"]
    if exists and not options.skip_emergency_backup:
        steps.append(f"make an emergency backup set of {target}")
    steps.append(f"rename what is at {target} to {target.name}.before-<time> and the new one to {target.name}"
                 if exists else f"rename it to {target}")  # fmt: skip
    return RestorePlan(
        plan_id=hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16],
        set_id=selection.set_id,
        plan=selection.plan_name,
        source=selection.source,
        options=options,
        target=str(target),
        confirm=target.name,
        exists=exists,
        bytes_needed=needed,
        bytes_free=_free(target),
        seconds=round(0.5 + needed / _GUESSED_SPEED, 1),
        steps=tuple(steps),
        warnings=_warnings(selection),
        reasons_against=tuple(reasons),
    )


def _warnings(selection: RestoreSource) -> tuple[str, ...]:
    found = [] if selection.backup.proven else ["this set has not been proven by a drill"]
    broken = selection.backup.manifest.broken_data if selection.backup.manifest else ()
    return (*found, *(f"its data was broken where it came from, and comes back so: {text}" for text in broken))


def _free(target: Path) -> int | None:
    import shutil

    return shutil.disk_usage(target.parent).free if target.parent.is_dir() else None


def apply_files(
    selection: RestoreSource, *, plan_id: str, confirm: str, run_id: str, progress: ProgressSink, now: datetime
) -> RestoreResult:
    """Apply a plan; see `restore.apply_restore`."""
    began = time.monotonic()
    plan = plan_files(selection)
    check_confirmed(plan, plan_id, confirm)
    selection.check_files()
    target = _target(selection)
    emergency = ""
    if plan.exists and not selection.options.skip_emergency_backup:
        emergency = make_emergency_set(
            selection.site, selection.plan_name, selection.source, run_id=run_id, progress=progress
        )
    result = RestoreResult(
        restore_id=f"{now:%Y-%m-%dT%H%M%SZ}-{selection.source}",
        plan_id=plan.plan_id,
        set_id=selection.set_id,
        plan=selection.plan_name,
        source=selection.source,
        kind="files",
        options=selection.options,
        target=str(target),
        restored=str(target),
        emergency_set=emergency,
        started_at=now,
        finished_at=now,
        warnings=plan.warnings,
        undo=Undo(kind="path", live=target.name, kept=str(target)),
        swapping=True,
    )
    # Written first: a process that is killed in the swap leaves a record, and `undo` finds the way back.
    result = keep_result(selection.site, result)
    try:
        files = FilesRestore(selection.open, _main_record(selection), selection.records, target, now, progress)
        done = restore_files(files)
    except BaseException:
        forget_result(selection.site, result)
        raise
    result = result.model_copy(
        update={
            "restored": str(done.target),
            "finished_at": utc_now(),
            "warnings": (*result.warnings, *done.notes),
            "numbers": {"seconds": round(time.monotonic() - began, 3), "files": done.files, "bytes": done.bytes},
            "undo": Undo(kind="path", live=target.name, kept=str(done.target)),
            "swapping": False,
        }
    )
    return keep_result(selection.site, result)


def state_of_swap(result: RestoreResult) -> Literal["swapped", "absent"]:
    """Return what became of a restore, or of its undo, whose process was killed in the swap; it is healed first.

    Raises:
        LockError: a restore of this target is running.
    """
    from backup_pipeline.system.file_swap import is_swapped

    return "swapped" if is_swapped(Path(result.undo.kept), result.started_at) else "absent"


def undo_files(result: RestoreResult, now: datetime) -> None:
    """Swap back what was there before a restore."""
    from backup_pipeline.system.file_swap import undo

    undo(Path(result.undo.kept), now=now)
