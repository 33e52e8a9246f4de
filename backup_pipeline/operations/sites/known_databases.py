"""Which databases the servers of a site have: asked before each backup and by a sensor, kept beside the plans' sets.

Settings are loaded with what is kept (`settings.server_databases`), so that a server that is down stops nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.known_databases import KnownDatabase, KnownDatabases
from backup_pipeline.model.manifest import Manifest
from backup_pipeline.operations.sites.known_files import keep_known
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.rules.known_databases import after_asking
from backup_pipeline.settings.server_databases import (
    folders_of_list,
    list_file,
    servers_of,
    with_databases,
    with_known_databases,
)
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.kind import CandidateDatabase
from backup_pipeline.sources.registry import kind_of

LOG = logging.getLogger("backup")
_FRESH = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class DatabaseChange:
    """A database that was not there when its server was asked before, or is not captured any more.

    Attributes:
        server: the source that stands for its server.
        database: its name.
        source: the name of its own source.
        absent_because: why it is not captured any more; "" for a new one.
    """

    server: str
    database: str
    source: str
    absent_because: str = ""

    @property
    def text(self) -> str:
        """One line for people and logs."""
        if self.absent_because:
            return f"{self.server}: database {self.database} ({self.source}) is not captured: {self.absent_because}"
        return f"{self.server}: database {self.database} is new; its source is {self.source}"

    def as_dict(self) -> dict[str, str]:
        """Return it for `--json`."""
        change = "gone" if self.absent_because else "new"
        said = {"server": self.server, "database": self.database, "source": self.source, "change": change}
        return said | ({"why": self.absent_because} if self.absent_because else {})


@dataclass(frozen=True)
class DatabasesNow:
    """What the servers answered.

    Attributes:
        site: the site with a source for each database that is there now.
        changes: against what was known before; all are new where nothing was.
        silent: the sources whose servers did not answer.
    """

    site: Site
    changes: tuple[DatabaseChange, ...] = ()
    silent: tuple[str, ...] = ()


def refresh_databases(
    site: Site, plans: Iterable[str], now: datetime | None = None, *, keep: bool = True
) -> DatabasesNow:
    """Ask the servers of some plans for their databases and keep the answers beside the plans' sets.

    Best effort: a server that does not answer keeps the databases that are known of it, and its capture fails.

    Args:
        site: the site.
        plans: names of plans and fleets.
        now: the present moment.
        keep: whether the answers are kept; nothing is written otherwise.
    """
    moment = now or utc_now()
    # Another process may have asked since the site was loaded.
    site = with_known_databases(site)
    known: dict[str, KnownDatabases] = {}
    changes: list[DatabaseChange] = []
    silent: list[str] = []
    for server in dict.fromkeys(name for plan in plans for name in servers_of(site, plan)):
        before = site.databases.get(server)
        try:
            found = ask_server(site, server)
        except (BackupSystemError, OSError):
            silent.append(server)
            continue
        known[server] = after_asking(server, before, {one.name: one.skipped for one in found}, moment)
        changes += _changes(server, before, known[server])
        if keep:
            _keep(site, server, known[server])
    return DatabasesNow(with_databases(site, known) if known else site, tuple(changes), tuple(silent))


def ask_server(site: Site, server: str) -> Sequence[CandidateDatabase]:
    """Return the databases that a server has now.

    Raises:
        BackupSystemError: it does not answer.
    """
    kind, source = kind_of(site, server)
    before = site.databases.get(server)
    return kind.find_databases(source, {one.name for one in before.databases if _is_there(one)} if before else set())


def absent_sources(site: Site, plan: str, now: datetime) -> frozenset[str]:
    """Return the sources of a plan whose databases are not captured any more; servers are asked unless just asked."""
    lists = [site.databases.get(server) for server in servers_of(site, plan)]
    if all(known is not None and now - known.asked_at < _FRESH for known in lists):
        return frozenset()
    current = refresh_databases(site, [plan], now)
    for change in current.changes:
        LOG.info("%s", change.text)
    return frozenset(site.plan(plan).sources) - frozenset(current.site.plan(plan).sources)


def with_databases_of(site: Site, manifest: Manifest) -> Site:
    """Return the site with the sources of databases that a set holds and nothing is known of, as on a new machine.

    They are kept, so that an undo knows them.
    """
    found: dict[str, KnownDatabases] = {}
    for server in filter(site.is_server, manifest.sources):
        before = site.databases.get(server) or KnownDatabases(asked_at=manifest.sealed_at)
        listed = [
            KnownDatabase(
                name=str(entry.get("name")),
                source=str(entry.get("source")),
                found_at=manifest.sealed_at,
                absent_since=manifest.sealed_at,
                absent_because="it is known from a set alone",
            )
            for record in manifest.artefacts
            if record.source == server and isinstance(entries := record.details.get("databases"), list)
            for entry in entries
            if isinstance(entry, dict) and not before.source_of(str(entry.get("name")))
        ]
        if listed:
            found[server] = before.model_copy(update={"databases": (*before.databases, *listed)})
            _keep(site, server, found[server])
    return with_databases(site, found) if found else site


def _is_there(one: KnownDatabase) -> bool:
    return one.absent_since is None


def _changes(server: str, before: KnownDatabases | None, now: KnownDatabases) -> list[DatabaseChange]:
    there = {one.name for one in before.databases if _is_there(one)} if before else set()
    return [
        DatabaseChange(server, one.name, one.source, one.absent_because)
        for one in now.databases
        if _is_there(one) != (one.name in there)
    ]


def _keep(site: Site, server: str, known: KnownDatabases) -> None:
    data = known.model_dump_json(indent=1).encode()
    modes = {"file_mode": int(site.settings.file_mode, 8), "folder_mode": int(site.settings.folder_mode, 8)}
    for store in folders_of_list(site, server):
        with suppress(BackupSystemError, OSError):
            keep_known(store, list_file(store, server).name, data, **modes)
    for plan in site.single_plans if site.settings.state_env else ():
        if server in site.plan(plan).sources:
            open_store(site, plan).share()
