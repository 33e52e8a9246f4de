"""What every page needs of the process: the site, the address of the pages, Dagster's workspace, and the clock."""

from __future__ import annotations

import contextlib
import importlib
import shlex
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from backup_pipeline.operations.status.overview import Overview
from backup_pipeline.rules.ready_commands import ready_commands
from backup_pipeline.settings.loader import ENV_NAME, find_settings_file, load_site
from backup_pipeline.settings.server_databases import list_files
from backup_pipeline.settings.site import Site
from backup_pipeline.web.front.overview_cache import OverviewCache

if TYPE_CHECKING:
    import dagster as dg

    from backup_pipeline.orchestration.submit import UiWorkspace

PROGRAM = "backup-pipeline"
_FILE = tuple[str, int, int]
_LOADED_LATER = ("backup_pipeline.operations.sites.copy_proofs", "backup_pipeline.postgres.load.rebuild")
RESERVED = frozenset({"static", "restore", "find", "evidence", "live", "start", "acknowledge", "docs"})
"""First parts of paths that are pages of our own; a plan of such a name has a hyphen before it in addresses."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Front:
    """Shared by all requests of a process.

    Attributes:
        prefix: path below which the whole UI is served, "" for none.
        settings: backup.yaml; None finds it as every command does.
        workspace: Dagster's workspace and instance; None where there is none (tests of pages that only read).
        now: the clock.
    """

    prefix: str = ""
    settings: Path | None = None
    workspace: UiWorkspace | None = None
    now: Callable[[], datetime] = _now
    _site: tuple[tuple[_FILE, ...], Site] | None = field(default=None, repr=False)
    _overviews: OverviewCache = field(default_factory=OverviewCache, repr=False)

    @property
    def base(self) -> str:
        """The path of the home page, without a slash at its end."""
        return f"{self.prefix}/backups"

    def site(self) -> Site:
        """Return the site, read again when backup.yaml, `.env` or the known databases of a server changed.

        Raises:
            SettingsError: there is no settings file, or it is wrong.
        """
        file = find_settings_file(self.settings)
        known = self._site
        if known is None or known[0] != (*_settings_marks(file), *_list_marks(known[1])):
            # Marked before it is read: what changes meanwhile is read again.
            marks = _settings_marks(file)
            site = load_site(file)
            known = self._site = ((*marks, *_list_marks(site)), site)
        return known[1]

    def overview(self) -> Overview:
        """Return the standing of the site's plans, from memory where no store has changed."""
        return self._overviews.get(self.site(), self.now())

    def warm_up(self) -> None:
        """Make the first overview in a thread, so that nobody waits for it; what is wrong is reported to who asks.

        Then what the first page of evidence and the first restore would have to load.
        """

        def make() -> None:
            with contextlib.suppress(Exception):
                self.overview()
                for name in _LOADED_LATER:
                    importlib.import_module(name)

        threading.Thread(target=make, name="first overview", daemon=True).start()

    @property
    def instance(self) -> dg.DagsterInstance | None:
        """Dagster's history; None where there is none."""
        return self.workspace.instance if self.workspace is not None else None

    def address(self, *parts: str) -> str:
        """Return the path of one of our pages: `address("nightly", "2026-11-21T020000Z")`."""
        return "/".join([self.base, *(quote(part, safe="") for part in parts)])

    def plan_address(self, plan: str, *parts: str) -> str:
        """Return the path of a plan's page, or of one below it: `plan_address("nightly", SET)`."""
        return self.address(f"-{plan}" if plan in RESERVED else plan, *parts)

    def ready(self, text: str) -> str:
        """Return a remedy with commands that run as they stand on this machine."""
        site = self.site()
        beside = Path(sys.executable).with_name(PROGRAM)
        program = PROGRAM if shutil.which(PROGRAM) or not beside.exists() else str(beside)
        file = site.file.absolute()
        text = text.replace("`backup.yaml`", f"`{file}`")
        config = f" --config {shlex.quote(str(file))}"
        return ready_commands(text, config=config, program=program, identity=site.identity_file)

    def dagster(self, path: str) -> str:
        """Return the path of one of Dagster's pages: `dagster("/runs/ID")`."""
        return f"{self.prefix}{path}"


def _settings_marks(file: Path) -> tuple[_FILE, ...]:
    return tuple(_mark(path) for path in (file, file.parent / ENV_NAME))


def _list_marks(site: Site) -> tuple[_FILE, ...]:
    """Return the marks of the lists of servers' databases, and of fleets' members."""
    given = [fleet.sources_from.file for fleet in site.settings.fleets.values()]
    return tuple(map(_mark, [*list_files(site), *(file for file in given if file is not None)]))


def _mark(path: Path) -> _FILE:
    """Return what changes when a file does."""
    try:
        status = path.stat()
    except OSError:
        return (str(path), 0, 0)
    return (str(path), status.st_ino, status.st_mtime_ns)
