"""What keeps the drills of databases that plans promise from being carried out here; nothing is started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from backup_pipeline.artefacts.restorer import PlannedDrill
from backup_pipeline.artefacts.targets import database_of
from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.record import ArtefactKind, Severity
from backup_pipeline.postgres.compare.comparison import Expectation
from backup_pipeline.postgres.load.check import catalog_and_roles_of
from backup_pipeline.postgres.load.excluded_extensions import WITHOUT
from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.databases import ServerFacts, server_facts, server_features
from backup_pipeline.postgres.server.target import parse_target
from backup_pipeline.rules.environment import EnvironmentFault, is_placeholder
from backup_pipeline.rules.scratch_server import DRILL_VARIABLE, Needs, missing_from, needs_of, too_old
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.postgres.recorded import catalog_if_recorded, needs_of_dump, roles_of
from backup_pipeline.sources.postgres.scratch_servers import choose_server


def drill_faults(site: Site, planned: Sequence[PlannedDrill]) -> list[EnvironmentFault]:
    """Return what keeps these drills from being carried out on this machine."""
    found: list[EnvironmentFault] = []
    facts, features = None, frozenset[str]()
    if (url := site.value(DRILL_VARIABLE)) and not is_placeholder(url):
        try:
            target = parse_target(url, variable=DRILL_VARIABLE, environment=site.environment)
            facts, features = server_facts(target), server_features(target)
        except BackupSystemError:
            return found  # reported with the servers
        if facts.superuser:
            found.append(_superuser(facts))
    done: set[str] = set()
    for drill in planned:
        if drill.source not in done and (needs := _needs(site, drill)) is not None:
            done.add(drill.source)
            found += _missing(drill.plan, drill.source, needs, facts, features)
    return found


def _superuser(facts: ServerFacts) -> EnvironmentFault:
    return EnvironmentFault(
        DRILL_VARIABLE,
        f"{facts.user} is a superuser: a drill loads as a role without rights that it makes for itself, yet a server "
        "that holds anything else is better not shared with it",
        "Name a scratch server that holds nothing else.",
        Severity.WARN,
        lax=True,
    )


def _missing(
    plan: str, name: str, needs: Needs, facts: ServerFacts | None, features: frozenset[str]
) -> Iterator[EnvironmentFault]:
    if facts is None:
        selection, missing = choose_server(needs)
        if selection is not None:
            return
    else:
        server = f"the server of {DRILL_VARIABLE} (PostgreSQL {facts.major})"
        missing = tuple(missing_from(needs, server, facts.extensions, features, WITHOUT))
        if facts.major < needs.written_by:
            missing = (too_old(server, needs.written_by), *missing)
    for one in missing:
        yield EnvironmentFault(
            DRILL_VARIABLE,
            f"the drill of plan {plan} cannot be carried out here for source {name}: {one.subject} {one.problem}",
            one.remedy,
        )


def _needs(site: Site, drill: PlannedDrill) -> Needs | None:
    """Return what the newest set recorded, else what the live database says; None when neither can be read."""
    if drill.newest is not None:
        # Damage is a verification's to find.
        with suppress(BackupSystemError):
            open_file, records = drill.newest.open_file, {str(record.kind): record for record in drill.newest.records}
            dump, roles = records[ArtefactKind.POSTGRES_DUMP], records.get(ArtefactKind.POSTGRES_ROLES)
            expected = Expectation(catalog_if_recorded(open_file, dump), roles_of(open_file, roles) if roles else None)
            return needs_of_dump(expected, dump)
    try:
        catalog, recorded = catalog_and_roles_of(database_of(site, drill.source))
        return needs_of(catalog, recorded.extensions, choose_client(catalog.server_major).major)
    except BackupSystemError:
        return None  # reported with the servers
