"""Restoring one source of a set: plan, then apply. What a kind of source needs stands in the files beside this one.

A plan changes nothing. Applying needs the plan's id, so that what was read is what is done, and the target's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.artefacts.time_limits import within_the_plans_limit
from backup_pipeline.errors import RefusedError, SetNotFoundError, ValidationError
from backup_pipeline.model.backup_set import BackupSet, SetState
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.model.restore import RestoreOptions, RestorePlan, RestoreResult
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.retention.in_use import reading
from backup_pipeline.rules.verification import file_problem
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.contract import Store
from backup_pipeline.system.files import sha256_of


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

    def record(self, kind: ArtefactKind) -> ArtefactRecord | None:
        """Return the source's artefact of that kind."""
        return next((record for record in self.records if record.kind is kind), None)

    def open(self, path: str) -> BinaryIO:
        """Open a file of the set."""
        return self.store.open(self.set_id, path)

    def check_files(self, *kinds: ArtefactKind) -> None:
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


def choose(site: Site, store: Store, set_id: SetId, source: str, options: RestoreOptions) -> RestoreSource:
    """Return the source of a set.

    Raises:
        SetNotFoundError: no such set, or it has no such source. RefusedError: the set was never sealed.
        SettingsError: the site has no such source.
    """
    backup = store.read(set_id)
    plan_name = backup.plan
    if backup.state is SetState.DAMAGED or (backup.state is SetState.INCOMPLETE and not options.allow_incomplete):
        raise RefusedError(
            f"The set is {backup.state}{f': {backup.problem}' if backup.problem else ''}.",
            where=f"{plan_name}/{set_id}",
            remedy="Choose a sealed set; an incomplete one can be restored from with --allow-incomplete.",
        )
    records = tuple(record for record in backup.records if record.source == source)
    if not records:
        have = sorted({record.source for record in backup.records})
        raise SetNotFoundError(
            f"The set has nothing of a source {source!r}.",
            where=f"{plan_name}/{set_id}",
            remedy=f"It has: {', '.join(have)}.",
        )
    site.source(source)
    return RestoreSource(site, store, backup, source, options, records)


@within_the_plans_limit("The restore's plan")
def plan_restore(
    site: Site,
    plan_name: str,
    set_id: SetId,
    source: str,
    options: RestoreOptions | None = None,
    *,
    progress: ProgressSink = no_progress,
) -> RestorePlan:
    """Find out what a restore would do. Nothing is changed.

    Args:
        site: the site.
        plan_name: the plan whose store holds the set, or `VAULT:PLAN`.
        set_id: the set.
        source: the source to restore.
        options: how; rebuild with all safeguards by default.
        progress: receives what is being compared.
    """
    with reading(site, plan_name, set_id, "restore") as store:
        selection = choose(site, store, set_id, source, options or RestoreOptions())
        if selection.record(ArtefactKind.POSTGRES_DUMP):
            from backup_pipeline.operations.restore.database import plan_database

            return plan_database(selection, progress=progress)
        from backup_pipeline.operations.restore.files import plan_files

        return plan_files(selection)


@within_the_plans_limit("The restore")
def apply_restore(
    site: Site,
    plan_name: str,
    set_id: SetId,
    source: str,
    options: RestoreOptions | None = None,
    *,
    plan_id: str,
    confirm: str,
    run_id: str = "",
    progress: ProgressSink = no_progress,
    now: datetime | None = None,
) -> RestoreResult:
    """Do what a plan says.

    Args:
        site: the site.
        plan_name: the plan whose store holds the set, or `VAULT:PLAN`.
        set_id: the set.
        source: the source to restore.
        options: the same as those of the plan.
        plan_id: the plan's id; refused when the set, the options or the target are not as they were then.
        confirm: the name that the plan asks for.
        run_id: the Dagster run, for the emergency set.
        progress: receives what is being done.
        now: the present moment, for names.

    Raises:
        RefusedError: not confirmed, changed since, or something speaks against it: nothing was changed.
        ValidationError: the restored copy is not equal to the backup: it was removed, nothing was changed.
        BackupSystemError: as tools and servers say; what was live is live.
    """
    moment = now or utc_now()
    with reading(site, plan_name, set_id, "restore") as store:
        selection = choose(site, store, set_id, source, options or RestoreOptions())
        if selection.record(ArtefactKind.POSTGRES_DUMP):
            from backup_pipeline.operations.restore.database import apply_database as apply
        else:
            from backup_pipeline.operations.restore.files import apply_files as apply
        return apply(selection, plan_id=plan_id, confirm=confirm, run_id=run_id, progress=progress, now=moment)


def check_confirmed(plan: RestorePlan, plan_id: str, confirm: str) -> None:
    """Raise RefusedError unless this very plan was read and its target named, and nothing speaks against it."""
    if plan.reasons_against:
        raise RefusedError(
            f"This restore cannot be applied: {'; '.join(plan.reasons_against)}.",
            where=plan.target,
            remedy="Remove the cause, or choose another way (--upsert, --into).",
        )
    if plan_id != plan.plan_id:
        raise RefusedError(
            f"The plan {plan_id or '(none)'} does not hold any more: the target, the set or the options have changed "
            f"since. The plan is now {plan.plan_id}.",
            where=plan.target,
            remedy="Read the new plan, then apply it. Stop the application first if it goes on writing.",
        )
    if confirm != plan.confirm:
        raise RefusedError(
            "The name given as confirmation is not the target's.",
            where=plan.target,
            remedy=f"Confirm with --confirm {plan.confirm}",
        )
