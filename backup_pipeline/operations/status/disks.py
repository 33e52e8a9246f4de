"""When the disks of a site's stores will be full. Plans whose stores share a disk fill it together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.rules.trend import HORIZON, SizedSet, Stock, disk_full_at
from backup_pipeline.settings.site import Site


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk: the plans whose stores are on it (in the order of the settings), free bytes, when it will be full."""

    plans: tuple[str, ...]
    free: int | None
    full_at: datetime | None


def disks_of(
    site: Site, sets: Mapping[str, Sequence[SizedSet]], now: datetime, *, horizon: timedelta = HORIZON
) -> tuple[Disk, ...]:
    """Return the disks of these plans' stores.

    Args:
        site: the site.
        sets: all sets of each plan whose store could be read.
        now: the present moment.
        horizon: how far to forecast.
    """
    together: dict[int, list[str]] = {}
    found = []
    for plan in sets:
        store = open_store(site, plan)
        if store.artefacts_elsewhere:
            # Nobody knows how much room a vault has.
            found.append(Disk((plan,), None, None))
        else:
            together.setdefault(_device(store.folder), []).append(plan)
    zone = ZoneInfo(site.settings.timezone)
    for plans in together.values():
        free = _free(site, plans)
        stocks = [Stock(sets[plan], site.plan(plan).retention) for plan in plans]
        full_at = None if free is None else disk_full_at(stocks, free, now, zone, horizon=horizon)
        found.append(Disk(tuple(plans), free, full_at))
    return tuple(found)


def _free(site: Site, plans: Sequence[str]) -> int | None:
    """Return the free bytes of the disk of these plans' stores, None when it cannot be reported."""
    try:
        return min((free for plan in plans if (free := open_store(site, plan).free_bytes()) is not None), default=None)
    except (BackupSystemError, OSError):
        return None


def _device(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.stat().st_dev
