"""Restores of a fleet's members in Dagster: `<fleet>_restore` and `<fleet>_undo`, one op each for all members.

A job per member would be thousands. The member and the set are in the form instead; a run is tagged with the member as
its plan, so that it waits for none of the others.
"""

# Dagster reads the annotations when the classes are made: none may be postponed here.
import dagster as dg
from pydantic import Field

from backup_pipeline.errors import RefusedError
from backup_pipeline.model.restore import RestorePlan
from backup_pipeline.model.set_id import SetId
from backup_pipeline.orchestration.metadata import failure_of
from backup_pipeline.orchestration.names import (
    PLAN_TAG,
    RESTORE_TAG,
    SET_TAG,
    SOURCE_TAG,
    STEP_TAG,
    fleet_restored_key,
    member_restore_op,
    restore_job_name,
    undo_job_name,
    undo_op,
)
from backup_pipeline.orchestration.restore_assets import (
    NEVER_AGAIN,
    RestoreSubject,
    plan_or_apply,
    report_plan,
    take_back,
)
from backup_pipeline.orchestration.restore_config import RestoreConfig, UndoConfig
from backup_pipeline.orchestration.restore_metadata import result_metadata
from backup_pipeline.orchestration.ui_links import page_link
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.site import Site


class MemberRestoreConfig(RestoreConfig):
    """What the Launchpad asks for."""

    member: str = Field(description="The member's plan, as `backup-pipeline status FLEET` lists it.")
    set_id: str = Field(description="The set, as `backup-pipeline list MEMBER` lists it.")


class MemberUndoConfig(UndoConfig):
    """What the Launchpad asks for."""

    member: str = Field(description="The member's plan.")


def restores_of_members(site: Site, fleet: str) -> list[dg.JobDefinition]:
    """Return the two jobs of a fleet."""
    return [_restore_job(site, fleet), _undo_job(site, fleet)]


def _current_site(site: Site, fleet: str, member: str) -> Site:
    """Return the site with its members as they are listed now.

    Raises:
        dg.Failure: the fleet has no such member.
    """
    site = load_site(site.file)
    found = site.member_of(member)
    if found is None or found[0] != fleet:
        raise failure_of(
            RefusedError(
                f"The fleet has no member {member!r}.",
                where=fleet,
                remedy=f"backup-pipeline status {fleet} lists them.",
            )
        )
    return site


def _restore_job(site: Site, fleet: str) -> dg.JobDefinition:
    @dg.op(name=member_restore_op(fleet), description="Restores the source of a member from one of its sets.")
    def restore(context: dg.OpExecutionContext, config: MemberRestoreConfig) -> None:
        now, member, key = _current_site(site, fleet, config.member), config.member, fleet_restored_key(fleet)
        (source,) = now.plan(member).sources
        place = f"{config.vault}:{member}" if config.vault else member
        tags = {PLAN_TAG: member, SET_TAG: f"{place}/{config.set_id}", SOURCE_TAG: source, STEP_TAG: config.step}
        context.instance.add_run_tags(context.run_id, tags)

        def report(found: RestorePlan) -> None:
            report_plan(context, found, key, member, page_link(now, "restore", "run", context.run_id))

        try:
            result = plan_or_apply(context, now, RestoreSubject(place, SetId(config.set_id), source), config, report)
        except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
            raise failure_of(error) from None
        if result is not None:
            context.instance.add_run_tags(context.run_id, {RESTORE_TAG: result.restore_id})
            context.log_event(dg.AssetMaterialization(key, partition=member, metadata=result_metadata(result)))

    @dg.job(
        name=restore_job_name(fleet),
        tags={PLAN_TAG: fleet, **NEVER_AGAIN},
        description=f"Restore a member of fleet {fleet}: a run with `member` and `set_id` alone shows what would be.",
    )
    def job() -> None:
        restore()

    return job


def _undo_job(site: Site, fleet: str) -> dg.JobDefinition:
    @dg.op(name=undo_op(fleet), description="Makes live again what was live before the newest restore of a member.")
    def undo(context: dg.OpExecutionContext, config: MemberUndoConfig) -> None:
        now = _current_site(site, fleet, config.member)
        context.instance.add_run_tags(context.run_id, {PLAN_TAG: config.member})
        take_back(context, now, config.member, config, fleet)

    @dg.job(
        name=undo_job_name(fleet),
        tags={PLAN_TAG: fleet, **NEVER_AGAIN},
        description=f"Take back the newest restore of a member of fleet {fleet}.",
    )
    def job() -> None:
        undo()

    return job
