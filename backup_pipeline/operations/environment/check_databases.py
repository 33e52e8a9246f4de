"""Are all databases of a server captured that its source stands for?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.known_databases import name_on_one_line
from backup_pipeline.model.record import Severity
from backup_pipeline.operations.sites.known_databases import ask_server
from backup_pipeline.rules.environment import EnvironmentFault
from backup_pipeline.settings.server_databases import servers_of
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import CORRECT_PATTERN, NO_SUCH_DATABASE


def found_database_faults(site: Site, plans: Sequence[str]) -> Iterator[EnvironmentFault]:
    """Yield the databases that cannot be captured, names and patterns that mean none, and those that are new."""
    for server in dict.fromkeys(name for plan in plans for name in servers_of(site, plan)):
        # What does not answer is reported with the servers.
        with suppress(BackupSystemError):
            yield from _of_server(site, server)


def _of_server(site: Site, server: str) -> Iterator[EnvironmentFault]:
    where = f"sources.{server}"
    selection = site.source(server).server_databases
    found = ask_server(site, server)
    captured = [one.name for one in found if not one.skipped]
    for one in found:
        if one.remedy:
            yield EnvironmentFault(
                where, f"database {name_on_one_line(one.name)} is not captured: {one.skipped}", one.remedy
            )
    for pattern in selection.unmatched(one.name for one in found) if selection else ():
        yield EnvironmentFault(where, f"{pattern}: {NO_SUCH_DATABASE}", CORRECT_PATTERN, Severity.WARN)
    if not captured:
        reasons = "; ".join(f"{name_on_one_line(one.name)}: {one.skipped}" for one in found)
        yield EnvironmentFault(where, f"no database of the server is captured ({reasons})", CORRECT_PATTERN)
    known = site.databases.get(server)
    there = {one.name for one in known.databases if one.absent_since is None} if known else set(captured)
    for name in captured:
        if name not in there:
            what = f"database {name} is new; the next backup captures it"
            yield EnvironmentFault(where, what, "Nothing, or exclude it in backup.yaml.", Severity.WARN)
    for name in sorted(there - {*captured} - {one.name for one in found if one.remedy}):
        reason = next((one.skipped for one in found if one.name == name), "it was dropped or renamed")
        what = f"database {name} is not captured any more: {reason}"
        yield EnvironmentFault(where, what, "If that was not meant, restore it from its last set.", Severity.WARN)
