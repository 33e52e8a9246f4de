"""The partition of a run, or a clear error where it has none, as with a bare `dagster job execute`."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from backup_pipeline.errors import RefusedError
from backup_pipeline.model.set_id import SetId
from backup_pipeline.orchestration.metadata import failure_of
from backup_pipeline.orchestration.names import sets_partitions
from backup_pipeline.orchestration.partition_names import set_of_partition


def selected_set(context: dg.AssetExecutionContext, plan: str) -> SetId:
    """Return the set that a run over one partition is about.

    Raises:
        dg.Failure: the run names none.
    """
    if context.has_partition_key:
        return set_of_partition(context.partition_key)
    known = sorted(context.instance.get_dynamic_partitions(str(sets_partitions(plan).name)))
    raise failure_of(
        RefusedError(
            f"This job works on one backup set of plan {plan}, and the run names none.",
            where=context.job_name,
            remedy=f"Pick the set as the partition in the UI, or add --partition {known[-1] if known else 'SET'} to "
            f"dagster job execute; backup-pipeline list {plan} shows the sets.",
        )
    )


def selected_years(context: dg.AssetExecutionContext, every: Sequence[str]) -> list[str]:
    """Return the years that a run over one partition or a range of them is about.

    Raises:
        dg.Failure: the run names none.
    """
    if context.has_partition_key or context.has_partition_key_range:
        return list(context.partition_keys)
    raise failure_of(
        RefusedError(
            "This job works on years of orders, and the run names none.",
            where=context.job_name,
            remedy=f"Pick the years in the UI, or add --partition {every[-1]} to dagster job execute; all years in one "
            f"run: --partition-range {every[0]}...{every[-1]}.",
        )
    )
