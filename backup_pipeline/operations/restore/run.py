"""Restoring one source of a set: plan, then apply. How, is the restorer's that the set's artefacts name.

A plan changes nothing. Applying needs the plan's id, so that what was read is what is done, and the target's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.artefacts.restorer import Application, Restorer, RestoreSource, restorer_of
from backup_pipeline.artefacts.time_limits import within_the_plans_limit
from backup_pipeline.errors import RefusedError, SetNotFoundError
from backup_pipeline.model.backup_set import SetState
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.restore import RestoreMode, RestoreOptions, RestorePlan, RestoreResult
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.backup.emergency import make_emergency_set
from backup_pipeline.operations.restore.records import forget_result, keep_result, results
from backup_pipeline.operations.retention.in_use import reading
from backup_pipeline.operations.sites.known_databases import with_databases_of
from backup_pipeline.operations.sites.stores import split_place
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.contract import Store


@dataclass(frozen=True)
class Confirmation:
    """What is given to apply a plan.

    Attributes:
        plan_id: of the plan that was read.
        confirm: the name that it asks for.
        run_id: the Dagster run, for the emergency set.
        now: the present moment, for names; that of the clock when None.
    """

    plan_id: str
    confirm: str
    run_id: str = ""
    now: datetime | None = None


@dataclass(frozen=True)
class _Journal:
    """What a restore leaves in the plan's store."""

    selection: RestoreSource
    run_id: str
    progress: ProgressSink
    vault: str = ""

    def emergency_set(self) -> SetId:
        """Capture the source as it is now into a sealed set."""
        one = self.selection
        return make_emergency_set(one.site, one.plan_name, one.source, run_id=self.run_id, progress=self.progress)

    def keep(self, result: RestoreResult) -> RestoreResult:
        """Store a result."""
        return keep_result(self.selection.site, result.model_copy(update={"vault": self.vault}))

    def forget(self, result: RestoreResult) -> None:
        """Remove a result."""
        forget_result(self.selection.site, result)

    def earlier(self) -> list[RestoreResult]:
        """Return the restores of the source, oldest first."""
        return results(self.selection.site, self.selection.plan_name, self.selection.source)


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
    site = with_databases_of(site, backup.manifest) if backup.manifest else site
    if site.is_server(source):
        names = sorted(each for each in {record.source for record in backup.records} if site.server_of(each) == source)
        raise RefusedError(
            "It stands for the databases of a server, each of which is restored by itself.",
            where=f"{plan_name}/{set_id} {source}",
            remedy=f"Name one of them: {', '.join(names)}.",
        )
    if options.mode is RestoreMode.REBUILD and (options.tables or options.rows or options.where or options.only):
        raise RefusedError(
            "Tables and rows are selected for an upsert only; a rebuild brings everything back.",
            where=f"{plan_name}/{set_id} {source}",
            remedy="Use --upsert (in the UI `mode: upsert`), or select nothing.",
        )
    # Its store keeps the way back, and the emergency set.
    site.plan(plan_name)
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
        plan = _restorer(selection).plan(selection, progress)
        vault = split_place(plan_name)[0] or site.vault_of(plan_name)
        if not vault:
            return plan
        # It is no part of what the plan's id stands for: the same set from elsewhere is the same restore.
        said = f"the set is read from {store.label}"
        return plan.model_copy(update={"warnings": (*plan.warnings, said)})


@within_the_plans_limit("The restore")
def apply_restore(
    site: Site,
    plan_name: str,
    set_id: SetId,
    source: str,
    options: RestoreOptions | None = None,
    *,
    confirmation: Confirmation,
    progress: ProgressSink = no_progress,
) -> RestoreResult:
    """Do what a plan says.

    Args:
        site: the site.
        plan_name: the plan whose store holds the set, or `VAULT:PLAN`.
        set_id: the set.
        source: the source to restore.
        options: the same as those of the plan.
        confirmation: which plan was read, and the name that it asks for; refused when the set, the options or the
            target are not as they were then.
        progress: receives what is being done.

    Raises:
        RefusedError: not confirmed, changed since, or something speaks against it: nothing was changed.
        ValidationError: the restored copy is not equal to the backup: it was removed, nothing was changed.
        BackupSystemError: as tools and servers say; what was live is live.
    """
    moment = confirmation.now or utc_now()
    with reading(site, plan_name, set_id, "restore") as store:
        selection = choose(site, store, set_id, source, options or RestoreOptions())
        journal = _Journal(selection, confirmation.run_id, progress, split_place(plan_name)[0])
        application = Application(confirmation.plan_id, confirmation.confirm, journal, progress, moment)
        return _restorer(selection).apply(selection, application)


def _restorer(selection: RestoreSource) -> Restorer:
    return restorer_of(record.kind for record in selection.records)
