"""Do the servers answer, does a client of this machine fit them, do their clocks agree, does the role see all rows?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from backup_pipeline.artefacts.targets import target_of
from backup_pipeline.errors import BackupSystemError, SettingsError
from backup_pipeline.model.record import Severity
from backup_pipeline.operations.environment.check import database_sources
from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.target import PostgresTarget, parse_target
from backup_pipeline.rules.environment import EnvironmentFault, is_placeholder
from backup_pipeline.settings.site import Site
from backup_pipeline.system.threads import ContextThreadPool

CONNECT_SECONDS = 5
CLOCK_WARNING_SECONDS = 5.0
CLOCK_FAULT_SECONDS = 60.0
DRILL_VARIABLE = "DRILL_DATABASE_URL"
DRILLS = "drills"
_SHOWN = 5
_HIDDEN = b"""
select format('%s.%s', n.nspname, c.relname)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and c.relrowsecurity and row_security_active(c.oid)
  and n.nspname not in ('pg_catalog', 'information_schema')
order by 1
"""


@dataclass(frozen=True, slots=True)
class ServerReply:
    """What a server said.

    Attributes:
        major: its major version.
        clock_ahead: by how many seconds its clock is ahead of ours.
        hidden: tables (`schema.table`) of which row level security shows the role a part only; pg_dump refuses them.
    """

    major: int
    clock_ahead: float
    hidden: tuple[str, ...] = ()


def server_faults(site: Site, plans: Sequence[str]) -> list[EnvironmentFault]:
    """Return the faults of every server that the sources of these plans, and drills, use; all are asked at once."""
    targets: list[tuple[str, PostgresTarget]] = []
    for name, source in database_sources(site, plans, of_servers=True).items():
        try:
            target = target_of(site, source, name)
        except SettingsError:
            continue  # reported with the variables
        if not (is_placeholder(target.password) or is_placeholder(target.host)):
            targets.append((f"source {name}", target))
    drill, found = _drill_target(site, targets)
    if drill:
        targets.append((DRILLS, drill))
    with ContextThreadPool(max_workers=8) as pool:
        for faults in pool.map(lambda pair: list(_judged(site, *pair)), targets):
            found += faults
    return found


def _drill_target(
    site: Site, live: Sequence[tuple[str, PostgresTarget]]
) -> tuple[PostgresTarget | None, list[EnvironmentFault]]:
    value = site.value(DRILL_VARIABLE)
    if not value or is_placeholder(value):
        return None, []
    try:
        target = parse_target(value, variable=DRILL_VARIABLE, environment=site.environment)
    except SettingsError as error:
        return None, [EnvironmentFault(error.where, error.what, error.remedy)]
    same = [name for name, other in live if (other.host, other.port) == (target.host, target.port)]
    if same:
        fault = EnvironmentFault(
            DRILL_VARIABLE,
            f"names the server of {', '.join(same)}: drills would load a live server",
            "Name a scratch server, or remove the variable to drill in an embedded one.",
            Severity.WARN,
            lax=True,
        )
        return None, [fault]
    return target, []


def ask(target: PostgresTarget) -> ServerReply:
    """Connect, within CONNECT_SECONDS, and return what the server says.

    Raises:
        UnreachableError, SourceError: as the server or network says.
    """
    from backup_pipeline.postgres.server.connection import asking, server_version

    options = {**dict(target.options), "connect_timeout": str(CONNECT_SECONDS)}
    with asking(replace(target, options=tuple(sorted(options.items())))) as connection:
        before = time.time()
        row = connection.execute("select extract(epoch from clock_timestamp())::float8").fetchone()
        after = time.time()
        assert row is not None
        hidden = tuple(str(name) for (name,) in connection.execute(_HIDDEN).fetchall())
        return ServerReply(server_version(connection)[0], float(row[0]) - (before + after) / 2, hidden)


def _judged(site: Site, user: str, target: PostgresTarget) -> Iterator[EnvironmentFault]:
    try:
        answer = ask(target)
    except BackupSystemError as error:
        if site.settings.embedded_postgres and not error.permanent:
            # The site's own server comes when a run needs it.
            remedy = "backup-pipeline up starts it, and so does each run; check again then."
            yield EnvironmentFault(
                target.label, f"{user}: its server is not up now", remedy, Severity.WARN, skipped=True
            )
            return
        yield EnvironmentFault(error.where, f"{user}: {error.what}", error.remedy)
        return
    try:
        choose_client(answer.major)
    except BackupSystemError as error:
        yield EnvironmentFault(target.label, f"{user}: {error.what}", error.remedy)
    if fault := clock_fault(target.label, answer.clock_ahead):
        yield fault
    if answer.hidden and user != DRILLS:
        yield row_security_fault(target.label, user, target.user, answer.hidden)


def row_security_fault(where: str, by: str, role: str, hidden: Sequence[str]) -> EnvironmentFault:
    """Return the fault of a role that does not see all rows: its dump fails."""
    shown = ", ".join(hidden[:_SHOWN]) + (f" and {len(hidden) - _SHOWN} more" if len(hidden) > _SHOWN else "")
    return EnvironmentFault(
        where,
        f"{by}: row level security hides rows of {shown} from the role {role}; pg_dump refuses that",
        f'alter role "{role}" bypassrls; (or dump as a role that has it)',
    )


def clock_fault(where: str, ahead: float) -> EnvironmentFault | None:
    """Return the fault of a clock that is `ahead` seconds before ours (negative: behind), None when it agrees."""
    if abs(ahead) < CLOCK_WARNING_SECONDS:
        return None
    severity = Severity.ERROR if abs(ahead) >= CLOCK_FAULT_SECONDS else Severity.WARN
    side = "ahead of" if ahead > 0 else "behind"
    return EnvironmentFault(
        where,
        f"its clock is {abs(ahead):.0f} s {side} this machine's; sets are named and kept by time",
        "Keep the clocks of both by NTP.",
        severity,
    )
