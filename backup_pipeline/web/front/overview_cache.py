"""The overview kept by the process and made anew when a store changed, so that no page waits for thousands of sets."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.operations.sites.copy_records import records_folder
from backup_pipeline.operations.sites.fleet_record import RECORD_NAME, folder_of
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.operations.status.incident_state import state_file
from backup_pipeline.operations.status.overview import Overview, site_overview
from backup_pipeline.operations.status.set_summaries import set_mark
from backup_pipeline.settings.site import Site

LOG = logging.getLogger("backup-pipeline.ui")
PATIENCE_SECONDS = 0.2
"""How long a request waits for a newer overview while there is an older one."""
LIFETIME = timedelta(minutes=1)
"""How old an overview may be although nothing changed: what is overdue depends on the time."""

_Mark = tuple[object, ...]


class OverviewCache:
    """The newest overview of a site; made by one thread at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: tuple[Site, _Mark, Overview] | None = None
        self._making: threading.Thread | None = None
        self._problem: BaseException | None = None

    def get(self, site: Site, now: datetime) -> Overview:
        """Return the overview of a site: as the stores are now or, for large ones, as they were some seconds ago."""
        mark = tuple(_marks(site))
        with self._lock:
            known = self._known
            if known and known[0] is site and known[1] == mark and abs(now - known[2].at) < LIFETIME:
                return known[2]
            if self._making is None:
                self._making = threading.Thread(target=self._make, args=(site, mark, now), name="overview", daemon=True)
                self._making.start()
            making = self._making
        same_site = known is not None and known[0] is site
        making.join(PATIENCE_SECONDS if same_site else None)
        with self._lock:
            if self._problem is not None:
                problem, self._problem = self._problem, None
                raise problem
            newest = self._known
        if newest is None or newest[0] is not site:
            # The settings changed while it was made for the former ones.
            return self.get(site, now)
        return newest[2]

    def _make(self, site: Site, mark: _Mark, now: datetime) -> None:
        made: tuple[Site, _Mark, Overview] | None = None
        problem: BaseException | None = None
        try:
            made = (site, mark, site_overview(site, now))
        except Exception as error:  # noqa: BLE001 - raised again where it was asked for
            problem = error
        with self._lock:
            self._known = made or self._known
            self._problem, self._making = problem, None


def _marks(site: Site) -> Iterator[object]:
    """Yield what changes when something that the overview shows does."""
    yield _file_mark(state_file(site))
    for fleet in site.settings.fleets:
        yield _file_mark(folder_of(site, fleet) / RECORD_NAME)
    for plan in site.single_plans:
        yield plan
        try:
            store = open_store(site, plan)
            yield tuple((set_id, set_mark(store.folder / set_id)) for set_id in store.ids())
        except BackupSystemError as error:
            yield str(error)
    if site.settings.vaults:
        folder = records_folder(site)
        yield tuple((path.name, _file_mark(path)) for path in sorted(folder.glob("*")))


def _file_mark(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_size, status.st_mtime_ns)
