"""The protocol of restorers: plan, apply, undo and drill of what a set holds of one source.

Which restorer a source has follows from the types of its artefacts in the set (`ArtefactType.restorer`), for the source
may have left the settings since. Sources whose types name none are restored as files (`sources.file_restore`).
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, ClassVar, Literal, Protocol

from backup_pipeline.artefacts.drilling import DrillArea, Drills, SealedPart
from backup_pipeline.artefacts.types import artefact_types
from backup_pipeline.errors import ChangedPlanError, RefusedError, ValidationError
from backup_pipeline.model.backup_set import BackupSet
from backup_pipeline.model.changed_rows import ChangedRows, RowsView
from backup_pipeline.model.progress import ProgressSink
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.restore import RestoreOptions, RestorePlan, RestoreResult
from backup_pipeline.model.set_id import SetId
from backup_pipeline.rules.environment import EnvironmentFault
from backup_pipeline.rules.verification import file_problem
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.contract import Store
from backup_pipeline.system.files import sha256_of

_FILES = "backup_pipeline.sources.file_restore:FileRestorer"


@dataclass(frozen=True)
class RestoreSource:
    """A source of a set, ready to be restored."""

    site: Site
    store: Store
    backup: BackupSet
    source: str
    options: RestoreOptions
    records: tuple[ArtefactRecord, ...]

    @property
    def plan_name(self) -> str:
        """The plan."""
        return self.backup.plan

    @property
    def set_id(self) -> SetId:
        """The set."""
        return self.backup.set_id

    def record(self, kind: str) -> ArtefactRecord | None:
        """Return the source's artefact of that type."""
        return next((record for record in self.records if record.kind == kind), None)

    def open(self, path: str) -> BinaryIO:
        """Open a file of the set."""
        return self.store.open(self.set_id, path)

    def check_files(self, *kinds: str) -> None:
        """Read the artefacts' files again; ValidationError naming every one that is not what was sealed."""
        sizes = dict(self.store.files(self.set_id))
        wrong = []
        for record in self.records:
            if kinds and record.kind not in kinds:
                continue
            for file in record.files:
                problem = file_problem(file, sizes.get(file.path), None)
                if not problem:
                    with self.open(file.path) as stream:
                        problem = file_problem(file, *sha256_of(stream))
                if problem:
                    wrong.append(f"{file.path} {problem}")
        if wrong:
            raise ValidationError(
                f"The set is damaged: {'; '.join(wrong)}.",
                where=f"{self.plan_name}/{self.set_id}",
                remedy="Restore from another set; backup-pipeline verify --all shows which are whole.",
            )


class RestoreJournal(Protocol):
    """What a restore leaves beside the sets: the set of what was live before, and the way back."""

    def emergency_set(self) -> SetId:
        """Capture the source as it is now into a sealed set.

        Raises:
            RefusedError: it could not be captured or sealed; the restore must not go on.
        """

    def keep(self, result: RestoreResult) -> RestoreResult:
        """Store a result so that `undo` finds it; with a warning where the store is read-only."""

    def forget(self, result: RestoreResult) -> None:
        """Remove a result: of a swap that did not happen."""

    def earlier(self) -> list[RestoreResult]:
        """Return the restores of this source, oldest first."""


@dataclass(frozen=True)
class Application:
    """A plan that is applied.

    Attributes:
        plan_id: of the plan that was read.
        confirm: the name that was given as confirmation.
        journal: takes what is to be found again.
        progress: receives what is being done.
        now: names what is kept.
    """

    plan_id: str
    confirm: str
    journal: RestoreJournal
    progress: ProgressSink
    now: datetime

    def check(self, plan: RestorePlan) -> None:
        """Raise RefusedError unless this very plan was read and its target named, and nothing speaks against it."""
        if plan.reasons_against:
            raise RefusedError(
                f"This restore cannot be applied: {'; '.join(plan.reasons_against)}.",
                where=plan.target,
                remedy="Remove the cause, or choose another way (--upsert, --into).",
            )
        if self.plan_id != plan.plan_id:
            raise ChangedPlanError(
                f"The plan {self.plan_id or '(none)'} does not hold any more: the target, the set or the options have "
                f"changed since. The plan is now {plan.plan_id}.",
                where=plan.target,
                remedy="Read the new plan, then apply it. Stop the application first if it goes on writing.",
            )
        if self.confirm != plan.confirm:
            raise RefusedError(
                "The name given as confirmation is not the target's.",
                where=plan.target,
                remedy=f"Confirm with --confirm {plan.confirm}",
            )

    def begun(self, selection: RestoreSource, plan: RestorePlan, kind: str) -> RestoreResult:
        """Return the result of a restore that has just begun; `kind` is the restorer's name."""
        return RestoreResult(
            restore_id=f"{self.now:%Y-%m-%dT%H%M%SZ}-{selection.source}",
            plan_id=plan.plan_id,
            set_id=selection.set_id,
            plan=selection.plan_name,
            source=selection.source,
            kind=kind,
            options=selection.options,
            target=plan.target,
            restored=plan.target,
            started_at=self.now,
            finished_at=self.now,
            warnings=plan.warnings,
        )


