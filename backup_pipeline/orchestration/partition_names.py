"""Names of the partitions of sets: a whole backup's is its id, another's says what it is (`…-emergency`, `…-partial`).

A set that has a partition keeps its name, so that what was recorded of it under that name stays with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

import dagster as dg

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.manifest import Purpose
from backup_pipeline.model.set_id import SetId, is_set_id
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.orchestration.names import sets_partitions
from backup_pipeline.settings.site import Site


def partition_name(set_id: SetId, purpose: Purpose, *, partial: bool) -> str:
    """Return the name of a new set's partition."""
    kind = purpose.value if purpose is not Purpose.BACKUP else "partial" if partial else ""
    return f"{set_id}-{kind}" if kind else str(set_id)


def set_of_partition(partition: str) -> SetId:
    """Return the set that a partition stands for."""
    set_id, dash, _ = partition.partition("Z-")
    return SetId(f"{set_id}Z" if dash and is_set_id(f"{set_id}Z") else partition)


def known_partitions(instance: dg.DagsterInstance, plan: str) -> dict[SetId, str]:
    """Return the partitions of a plan's sets that Dagster knows."""
    names = instance.get_dynamic_partitions(str(sets_partitions(plan).name))
    # In this order a set that has two is found under its id.
    return {set_of_partition(name): name for name in sorted(names, reverse=True)}


def known_partition(instance: dg.DagsterInstance, plan: str, set_id: SetId) -> str:
    """Return the partition of a set as Dagster knows it; it is added by the set's id where it does not."""
    if known := known_partitions(instance, plan).get(set_id):
        return known
    instance.add_dynamic_partitions(str(sets_partitions(plan).name), [set_id])
    return str(set_id)


def partitions_of(site: Site, plan: str, sets: Iterable[SetId], known: Mapping[SetId, str]) -> dict[SetId, str]:
    """Return the partition of each set: as it is known, else by what its manifest says that the set is."""
    store = open_store(site, plan)
    found = {}
    for set_id in sets:
        found[set_id] = known.get(set_id) or str(set_id)
        if set_id not in known:
            with suppress(BackupSystemError):
                if manifest := store.read(set_id).manifest:
                    found[set_id] = partition_name(set_id, manifest.purpose, partial=manifest.partial)
    return found


def ensured_partition(site: Site, plan: str, set_id: SetId, instance: dg.DagsterInstance) -> str:
    """Return the partition of a set, which is there afterwards."""
    known = known_partitions(instance, plan)
    partition = partitions_of(site, plan, [set_id], known)[set_id]
    if set_id not in known:
        instance.add_dynamic_partitions(str(sets_partitions(plan).name), [partition])
    return partition
