"""Is this site's environment fit to back up? One list of everything that is not, before anything is begun.

`require_environment` is what a run asks before it makes a set: quick, no connections. `check_environment` is what a
person asks: it also reaches servers, disks and programs. Whether a value is good is judged in rules/environment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from backup_pipeline.artefacts.targets import target_of
from backup_pipeline.errors import SettingsError
from backup_pipeline.model.record import Severity
from backup_pipeline.operations.sites.known_databases import refresh_databases
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.rules.environment import (
    EnvironmentFault,
    Form,
    Need,
    is_placeholder,
    need_faults,
    password_fault,
    secret_faults,
    unfilled_faults,
)
from backup_pipeline.rules.overdue import what_starts
from backup_pipeline.settings.env_template import TEMPLATE_VARIABLES
from backup_pipeline.settings.loader import ENV_NAME
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import Connection
from backup_pipeline.settings.variables import read_env_file

LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}


def database_sources(site: Site, plans: Iterable[str], *, of_servers: bool = False) -> dict[str, Connection]:
    """Return how the sources of these plans whose database is reached by a connection string are reached, by name.

    Args:
        site: the site.
        plans: names of plans.
        of_servers: with the databases of servers, which are reached by the variables of their server.
    """
    found: dict[str, Connection] = {}
    for plan in plans:
        for name in site.plan(plan).sources:
            if site.server_of(name) and not of_servers:
                continue
            if (connection := site.source(name).connection) is not None:
                found[name] = connection
    return found


def environment_faults(site: Site, plans: Sequence[str], only: Sequence[str] | None = None) -> list[EnvironmentFault]:
    """Return what is wrong with the variables that the sources of these plans need; no connection is made.

    Args:
        site: the site.
        plans: names of plans.
        only: names of the sources to inspect; all of these plans by default.
    """
    sources = database_sources(site, plans)
    if only is not None:
        wanted = {*only, *map(site.server_of, only)}
        sources = {name: source for name, source in sources.items() if name in wanted}
    found = need_faults(
        (Need(one.dsn_env, f"source {name}", Form.DSN) for name, one in sources.items() if not one.address),
        site.environment,
    )
    for name, source in sources.items():
        _, value = _first_set(site, source)
        if not value or (not source.address and is_placeholder(value)):
            # What completes it is reported now, not only after the next correction.
            found += need_faults(_beside(source, name), site.environment)
            continue
        try:
            target = target_of(site, source, name)
        except SettingsError as error:
            found.append(EnvironmentFault(error.where, error.what, error.remedy))
            continue
        found += need_faults(_completing(source, name, target), site.environment)
    return list(dict.fromkeys(found))


def _first_set(site: Site, source: Connection) -> tuple[str, str]:
    found = next(((name, value) for name in source.dsn_env if (value := site.value(name))), ("", ""))
    return ("dsn", source.address) if source.address else found


def _beside(source: Connection, name: str) -> list[Need]:
    """Return the variables that are wanted beside a connection string that is not there yet."""
    by = f"source {name}, unless {source.dsn_env[0]} holds it"
    return [Need((variable,), by) for variable in (source.user_env, source.password_env) if variable]


def _completing(source: Connection, name: str, target: PostgresTarget) -> list[Need]:
    """Return the variables that must complete a connection string which lacks user or password."""
    needs = []
    # A value that came from its variable is inspected as well: it may be a placeholder.
    for variable, has in ((source.user_env, target.user), (source.password_env, target.password)):
        if variable and (not has or is_placeholder(has)):
            needs.append(Need((variable,), f"source {name}"))
    return needs


def require_environment(site: Site, plan_name: str, sources: Sequence[str] | None = None) -> None:
    """Raise one SettingsError naming every variable that a run of this plan (or of these sources) cannot use."""
    faults = environment_faults(site, [plan_name], sources)
    if not faults:
        return
    env = str(site.folder / ".env")
    if len(faults) == 1:
        raise SettingsError(f"{faults[0].where}: {faults[0].what}.", where=env, remedy=faults[0].remedy)
    lines = [f"{fault.where}: {fault.what}" for fault in faults]
    raise SettingsError(
        "\n".join([f"{len(faults)} variables of plan {plan_name} are not usable.", *lines]),
        where=env,
        remedy="Correct them there or in the environment; backup-pipeline env check says more.",
    )


def check_environment(site: Site, *, now: datetime, production: bool = False) -> list[EnvironmentFault]:
    """Return everything that is wrong with a site's environment, errors first, and last what was not inspected.

    Args:
        site: the site.
        now: the present moment by this machine's clock.
        production: count weak secrets and open modes as errors.
    """
    from backup_pipeline.operations.environment.check_databases import found_database_faults
    from backup_pipeline.operations.environment.check_drills import drill_faults
    from backup_pipeline.operations.environment.check_machine import machine_faults
    from backup_pipeline.operations.environment.check_parallel import parallel_faults
    from backup_pipeline.operations.environment.check_servers import server_faults
    from backup_pipeline.operations.environment.check_vaults import vault_faults, vault_needs

    plans, alone = list(site.settings.plans), site.single_plans
    now_there = refresh_databases(site, [*alone, *site.settings.fleets], keep=False).site
    judged = [
        *environment_faults(site, plans),
        *need_faults(_optional_needs(site), site.environment),
        *need_faults(vault_needs(site), site.environment),
        *_address_faults(site),
        *secret_faults(site.environment, now),
    ]
    found = [
        *judged,
        *_unfilled(site, judged),
        *_target_faults(site, plans),
        *machine_faults(site, now),
        # The servers of a fleet are reached by its backups: to connect to a thousand is no check.
        *server_faults(now_there, alone),
        *parallel_faults(now_there),
        *found_database_faults(site, [*alone, *site.settings.fleets]),
        *drill_faults(site, alone),
        *_fleet_faults(site),
        *_not_started(site),
        *vault_faults(site),
    ]
    graded = dict.fromkeys(fault.graded(production=production) for fault in found)
    return sorted(graded, key=lambda fault: (fault.severity is not Severity.ERROR, fault.skipped))


def _fleet_faults(site: Site) -> list[EnvironmentFault]:
    """Return what is wrong with the lists of members of fleets, and that the members were not reached."""
    remedy = "Correct the list, or what writes it; the others are captured (docs/fleets.md)."
    return [
        EnvironmentFault(where, f"{what} (fleet {name})", remedy)
        for name, fleet in site.fleets.items()
        for where, what in fleet.faults
    ] + [
        EnvironmentFault(
            f"fleets.{name}",
            f"the servers of its {len(fleet.members)} members were not asked",
            f"backup-pipeline backup {name} reaches them.",
            Severity.WARN,
            skipped=True,
        )
        for name, fleet in site.fleets.items()
        if fleet.members
    ]


def _not_started(site: Site) -> list[EnvironmentFault]:
    """Return a warning for each plan and fleet that nothing starts."""
    plans = {f"plans.{name}": site.plan(name) for name in site.single_plans}
    remedies = {where: what_starts(where, one.schedule, one.overdue_after) for where, one in plans.items()}
    for name, fleet in site.settings.fleets.items():
        remedies[f"fleets.{name}"] = what_starts(f"fleets.{name}", fleet.schedule, fleet.plan.overdue_after)
    return [
        EnvironmentFault(where, "nothing starts this plan", f"{remedy[:1].upper()}{remedy[1:]}.", Severity.WARN)
        for where, remedy in remedies.items()
        if remedy
    ]


def _unfilled(site: Site, judged: Sequence[EnvironmentFault]) -> list[EnvironmentFault]:
    """Return a fault for each other variable of `.env` that is a placeholder: other programs read them too."""
    names = {name for fault in judged for name in fault.where.split(" or ")}
    values = read_env_file(site.folder / ENV_NAME)
    # The template's own examples stand for variables that this site may not need; those that it needs are judged.
    names |= {variable.name for variable in TEMPLATE_VARIABLES if values.get(variable.name) == variable.example}
    return unfilled_faults(values, names)


def _optional_needs(site: Site) -> list[Need]:
    alerts = site.settings.alerts
    needs = [
        Need((plan.ping_env,), f"the dead-man's-switch of plan {name}", Form.URL, required=False)
        for name, plan in site.settings.plans.items()
        if plan.ping_env
    ]
    if alerts.urls_env:
        needs.append(Need(alerts.urls_env, "alerts", Form.URLS, required=False))
    if alerts.ui_url_env and site.value(alerts.ui_url_env):
        needs.append(Need((alerts.ui_url_env,), "links in alerts", Form.URL, required=False))
    return needs


def _address_faults(site: Site) -> list[EnvironmentFault]:
    """Return a fault for each address for alerts that Apprise does not know; the address itself is a secret."""
    from backup_pipeline.system.notifications import understood

    return [
        EnvironmentFault(
            name,
            f"address {number} is none that Apprise knows: its alerts would reach nobody",
            "Correct it (docs/alerts.md shows the forms), then run: backup-pipeline alerts test",
        )
        for name in site.settings.alerts.urls_env
        for number, address in enumerate(site.value(name).split(), 1)
        if not is_placeholder(address) and not understood(address)
    ]


def _target_faults(site: Site, plans: Sequence[str]) -> list[EnvironmentFault]:
    """Return faults that a connection string shows by itself: a weak password, a local server."""
    found = []
    # Said once, however many sources there are.
    local: dict[str, list[str]] = {}
    for name, source in database_sources(site, plans).items():
        variable, _ = _first_set(site, source)
        try:
            target = target_of(site, source, name)
        except SettingsError:
            continue  # reported already
        if not is_placeholder(target.password) and (fault := password_fault(variable, target.password)):
            found.append(fault)
        if target.host in LOCAL_HOSTS and site.settings.embedded_postgres is None:
            local.setdefault(variable, []).append(name)
        elif target.host not in LOCAL_HOSTS and dict(target.options).get("sslmode") in (None, "disable", "allow"):
            found.append(
                EnvironmentFault(
                    variable,
                    f"source {name} may be reached without encryption",
                    "Add ?sslmode=require (better: verify-full) to the connection string.",
                    Severity.WARN,
                )
            )
    if local:
        names = [name for each in local.values() for name in each]
        found.append(
            EnvironmentFault(
                ", ".join(local),
                f"source{'s' if names[1:] else ''} {', '.join(names)} {'are' if names[1:] else 'is'} on this machine: "
                "a backup beside its source is lost with it",
                "Copy the sets into a vault elsewhere (docs/vaults.md), or back up from another machine.",
                # Right for many sites, so not an error in production either.
                Severity.WARN,
            )
        )
    return found
