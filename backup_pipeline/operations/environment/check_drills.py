"""Can the drills that plans promise be carried out here? Foretold from what the sources need; nothing is started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backup_pipeline.artefacts.targets import target_of
from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.record import ArtefactKind, Severity
from backup_pipeline.operations.environment.check import database_sources
from backup_pipeline.operations.proof.drill import DRILL_VARIABLE, choose_server, needs_of_dump
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.postgres.compare.comparison import Expectation
from backup_pipeline.postgres.load.excluded_extensions import WITHOUT
from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.databases import ServerFacts, server_facts, server_features
from backup_pipeline.postgres.server.target import parse_target
from backup_pipeline.rules.environment import EnvironmentFault, is_placeholder
from backup_pipeline.rules.scratch_server import Needs, missing_from, needs_of, too_old
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.postgres.dump import catalog_of
from backup_pipeline.sources.postgres.roles import roles_of


def drill_faults(site: Site, plans: Sequence[str]) -> list[EnvironmentFault]:
    """Return what keeps the drills of these plans from being carried out on this machine."""
    found: list[EnvironmentFault] = []
    drilled = [plan for plan in plans if site.plan(plan).drill]
    if not drilled:
        return found
    facts, features = None, frozenset[str]()
    if (url := site.value(DRILL_VARIABLE)) and not is_placeholder(url):
        try:
            target = parse_target(url, variable=DRILL_VARIABLE, environment=site.environment)
            facts, features = server_facts(target), server_features(target)
        except BackupSystemError:
            return found  # reported with the servers
        if facts.superuser:
            found.append(_superuser(facts))
    seen: set[str] = set()
    for plan in drilled:
        for name in database_sources(site, [plan]):
            if name in seen or (needs := _needs(site, plan, name)) is None:
                continue
            seen.add(name)
            found += _missing(plan, name, needs, facts, features)
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


def _needs(site: Site, plan: str, source: str) -> Needs | None:
    """Return what the newest set recorded, else what the live database says; None when neither can be read."""
    try:
        store = open_store(site, plan)
        for set_id in reversed(store.sealed_ids()):
            manifest = store.read(set_id).manifest
            records = {r.kind: r for r in manifest.artefacts if r.source == source} if manifest else {}
            if dump := records.get(ArtefactKind.POSTGRES_DUMP):
                roles = records.get(ArtefactKind.POSTGRES_ROLES)

                def open_file(path: str, set_id=set_id):  # type: ignore[no-untyped-def]
                    return store.open(set_id, path)

                expected = Expectation(catalog_of(open_file, dump), roles_of(open_file, roles) if roles else None)
                return needs_of_dump(expected, dump)
    except BackupSystemError:
        pass  # damage is a verification's to find
    try:
        target = target_of(site, database_sources(site, [plan])[source], source)
        return _live_needs(target)
    except BackupSystemError:
        return None  # reported with the servers


def _live_needs(target: object) -> Needs:
    from backup_pipeline.postgres.load.check import catalog_and_roles_of
    from backup_pipeline.postgres.server.target import PostgresTarget

    assert isinstance(target, PostgresTarget)
    catalog, roles = catalog_and_roles_of(target)
    return needs_of(catalog, roles.extensions, choose_client(catalog.server_major).major)
