"""What sources side by side mean for their servers and this machine, and limits that hold where runs are spread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from backup_pipeline.artefacts.targets import target_of
from backup_pipeline.errors import BackupSystemError, SettingsError
from backup_pipeline.model.record import Severity
from backup_pipeline.operations.environment.check import database_sources
from backup_pipeline.operations.environment.check_servers import CONNECT_SECONDS
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.rules.environment import EnvironmentFault, is_placeholder
from backup_pipeline.rules.quantities import bytes_text
from backup_pipeline.settings.site import Site
from backup_pipeline.system.threads import ContextThreadPool

_EXECUTOR, _LAUNCHER = "BACKUP_PIPELINE_EXECUTOR", "BACKUP_PIPELINE_RUN_LAUNCHER"
# One source with its tables as Parquet (benchmarks/results/memory.md); a dump alone takes less.
_SOURCE_BYTES = 330_000_000
_ROOM = b"""
select least(
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true), '0')::int
        - (select count(*)::int - 1 from pg_stat_activity where backend_type = 'client backend'),
    (select nullif(rolconnlimit, -1) from pg_roles where rolname = current_user)),
    current_setting('max_connections')::int
"""


def parallel_faults(site: Site) -> Iterator[EnvironmentFault]:
    """Yield warnings about `parallel_sources` of the plans; a server is asked for its room where several are on it.

    A server that does not answer is reported by the check of servers.
    """
    if executor := _spread_by(site):
        yield from _unused(site, executor)
    else:
        asked = [wanted for plan in site.single_plans for wanted in _servers(site, plan)]
        with ContextThreadPool(max_workers=8) as pool:
            for faults in pool.map(lambda wanted: list(_room(*wanted)), asked):
                yield from faults
        for plan in site.single_plans:
            yield from _memory(site, plan)
    yield from _pools(site)


def _spread_by(site: Site) -> str:
    """Return the executor that gives each source a process of its own; "" where one process has all."""
    named = site.value(_EXECUTOR).strip()
    return "" if named == "in_process" else named


def _unused(site: Site, executor: str) -> Iterator[EnvironmentFault]:
    for plan in site.single_plans:
        if "parallel_sources" in site.plan(plan).model_fields_set:
            yield EnvironmentFault(
                f"plans.{plan}.parallel_sources",
                f"has no effect: with {_EXECUTOR}={executor} each source is captured by a process of its own",
                "Leave it out. As many are captured at once as there are workers times their --concurrency (celery), "
                f"or as max_concurrent in {_EXECUTOR}_CONFIG says (multiprocess).",
                Severity.WARN,
            )


def _at_once(site: Site, plan: str) -> dict[tuple[str, int], list[tuple[int, PostgresTarget]]]:
    """Return the connections that each source of a plan holds at once, and where it is reached, by server."""
    found: dict[tuple[str, int], list[tuple[int, PostgresTarget]]] = {}
    for name, connection in database_sources(site, [plan], of_servers=True).items():
        try:
            target = target_of(site, connection, name)
        except SettingsError:
            continue  # reported with the variables
        if not (is_placeholder(target.password) or is_placeholder(target.host)):
            held = site.source(name).connections_at_once
            found.setdefault((target.host, target.port), []).append((held, target))
    return found


def _servers(site: Site, plan: str) -> Iterator[tuple[str, int, int, PostgresTarget]]:
    """Yield of each server with several sources of a plan how many are captured at once, by how many connections."""
    for sources in _at_once(site, plan).values():
        together = min(site.plan(plan).parallel_sources, len(sources))
        if together > 1:
            needed = sum(sorted((held for held, _ in sources), reverse=True)[:together])
            yield plan, together, needed, sources[0][1]


def _room(plan: str, together: int, needed: int, target: PostgresTarget) -> Iterator[EnvironmentFault]:
    from backup_pipeline.postgres.server.connection import asking

    try:
        with asking(target, seconds=CONNECT_SECONDS) as connection:
            row = connection.execute(_ROOM).fetchone()
    except BackupSystemError:
        return
    if row is not None and row[0] < needed:
        yield EnvironmentFault(
            f"plans.{plan}.parallel_sources",
            f"{together} of its sources at once take up to {needed} connections of {target.host}:{target.port}, "
            f"where {row[0]} of max_connections = {row[1]} are free for {target.user} now",
            "Lower parallel_sources, or `connections` of the sources; or raise max_connections. A source that is "
            "refused for want of room is captured alone when the others have ended.",
            Severity.WARN,
        )


def _memory(site: Site, plan: str) -> Iterator[EnvironmentFault]:
    import psutil

    settings = site.plan(plan)
    together = min(settings.parallel_sources, len(settings.sources))
    free = psutil.virtual_memory().available
    if together > 1 and together * _SOURCE_BYTES > free:
        yield EnvironmentFault(
            f"plans.{plan}.parallel_sources",
            f"{together} sources at once may need {bytes_text(together * _SOURCE_BYTES)} of memory; "
            f"this machine has {bytes_text(free)} free now",
            "Lower parallel_sources, or give the machine more memory.",
            Severity.WARN,
        )


def _pools(site: Site) -> Iterator[EnvironmentFault]:
    """Yield that Dagster's pools limit nothing, where a site that uses Celery has configured them."""
    spread = next((name for name in (_EXECUTOR, _LAUNCHER) if site.value(name).strip() == "celery"), "")
    home = site.value("DAGSTER_HOME")
    if not spread or not home:
        return
    place = Path(home) / "dagster.yaml"
    try:
        limits = (yaml.safe_load(place.read_text("utf-8")) or {}).get("concurrency") or {}
        configured = [name for name in ("pools", "default_op_concurrency_limit") if limits.get(name)]
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return
    if configured:
        yield EnvironmentFault(
            f"{place}: concurrency.{configured[0]}",
            f"limits nothing with {spread}=celery: captures are in no pool, and Celery's steps are said to ignore them",
            "Limit by the number of workers times their --concurrency, by max_concurrent_runs, or by per_server and "
            "per_network of a fleet; then remove it.",
            Severity.WARN,
        )
