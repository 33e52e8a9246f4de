"""Years of orders as partitions, and the names of what a source of kind `orders` adds to a plan. No assets here."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from backup_pipeline.orchestration.names import key_part
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.orders.settings import OrdersSource
from backup_pipeline.sources.orders.source import orders_settings

FOLDERS, VERIFICATION, RESTORED = "order_folders", "order_verification", "restored_orders"
NEVER_AGAIN = {"dagster/max_retries": "0"}
"""Tags of runs that must not be retried by themselves."""
_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def orders_group(plan: str) -> str:
    """Return the group of the orders' folders: partitioned by year, so that it stands apart from a backup's assets."""
    return f"{plan}_orders"


def year_partitions(source: OrdersSource, timezone: str) -> dg.TimeWindowPartitionsDefinition:
    """Return the years from the source's first to the present one."""
    return dg.TimeWindowPartitionsDefinition(
        cron_schedule="0 0 1 1 *", start=str(source.first_year), fmt="%Y", timezone=timezone, end_offset=1
    )


def years_of(selected: Sequence[str], every: Sequence[str]) -> frozenset[str] | None:
    """Return which years of orders some partitions mean; None for all of them.

    The first partition also holds what is older or has no year, the last what is dated later.
    """
    if set(selected) >= set(every):
        return None
    years = set(selected)
    if every[0] in years:
        years |= {"unknown", *(str(year) for year in range(1900, int(every[0])))}
    if every[-1] in years:
        years |= {str(year) for year in range(int(every[-1]) + 1, 2200)}
    return frozenset(years)


def job_name(plan: str, name: str, what: str) -> str:
    """Return `<plan>_<source>_orders_<what>`; what: export, verification, restore, undo."""
    return f"{plan}_{key_part(name)}_orders_{what}"


def year_range_tags(site: Site, name: str) -> dict[str, str]:
    """Return the tags of a run over all years of a source."""
    return range_tags(year_partitions(orders_settings(site, name), site.settings.timezone).get_partition_keys())


def range_tags(years: Sequence[str]) -> dict[str, str]:
    """Return the tags of one run over the years from the first to the last of these."""
    return {_RANGE_START: years[0], _RANGE_END: years[-1]}
