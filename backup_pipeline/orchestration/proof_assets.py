"""What happens to sealed sets, partitioned by set: verification and drill, their jobs and schedules.

A partition that is green in the UI has passed; one that did not pass fails, so that the grid shows which sets are
proven. How a set is verified or drilled stands in `operations`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dagster as dg

from backup_pipeline.model.manifest import Purpose
from backup_pipeline.model.progress import ProgressSink
from backup_pipeline.model.proof import Proof, ProofKind, ProofOutcome
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.orchestration.metadata import failure_of, table_of, with_readable
from backup_pipeline.orchestration.names import (
    COPY,
    COPY_DRILL,
    COPY_VERIFICATION,
    PLAN_TAG,
    SET_TAG,
    manifest_key,
    sets_group,
    sets_partitions,
    stage_key,
)
from backup_pipeline.orchestration.partition_names import known_partitions, partitions_of
from backup_pipeline.orchestration.run_progress import reported_progress
from backup_pipeline.orchestration.selected_partition import selected_set
from backup_pipeline.settings.site import Site

VERIFICATION = "verification"
DRILL = "drill"
CHECK_OF = {ProofKind.VERIFICATION: "verified", ProofKind.DRILL: "proven"}


def proof_metadata(proof: Proof) -> dict[str, Any]:
    """Return what the UI shows of a verification or drill; the numbers are plotted over time."""
    metadata: dict[str, Any] = {
        "set": proof.set_id,
        "passed": proof.passed,
        "covered": len(proof.covered),
        "findings": len(proof.findings),
        "seconds": round((proof.finished_at - proof.started_at).total_seconds(), 3),
        **proof.numbers,
    }
    if proof.missing_here:
        metadata["outcome"] = proof.outcome.value
    for name, found in (
        ("what was found", proof.findings),
        ("what this machine lacks", proof.missing_here),
        ("what could not be inspected", proof.skipped),
    ):
        if found:
            metadata[name] = table_of([{"subject": f.subject, "problem": f.problem, "remedy": f.remedy} for f in found])
    return with_readable(metadata)


def proof_summary(proof: Proof) -> str:
    """Return a proof in one line."""
    if proof.outcome is ProofOutcome.NOT_HERE:
        missing = "; ".join(f"{one.subject}: {one.problem}" for one in proof.missing_here[:3])
        return f"could not be drilled here, which says nothing against the set: {missing}"
    return f"{len(proof.covered)} artefacts inspected, {len(proof.findings)} findings{proof.skipped_text}"


def _not_passed(proof: Proof, name: str, stage: str) -> dg.Failure:
    first = f" First: {proof.findings[0].subject}: {proof.findings[0].problem}." if proof.findings else ""
    return dg.Failure(
        f"Set {name} did not pass its {stage}: {proof_summary(proof)}.{first}",
        metadata=proof_metadata(proof),
        allow_retries=False,
    )


def check_result(proof: Proof, key: dg.AssetKey, check: str) -> dg.AssetCheckResult:
    """Return a verification's or drill's result as that of its check."""
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=check,
        passed=proof.passed,
        severity=dg.AssetCheckSeverity.ERROR,
        description=proof_summary(proof),
        metadata=proof_metadata(proof),
    )


def not_here_event(proof: Proof, key: dg.AssetKey, partition: str) -> dg.AssetObservation:
    """Return why a set could not be drilled here. It neither passed nor failed: the check keeps what it had."""
    text = f"Set {proof.plan}/{proof.set_id} {proof_summary(proof)}"
    return dg.AssetObservation(key, partition=partition, description=text, metadata=proof_metadata(proof))


def proof_asset(
    plan: str,
    stage: str,
    check: str,
    description: str,
    upstream: Sequence[dg.AssetKey],
    prove: Callable[[SetId, str, ProgressSink], Proof],
) -> dg.AssetsDefinition:
    """Return an asset partitioned by set whose partitions are those that passed.

    Args:
        plan: the plan.
        stage: the last part of its key.
        check: its check's name.
        description: for the UI.
        upstream: what it comes after.
        prove: does it for a set and a run's id, and reports its progress.
    """
    key = stage_key(plan, stage)

    @dg.multi_asset(
        name=f"{plan}__{stage}",
        specs=[
            dg.AssetSpec(
                key,
                deps=upstream,
                group_name=sets_group(plan),
                kinds={"check"},
                description=description,
                partitions_def=sets_partitions(plan),
                code_version="1",
                # A set that could not be drilled here is neither proven nor failed: its partition stays as it was.
                skippable=True,
            )
        ],
        check_specs=[dg.AssetCheckSpec(check, asset=key, description=description)],
        # So that the check may have no result, where a set could not be drilled here.
        can_subset=True,
        op_tags={PLAN_TAG: plan},
    )
    def prove_set(context: dg.AssetExecutionContext) -> Iterator[Any]:
        set_id = selected_set(context, plan)
        context.instance.add_run_tags(context.run_id, {SET_TAG: f"{plan}/{set_id}"})
        try:
            proof = prove(set_id, context.run_id, reported_progress(context.log.info))
        except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
            raise failure_of(error) from None
        if proof.outcome is ProofOutcome.NOT_HERE:
            context.log_event(not_here_event(proof, key, context.partition_key))
            return
        yield check_result(proof, key, check)
        if not proof.passed:
            raise _not_passed(proof, f"{plan}/{set_id}", stage)
        if key in context.selected_asset_keys:
            yield dg.MaterializeResult(asset_key=key, metadata=proof_metadata(proof))

    return prove_set


def verification_asset(site: Site, plan: str, vault: str = "") -> dg.AssetsDefinition:
    """Return the verification of a plan's sets, or of their copies in a vault: every file equals the manifest."""

    def prove(set_id: SetId, run_id: str, progress: ProgressSink) -> Proof:
        from backup_pipeline.operations.proof.verify import verify_set

        return verify_set(site, f"{vault}:{plan}" if vault else plan, set_id, run_id=run_id, progress=progress)

    what = (
        f"Every file of the set is read from the vault {vault} and compared with its manifest."
        if vault
        else "Every file of the set is read again and compared with its manifest, and its structure inspected."
    )
    stage = COPY_VERIFICATION + vault if vault else VERIFICATION
    return proof_asset(plan, stage, CHECK_OF[ProofKind.VERIFICATION], what, [_made_by(plan, vault)], prove)


