"""Synchronisation of a plan's set partitions in Dagster with its store.

Sets copied in by hand appear and removed ones disappear; verifications and drills that were run from the shell, or came
with a copied set, are shown as those of the UI are.
"""

import json
from collections.abc import Iterator, Sequence, Set

import dagster as dg

from backup_pipeline.model.proof import Proof, ProofKind, ProofOutcome
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.operations.status.set_summaries import SetSummary, set_summaries
from backup_pipeline.orchestration.names import PLAN_TAG, manifest_key, sets_partitions, stage_key
from backup_pipeline.orchestration.partition_names import known_partitions, partitions_of
from backup_pipeline.orchestration.proof_assets import CHECK_OF, not_here_event, proof_metadata, proof_summary
from backup_pipeline.orchestration.run_states import UNDER_WAY
from backup_pipeline.orchestration.sets_table import sets_digest, sets_metadata
from backup_pipeline.settings.site import Site

_LISTED = "sets"
_PARTITION_TAG = "dagster/partition"


_Event = dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.AssetObservation


def partition_changes(known: Set[str], stored: Set[str]) -> tuple[list[str], list[str]]:
    """Return which partitions to add and which to remove so that `known` becomes `stored`, each oldest first."""
    return sorted(stored - known), sorted(known - stored)


def synchronise_partitions(site: Site, plan: str, instance: dg.DagsterInstance) -> None:
    """Make the plan's partitions equal to its sealed sets, at once."""
    name = _name(plan)
    known = set(instance.get_dynamic_partitions(name))
    stored = partitions_of(site, plan, open_store(site, plan).sealed_ids(), known_partitions(instance, plan))
    added, gone = partition_changes(known, set(stored.values()))
    if added:
        instance.add_dynamic_partitions(name, added)
    for key in _without_runs(instance, gone):
        instance.delete_dynamic_partition(name, key)


def _without_runs(instance: dg.DagsterInstance, gone: Sequence[str]) -> list[str]:
    """Return the partitions of sets that are gone and of which no run waits or executes.

    A set may be restored from its copy in a vault alone; a run whose partition goes fails at its end, whatever it did.
    """
    if not gone:
        return []
    runs = instance.get_runs(dg.RunsFilter(tags={_PARTITION_TAG: list(gone)}, statuses=list(UNDER_WAY)))
    busy = {run.tags[_PARTITION_TAG] for run in runs}
    return [key for key in gone if key not in busy]


def partitions_sensor(site: Site, plan: str) -> dg.SensorDefinition:
    """Return the sensor that keeps a plan's partitions equal to its store."""
    partitions = sets_partitions(plan)

    @dg.sensor(
        name=f"{plan}_sets_sensor",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Sets of {plan} that were copied in or removed by hand appear and disappear here, what was "
        "verified or drilled from the shell is shown, and the manifest's table of sets is kept fresh.",
        tags={PLAN_TAG: plan},
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        store = open_store(site, plan)
        known = set(context.instance.get_dynamic_partitions(_name(plan)))
        sealed = set(store.sealed_ids())
        stored = partitions_of(site, plan, sealed, known_partitions(context.instance, plan))
        added, gone = partition_changes(known, set(stored.values()))
        gone = _without_runs(context.instance, gone)
        sets = set_summaries(store, running=False)
        proofs = proofs_of_no_run(sealed, sets)
        shown = json.loads(context.cursor or "{}")
        new = [proof for name, proof in proofs.items() if shown.get(name) != proof.finished_at.isoformat()]
        events: list[_Event] = [event for proof in new for event in proof_events(proof, stored[proof.set_id])]
        listed = sets_digest(site, plan, sets)
        if shown.get(_LISTED, listed) != listed:
            metadata = sets_metadata(site, plan)
            events.append(dg.AssetObservation(manifest_key(plan), description="The plan's sets.", metadata=metadata))
        known_now = {name: proof.finished_at.isoformat() for name, proof in proofs.items()}
        context.update_cursor(json.dumps({**known_now, _LISTED: listed}))
        if not added and not gone and not events:
            return dg.SkipReason("The store and the partitions are equal.")
        requests: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
        if added:
            requests.append(partitions.build_add_request(added))
        if gone:
            requests.append(partitions.build_delete_request(gone))
        return dg.SensorResult(dynamic_partitions_requests=requests, asset_events=events)

    return sensor


def proofs_of_no_run(sealed: Set[SetId], sets: Sequence[SetSummary]) -> dict[str, Proof]:
    """Return the last verification and drill of each sealed set that no run of Dagster made, by `<set>/<kind>`."""
    found = {}
    for one in sets:
        for proof in (one.verification, one.not_drilled_here or one.drill):
            if proof is not None and not proof.run_id and proof.set_id in sealed:
                found[f"{proof.set_id}/{proof.kind}"] = proof
    return found


def proof_events(proof: Proof, partition: str) -> Iterator[_Event]:
    """Yield what a run would have reported to Dagster: the partition only when it passed, the check always."""
    key = stage_key(proof.plan, proof.kind.value)
    metadata = proof_metadata(proof)
    if proof.outcome is ProofOutcome.NOT_HERE:
        yield not_here_event(proof, key, partition)
        return
    if proof.passed:
        yield dg.AssetMaterialization(key, partition=partition, metadata=metadata, description="From the shell.")
    yield dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=CHECK_OF[ProofKind(proof.kind)],
        passed=proof.passed,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{proof.set_id}, from the shell: {proof_summary(proof)}",
        metadata=metadata,
    )


def _name(plan: str) -> str:
    name = sets_partitions(plan).name
    assert name is not None
    return name
