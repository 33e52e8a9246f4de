"""Sealing a set: the records are read again, missing or failed ones are named, then the manifest is written."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from backup_pipeline import __version__
from backup_pipeline.artefacts.capture import EarlierSet
from backup_pipeline.errors import ValidationError
from backup_pipeline.model.backup_set import BackupSet
from backup_pipeline.model.command_record import CommandRecord
from backup_pipeline.model.manifest import Draft, Manifest, Purpose
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.model.proof import PROOFS_FOLDER
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.set_id import SetId
from backup_pipeline.model.source_done import SourceDone
from backup_pipeline.rules.data_checks import keeps_from_seal
from backup_pipeline.stores.contract import PlanStore, SetWriter
from backup_pipeline.system.threads import ContextThreadPool

# Hashing releases the interpreter's lock; more threads than this only fight for the disk.
_READERS = 2


class EarlierSets:
    """The sealed sets before the one that is written; each is read once, however many sources ask for it.

    Args:
        store: of the plan.
        before: the set that is written.
    """

    def __init__(self, store: PlanStore, before: SetId) -> None:
        self._store = store
        self._before = before
        self._sealed: dict[SetId, BackupSet] = {}

    def previous_manifest(self, source: str) -> Manifest | None:
        """Return the newest backup that has this source, for checks on collapse and drift."""
        for set_id in reversed(self._store.ids()):
            if set_id < self._before and (manifest := self._backup_of(source, set_id)) is not None:
                return manifest
        return None

    def last_verified(self, source: str) -> EarlierSet | None:
        """Return the newest backup that has this source and was verified or proven.

        None where its artefacts would have to be fetched first: that takes longer than to write them anew.
        """
        if self._store.artefacts_elsewhere:
            return None
        for set_id in reversed(self._store.sealed_ids()):
            # Most sets were never verified, and need not be read to know that.
            if set_id >= self._before or not self._store.path_of(set_id, PROOFS_FOLDER).is_dir():
                continue
            manifest = self._backup_of(source, set_id)
            if manifest is not None and (self._read(set_id).verified or self._read(set_id).proven):
                return EarlierSet(manifest, partial(self._store.open, set_id))
        return None

    def _backup_of(self, source: str, set_id: SetId) -> Manifest | None:
        known = self._read(set_id)
        manifest = known.manifest
        return manifest if manifest and known.purpose is Purpose.BACKUP and source in manifest.sources else None

    def _read(self, set_id: SetId) -> BackupSet:
        known = self._sealed.get(set_id) or self._store.read(set_id)
        if known.manifest is not None:
            self._sealed[set_id] = known
        return known


def reasons_against(draft: Draft, done: Sequence[SourceDone], records: Sequence[ArtefactRecord]) -> list[str]:
    """Return why a set cannot be sealed, as far as its records show; empty when nothing speaks against it.

    Pure: nothing is read here. Every reason names its artefact.
    """
    reasons = []
    captured = {item.source: item for item in done}
    by_key = {record.key: record for record in records}
    for source in draft.sources:
        if source not in captured:
            reasons.append(f"{source} was not captured whole")
            continue
        reasons += [f"{'.'.join(key)} has no record" for key in captured[source].keys if key not in by_key]
    for record in records:
        if record.set_id != draft.set_id:
            reasons.append(f"{record.name} belongs to set {record.set_id}")
        if record.source not in draft.sources:
            reasons.append(f"{record.name} is of a source that this set does not have")
        reasons += [
            f"{record.name}: check {check.name} failed{f' ({check.summary})' if check.summary else ''}"
            for check in record.failed_checks
            if keeps_from_seal(check, draft.purpose)
        ]
    paths = [file.path for record in records for file in record.files]
    reasons += (
        sorted({f"{path} is recorded twice" for path in paths if paths.count(path) > 1})
        if len(set(paths)) < len(paths)
        else []
    )
    if not records:
        reasons.append("nothing was captured")
    return reasons


def seal(
    writer: SetWriter,
    *,
    run_id: str,
    now: datetime,
    environment: str = "",
    progress: ProgressSink = no_progress,
    commands: Sequence[CommandRecord] = (),
) -> Manifest:
    """Seal a set and return its manifest.

    Raises:
        ValidationError: something is missing or wrong; all of it is named, nothing was sealed.
    """
    draft = writer.draft
    records = writer.records()
    reasons = reasons_against(draft, writer.sources_done(), records)
    if not reasons:
        files = [file for record in records for file in record.files]
        total = sum(file.size for file in files)
        read = 0
        with ContextThreadPool(_READERS, "reread") as pool:
            for file, fault in zip(files, pool.map(writer.check_file, files), strict=True):
                read += file.size
                progress(Progress("re-reading the set", read, total, finished=read == total))
                if fault:
                    reasons.append(fault)
    if reasons:
        raise ValidationError(
            f"The set is not sealed: {'; '.join(reasons)}.",
            where=f"{draft.plan}/{draft.set_id}",
            remedy=f"Remove the cause, then complete this set with `backup-pipeline backup {draft.plan} --resume` "
            "(or re-execute from failure in the UI).",
        )
    manifest = Manifest(
        set_id=draft.set_id,
        plan=draft.plan,
        purpose=draft.purpose,
        sources=draft.sources,
        partial=draft.partial,
        started_at=draft.started_at,
        sealed_at=now,
        run_id=run_id,
        root_run_id=draft.root_run_id,
        pipeline_version=__version__,
        environment=environment,
        artefacts=records,
        commands=(*commands, *(each for done in writer.sources_done() for each in done.commands)),
    )
    writer.seal(manifest)
    return manifest
