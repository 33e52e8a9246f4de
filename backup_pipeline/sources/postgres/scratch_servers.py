"""Servers that drills restore into: one that is named, one that is installed on the machine, or the embedded one."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from pathlib import Path

from backup_pipeline.artefacts.drilling import DrillArea
from backup_pipeline.artefacts.targets import target_of
from backup_pipeline.errors import SettingsError
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.server_offer import Offer
from backup_pipeline.postgres.load.excluded_extensions import WITHOUT
from backup_pipeline.postgres.server.databases import data_folder
from backup_pipeline.postgres.server.target import PostgresTarget, parse_target
from backup_pipeline.rules.scratch_server import DRILL_VARIABLE, Needs, choose, closest, lacking, preload

# A scratch server may lose everything at any moment: nothing is logged that need not be.
SCRATCH_SETTINGS = {
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "8GB",
    "shared_buffers": "256MB",
    "autovacuum": "off",
    "max_connections": "60",
}
# Of a site's sources in a message.
_NAMED = 3


@dataclass(frozen=True)
class ScratchPlace:
    """A server to restore into, or (target None) what is missing for one.

    Attributes:
        target: any database of it, as the role that drills use.
        missing: what this machine lacks.
        warnings: what must be said of the server.
        label: which one it is, for the result: the variable, the folder of its programs, or the embedded one.
    """

    target: PostgresTarget | None
    missing: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()
    label: str = ""


def choose_server(needs: Needs) -> tuple[Offer | None, tuple[Finding, ...]]:
    """Return the first installed server that has what a database needs, else an embedded one, else what is missing.

    Nothing is started: control files and build options decide.
    """
    from backup_pipeline.postgres.server.embedded import reachable
    from backup_pipeline.postgres.server.installations import server_offers

    offers = [offer for offer in server_offers() if offer.embedded or reachable(offer.folder)]
    if selection := choose(offers, needs, WITHOUT):
        return selection, ()
    if nearest := closest(offers, needs, WITHOUT):
        return None, tuple(lacking(needs, nearest, WITHOUT))
    missing = Finding(
        subject="PostgreSQL",
        problem="no server is installed on this machine, and the embedded one is not either",
        remedy=f"Install one (Debian and PGDG: apt-get install postgresql-{needs.written_by or 'NN'}), or "
        f"pip install 'backup-pipeline[embedded]', or name a scratch server in {DRILL_VARIABLE}.",
    )
    return None, (missing,)


class ScratchServers:
    """The servers of one drill; each is started when it is first needed and ends with the drill's area."""

    def __init__(self, area: DrillArea) -> None:
        self._area = area
        self._servers: dict[Path, PostgresTarget] = {}
        self._warned = False

    def server(self, needs: Needs) -> ScratchPlace:
        """Return a server that has what a database needs, or what this machine lacks of it."""
        site = self._area.site
        if url := site.value(DRILL_VARIABLE):
            target = parse_target(url, variable=DRILL_VARIABLE, environment=site.environment)
            if folder := data_folder(target):
                self._area.check_space(folder)
            return ScratchPlace(target, warnings=self._live_servers(target), label=DRILL_VARIABLE)
        selection, missing = choose_server(needs)
        if selection is None:
            return ScratchPlace(None, missing=missing)
        if selection.folder not in self._servers:
            self._servers[selection.folder] = self._start(selection, needs)
        label = f"embedded PostgreSQL {selection.major}" if selection.embedded else str(selection.folder)
        return ScratchPlace(self._servers[selection.folder], label=label)

    def _start(self, selection: Offer, needs: Needs) -> PostgresTarget:
        from backup_pipeline.postgres.server.embedded import scratch_server

        self._area.check_space()
        running = self._area.stack.enter_context(
            scratch_server(
                major=selection.major,
                settings=SCRATCH_SETTINGS | preload(needs),
                # A name that no dump names: every role of the backup can be made as it was.
                superuser=f"scratch_{secrets.token_hex(6)}",
                programs=None if selection.embedded else selection.folder,
            )
        )
        return running.target()

    def _live_servers(self, target: PostgresTarget) -> tuple[str, ...]:
        """Return what must be said of a scratch server that is one of the site's own: once in a drill."""
        if self._warned:
            return ()
        self._warned, found = True, []
        for name, source in self._area.site.settings.sources.items():
            with contextlib.suppress(SettingsError):
                live = target_of(self._area.site, source.connection, name) if source.connection else None
                if live is not None and (live.host, live.port) == (target.host, target.port):
                    found.append(name)
        if not found:
            return ()
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        sources = f"source{'s' if len(found) > 1 else ''} {', '.join(found[:_NAMED])}{more}"
        return (f"is the server of {sources}: a drill loads what others may have written into a live server",)
