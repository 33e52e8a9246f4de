"""Restore of files, as folders, repositories and SQLite databases: plan, apply and undo.

The work itself is each artefact type's `restore` and `system.file_swap`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Literal

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.artefacts.drilling import DrillArea, Drills
from backup_pipeline.artefacts.restorer import Application, Restorer, RestoreSource
from backup_pipeline.artefacts.types import FilesRestore, restorable, restore_files
from backup_pipeline.errors import RefusedError
from backup_pipeline.model.manifest import MANIFEST_NAME
from backup_pipeline.model.progress import ProgressSink
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.restore import RestoreMode, RestorePlan, RestoreResult, Undo
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.file_drill import FileDrills
from backup_pipeline.sources.file_selection import selected_files, whole_folder
from backup_pipeline.sources.registry import place_of
from backup_pipeline.system.file_swap import is_swapped
from backup_pipeline.system.file_swap import undo as swap_back

_GUESSED_SPEED = 100_000_000


class FileRestorer(Restorer):
    """Restores a source's files beside what is there, compared with their record, and swaps them in by rename."""

    name: ClassVar[str] = "files"

    def plan(self, selection: RestoreSource, progress: ProgressSink) -> RestorePlan:
        """Find out what a restore would replace."""
        return plan_files(selection)

    def apply(self, selection: RestoreSource, application: Application) -> RestoreResult:
        """Apply a plan; the target is locked while it is swapped."""
        began = time.monotonic()
        plan = plan_files(selection)
        application.check(plan)
        selection.check_files()
        target, now = _target(selection), application.now
        emergency = ""
        record = _main_record(selection)
        only: frozenset[str] = frozenset()
        if selection.options.files:
            # Nothing but these files is touched, and what they replace is kept.
            only = selected_files(selection, record, target).write
        elif plan.exists and not selection.options.skip_emergency_backup:
            emergency = application.journal.emergency_set()
        undo = Undo(kind="path", live=target.name, kept=str(target))
        begun = application.begun(selection, plan, self.name)
        # Written first: a process that is killed in the swap leaves a record, and `undo` finds the way back.
        result = application.journal.keep(
            begun.model_copy(update={"emergency_set": emergency, "undo": undo, "swapping": True})
        )
        try:
            done = restore_files(
                FilesRestore(selection.open, record, selection.records, target, now, application.progress, only)
            )
        except BaseException:
            application.journal.forget(result)
            raise
        numbers = {"seconds": round(time.monotonic() - began, 3), "files": done.files, "bytes": done.bytes}
        return application.journal.keep(
            result.model_copy(
                update={
                    "restored": str(done.target),
                    "finished_at": utc_now(),
                    "warnings": (*result.warnings, *done.notes),
                    "numbers": numbers,
                    "undo": undo.model_copy(update={"kept": str(done.target)}),
                    "swapping": False,
                }
            )
        )

    def state_of_swap(self, site: Site, result: RestoreResult) -> Literal["swapped", "absent"]:
        """Return what became of a swap that was killed; it is healed first."""
        return "swapped" if is_swapped(Path(result.undo.kept), result.started_at) else "absent"

    def undo(self, site: Site, result: RestoreResult, now: datetime, begin: Callable[[str], None]) -> None:
        """Swap back what was there before a restore."""
        begin("yes")
        swap_back(Path(result.undo.kept), now=now)

    def drills(self, area: DrillArea) -> Drills:
        """Return the drills of a set's files."""
        return FileDrills(area)


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
        status = place.lstat()
        digest.update(os.fsencode(place) + f" {status.st_size} {status.st_mtime_ns}\n".encode())
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
    some = selected_files(selection, record, target) if options.files else None
    if some is not None:
        needed = some.bytes
        reasons += some.reasons_against
    manifest = ""
    if selection.backup.manifest:
        with selection.open(MANIFEST_NAME) as file:
            manifest = hashlib.sha256(file.read()).hexdigest()
    found: object = _state(target) if some is None else some.state
    state = [manifest, selection.source, options.model_dump(mode="json"), str(target), found]
    return RestorePlan(
        plan_id=hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16],
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
        tables=some.changes if some is not None else whole_folder(selection, record, target),
        steps=tuple(_steps(selection, target, exists=exists)),
        warnings=_warnings(selection),
        reasons_against=tuple(reasons),
    )


def _steps(selection: RestoreSource, target: Path, *, exists: bool) -> Iterator[str]:
    options = selection.options
    if options.files:
        yield f"unpack the selected files beside {target} and compare each with the record"
        if exists:
            yield f"put them into {target}, one by one; what they replace goes to {target.name}.before-<time>"
            yield "nothing else in the folder is touched"
        else:
            yield f"rename what was unpacked to {target}, which then holds these files only"
        return
    yield f"unpack beside {target} and compare every file with the record"
    if exists and not options.skip_emergency_backup:
        yield f"make an emergency backup set of {target}"
    if exists:
        yield f"rename what is at {target} to {target.name}.before-<time> and the new one to {target.name}"
    else:
        yield f"rename it to {target}"


def _warnings(selection: RestoreSource) -> tuple[str, ...]:
    found = [] if selection.backup.proven or selection.backup.restored else ["this set has not been proven by a drill"]
    broken = selection.backup.manifest.broken_data if selection.backup.manifest else ()
    return (*found, *(f"its data was broken where it came from, and comes back so: {text}" for text in broken))


def _free(target: Path) -> int | None:
    return shutil.disk_usage(target.parent).free if target.parent.is_dir() else None
