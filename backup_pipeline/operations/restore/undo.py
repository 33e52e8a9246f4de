"""Taking a restore back: what was live before is live again, what was restored is kept aside."""

from __future__ import annotations

from datetime import datetime

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.artefacts.restorer import restorer_named, restorer_of
from backup_pipeline.artefacts.time_limits import within_the_plans_limit
from backup_pipeline.errors import RefusedError, SetNotFoundError
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.restore import RestoreResult
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.restore.records import forget_result, last_to_undo, results, write_result
from backup_pipeline.operations.restore.run import choose
from backup_pipeline.operations.retention.in_use import reading
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.registry import kind_of


def plan_undo(site: Site, plan_name: str, source: str) -> RestoreResult:
    """Return the restore that an undo would take back; RefusedError when there is none."""
    return _last(site, plan_name, source, utc_now())


@within_the_plans_limit("The undo")
def undo_restore(
    site: Site,
    plan_name: str,
    source: str,
    *,
    confirm: str,
    now: datetime | None = None,
    progress: ProgressSink = no_progress,
) -> RestoreResult:
    """Take back the newest restore of a source.

    Args:
        site: the site.
        plan_name: the plan whose set was restored.
        source: the source.
        confirm: the name of what is live (the database's name, or the path).
        now: the present moment, for names.
        progress: receives what is being read.

    Raises:
        RefusedError: nothing to undo, not confirmed, or what was kept is gone: nothing was changed.
    """
    moment = now or utc_now()
    result = _last(site, plan_name, source, moment)
    if confirm != result.undo.live:
        raise RefusedError(
            "The name given as confirmation is not that of what is live.",
            where=f"{plan_name}/{source}",
            remedy=f"Confirm with --confirm {result.undo.live}",
        )
    if result.undo.kind == "rows":
        result = _undo_rows(site, result, progress)
    else:
        restorer_named(result.kind).undo(
            site, result, moment, begin=lambda aside: write_result(site, _begun(result, aside))
        )
    undone = _begun(result, "").model_copy(update={"undone_at": moment})
    write_result(site, undone)
    return undone


def _undo_rows(site: Site, result: RestoreResult, progress: ProgressSink) -> RestoreResult:
    """Take an upsert back with the two sets that say what it wrote. Done twice, it finds nothing to do."""
    place = f"{result.vault}:{result.plan}" if result.vault else result.plan
    emergency = SetId(result.emergency_set)
    try:
        with (
            reading(site, place, result.set_id, "undo") as store,
            reading(site, result.plan, emergency, "undo") as own,
        ):
            restored = choose(site, store, result.set_id, result.source, result.options)
            before = choose(site, own, emergency, result.source, result.options)
            return restorer_named(result.kind).undo_rows(restored, before, result, progress)
    except SetNotFoundError as error:
        raise RefusedError(
            f"What the restore wrote is not known any more: {error.what}",
            where=error.where,
            remedy=f"Go back to the set made just before as a whole: {result.undo.remedy}.",
        ) from None


def _begun(result: RestoreResult, aside: str) -> RestoreResult:
    return result.model_copy(update={"undo": result.undo.model_copy(update={"begun": aside})})


def _last(site: Site, plan_name: str, source: str, now: datetime) -> RestoreResult:
    """Return the restore to undo, once it is known what became of one (or of an undo) that was killed in the swap."""

    def settle(result: RestoreResult) -> RestoreResult | None:
        state = restorer_named(result.kind).state_of_swap(site, result)
        if state == "absent" and result.swapping:
            forget_result(site, result)
            return None
        settled = _begun(result, "").model_copy(
            update={"swapping": False, "undone_at": None if state == "swapped" else now}
        )
        write_result(site, settled)
        return settled

    return last_to_undo(site, plan_name, source, settle)


@within_the_plans_limit("The removal")
def drop_kept(site: Site, plan_name: str, source: str, *, confirm: str) -> tuple[str, ...]:
    """Remove on purpose the databases that restores and undos of a source left beside the live one.

    Args:
        site: the site.
        plan_name: the plan.
        source: a source that is a database.
        confirm: the live database's name.

    Returns:
        Names of the databases that were dropped. Their restores cannot be undone any more.
    """
    kind, configured = kind_of(site, source)
    restorer = restorer_of(artefact for _, artefact in kind.artefacts(configured))
    names = restorer.drop_kept(site, source, confirm)
    for result in results(site, plan_name, source):
        if result.kind == restorer.name and result.undo.kind in ("database", "path") and result.undone_at is None:
            write_result(
                site,
                result.model_copy(
                    update={
                        "undo": result.undo.model_copy(
                            update={"kind": "none", "remedy": f"restore the emergency set {result.emergency_set}"}
                        )
                    }
                ),
            )
    return names
