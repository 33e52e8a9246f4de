"""Keeping Dagster's list of a plan's sets equal to its store: sets copied in by hand appear, removed ones disappear."""

import dagster as dg

from backup_pipeline.operations.stores import open_store
from backup_pipeline.orchestration.names import PLAN_TAG, sets_partitions
from backup_pipeline.settings.site import Site


def partition_changes(known: set[str], stored: set[str]) -> tuple[list[str], list[str]]:
    """Return which sets to add and which to remove so that `known` becomes `stored`, each oldest first."""
    return sorted(stored - known), sorted(known - stored)


def synchronise_partitions(site: Site, plan: str, instance: dg.DagsterInstance) -> None:
    """Make the plan's partitions equal to its sealed sets, at once."""
    name = _name(plan)
    known = set(instance.get_dynamic_partitions(name))
    added, gone = partition_changes(known, set(open_store(site, plan).sealed_ids()))
    if added:
        instance.add_dynamic_partitions(name, added)
    for key in gone:
        instance.delete_dynamic_partition(name, key)


def partitions_sensor(site: Site, plan: str) -> dg.SensorDefinition:
    """Return the sensor that keeps a plan's partitions equal to its store."""
    partitions = sets_partitions(plan)

    @dg.sensor(
        name=f"{plan}_sets_sensor",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Sets of {plan} that were copied in or removed by hand appear and disappear here.",
        tags={PLAN_TAG: plan},
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        known = set(context.instance.get_dynamic_partitions(_name(plan)))
        added, gone = partition_changes(known, set(open_store(site, plan).sealed_ids()))
        if not added and not gone:
            return dg.SkipReason("The store and the partitions are equal.")
        requests: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
        if added:
            requests.append(partitions.build_add_request(added))
        if gone:
            requests.append(partitions.build_delete_request(gone))
        return dg.SensorResult(dynamic_partitions_requests=requests)

    return sensor


def _name(plan: str) -> str:
    name = sets_partitions(plan).name
    assert name is not None
    return name