def drill_asset(site: Site, plan: str, vault: str = "") -> dg.AssetsDefinition:
    """Return the drill of a plan's sets, or of their copies in a vault: restored into a scratch server, and equal.

    Copies need the identity that VAULT_IDENTITY_FILE names.
    """

    def prove(set_id: SetId, run_id: str, progress: ProgressSink) -> Proof:
        from backup_pipeline.operations.proof.drill import drill_set

        return drill_set(site, f"{vault}:{plan}" if vault else plan, set_id, run_id=run_id, progress=progress)

    what = (
        f"The set is read from the vault {vault}, restored into a scratch server and compared. Only then its copy is "
        "proven."
        if vault
        else "The set is restored for real into a scratch server and compared, table by table. Only then it is proven."
    )
    stage = COPY_DRILL + vault if vault else DRILL
    return proof_asset(plan, stage, CHECK_OF[ProofKind.DRILL], what, [_made_by(plan, vault)], prove)


def _made_by(plan: str, vault: str) -> dg.AssetKey:
    return stage_key(plan, COPY + vault) if vault else manifest_key(plan)


def stage_job(plan: str, stage: str) -> dg.Definitions:
    """Return the job `<plan>_<stage>`, one run per set."""
    job = dg.define_asset_job(
        f"{plan}_{stage}",
        selection=dg.AssetSelection.assets(stage_key(plan, stage)),
        partitions_def=sets_partitions(plan),
        # Proving again is harmless but never the answer to a set that is bad.
        tags={PLAN_TAG: plan, "dagster/max_retries": "0"},
        description=f"The {stage} of one set of plan {plan}; a backfill does several.",
    )
    return dg.Definitions(jobs=[job])


def stage_schedule(site: Site, plan: str, stage: str, cron: str, *, newest_only: bool) -> dg.ScheduleDefinition:
    """Return the schedule of a stage: for every sealed set, or only for the newest."""

    @dg.schedule(
        name=f"{plan}_{stage}_schedule",
        job_name=f"{plan}_{stage}",
        cron_schedule=cron,
        execution_timezone=site.settings.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"The {stage} of {'the newest set' if newest_only else 'every set'} of plan {plan}.",
        tags={PLAN_TAG: plan},
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        sets = due_sets(site, plan, newest_only=newest_only)
        if not sets:
            yield dg.SkipReason(f"Plan {plan} has no sealed set yet.")
            return
        partitions = partitions_of(site, plan, sets, known_partitions(context.instance, plan))
        context.instance.add_dynamic_partitions(str(sets_partitions(plan).name), list(partitions.values()))
        for set_id in sets:
            yield dg.RunRequest(
                run_key=f"{stage}-{set_id}-{context.scheduled_execution_time:%Y%m%dT%H%M}",
                partition_key=partitions[set_id],
                tags={PLAN_TAG: plan, SET_TAG: f"{plan}/{set_id}"},
            )

    return schedule


def due_sets(site: Site, plan: str, *, newest_only: bool) -> list[SetId]:
    """Return the sealed sets that a stage's schedule works on; the newest is a whole backup, no emergency set."""
    store = open_store(site, plan)
    if not newest_only:
        return list(store.sealed_ids())
    for set_id in reversed(store.sealed_ids()):
        manifest = store.read(set_id).manifest
        if manifest and manifest.purpose is Purpose.BACKUP and not manifest.partial:
            return [set_id]
    return []