@dataclass(frozen=True)
class PlannedDrill:
    """A drill that a plan of the site asks for.

    Attributes:
        plan: the plan.
        source: one of its sources.
        newest: what its newest set holds of it; None where there is none.
    """

    plan: str
    source: str
    newest: SealedPart | None


class Restorer(ABC):
    """How sources of one sort are brought back, as a whole. A class without state.

    Attributes:
        name: kept in the results of restores (`RestoreResult.kind`), so that an undo finds its restorer.
    """

    name: ClassVar[str]

    @abstractmethod
    def plan(self, selection: RestoreSource, progress: ProgressSink) -> RestorePlan:
        """Find out what a restore would do. Nothing is changed.

        The plan's id is a digest of the set, the options and the target as it is now; `confirm` names the target.
        """

    @abstractmethod
    def apply(self, selection: RestoreSource, application: Application) -> RestoreResult:
        """Do what a plan says.

        The plan is made again and checked by `Application.check`, under a lock of the target. What is live is kept, and
        a result is kept in the journal before it is replaced, so that an undo finds the way back from a killed restore.

        Raises:
            RefusedError: as `Application.check`, or something speaks against it: nothing was changed.
            ValidationError: what was restored is not equal to the backup: it was removed, nothing was changed.
        """

    @abstractmethod
    def state_of_swap(self, site: Site, result: RestoreResult) -> Literal["swapped", "absent"]:
        """Return what became of a restore, or of its undo, whose process was killed while it replaced what was live.

        Raises:
            LockError: a restore of this target is running.
        """

    @abstractmethod
    def undo(self, site: Site, result: RestoreResult, now: datetime, begin: Callable[[str], None]) -> None:
        """Make live again what was live before a restore; what was restored is kept aside.

        Args:
            site: the site.
            result: the restore.
            now: names what is kept aside.
            begin: called before anything is changed, with the name that what had been restored gets, or "yes".
        """

    def undo_rows(
        self, restored: RestoreSource, before: RestoreSource, result: RestoreResult, progress: ProgressSink
    ) -> RestoreResult:
        """Put back what an upsert replaced, and remove what it added; return the result with what was done.

        Args:
            restored: what was restored.
            before: what was captured just before.
            result: the restore.
            progress: receives what is being read.

        Raises:
            RefusedError: it cannot be taken back row by row: nothing was changed.
        """
        raise RefusedError("This restore wrote no rows.", where=result.restore_id, remedy=result.undo.remedy)

    def changed_rows(self, selection: RestoreSource, table: str, view: RowsView) -> ChangedRows:
        """Return a page of the rows of a table (`schema.table`) that the restore would add or replace.

        Raises:
            RefusedError: it brings back no single rows.
        """
        raise RefusedError("This restore is of no single rows.", where=f"{selection.source} {table}")

    @abstractmethod
    def drills(self, area: DrillArea) -> Drills:
        """Return the drills of a set's sources in a scratch area."""

    def inspected_by_drill(self, record: ArtefactRecord) -> bool:
        """Return whether its drills inspect an artefact's structure as they read it, as `types.inspect` would."""
        return False

    def drop_kept(self, site: Site, source: str, confirm: str) -> tuple[str, ...]:
        """Remove what restores and undos left beside what is live; return its names.

        Raises:
            RefusedError: not confirmed, or they leave nothing that this removes.
        """
        raise RefusedError("Not a database.", where=source, remedy="Only databases leave others beside them.")

    def scratch_bytes(self, part: SealedPart) -> int:
        """Return the bytes that a drill of a source takes in the scratch area, estimated from the set."""
        known = artefact_types()
        factors = {record.key: known[record.kind].scratch_factor for record in part.records if record.kind in known}
        return sum(factors.get(record.key, 4) * record.size for record in part.records)

    def drill_faults(self, site: Site, planned: Sequence[PlannedDrill]) -> Iterable[EnvironmentFault]:
        """Yield what keeps planned drills from being carried out on this machine; nothing is started."""
        return ()


def _load(place: str) -> Restorer:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)()  # type: ignore[no-any-return]


def restorer_of(kinds: Iterable[str]) -> Restorer:
    """Return the restorer of a source whose artefacts are of these types: the first that names one, else of files."""
    known = artefact_types()
    places = (known[kind].restorer for kind in kinds if kind in known)
    return _load(next((place for place in places if place), _FILES))


def restorer_named(name: str) -> Restorer:
    """Return a restorer by its name, as the result of a restore has it; a built-in one is never replaced.

    Raises:
        RefusedError: nothing that is installed brings it.
    """
    places = dict.fromkeys(found.restorer for found in artefact_types().values() if found.restorer)
    for restorer in map(_load, (_FILES, *places)):
        if restorer.name == name:
            return restorer
    raise RefusedError(
        f"Nothing here knows restores of kind {name}.",
        where="the restore's result in the store",
        remedy="Install the package that brings this kind of source.",
    )
