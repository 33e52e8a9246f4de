"""PostgreSQL databases for a first site: of connection strings that are given, of `.env`, or of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from backup_pipeline.errors import BackupSystemError, SettingsError
from backup_pipeline.operations.first_site.found import Discovery, free_name, variable_of
from backup_pipeline.postgres.server.discovery import connection_string, databases_of, local_servers
from backup_pipeline.postgres.server.target import PostgresTarget, parse_target

Place = tuple[str, int, str]
"""Host, port and database."""

_SHOWN = 8
_SCHEMES = ("postgres://", "postgresql://", "postgresql+", "jdbc:postgresql://")


def find_in_variables(variables: Mapping[str, str], environment: Mapping[str, str], findings: Discovery) -> None:
    """Add the database of every variable that holds a PostgreSQL connection string; one database is added once."""
    known: set[Place] = set()
    for name, value in variables.items():
        if value.strip().startswith(_SCHEMES):
            try:
                add_variable(name, value, environment, findings, known)
            except BackupSystemError as error:
                findings.passed_over.append((name, str(error.what)))
    if not known and (dsn := _of_a_container(variables)):
        try:
            add_server(dsn, environment, findings, every=False)
        except BackupSystemError as error:
            findings.passed_over.append(("POSTGRES_DB", str(error.what)))


def _of_a_container(variables: Mapping[str, str]) -> str:
    """Return the connection string that the variables of PostgreSQL's container image mean; "" where one is missing."""
    user, password, database = (variables.get(f"POSTGRES_{part}", "") for part in ("USER", "PASSWORD", "DB"))
    if not (user and password):
        return ""
    host, port = variables.get("POSTGRES_HOST") or "127.0.0.1", variables.get("POSTGRES_PORT") or "5432"
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return f"postgresql://{login}@{host}:{port}/{quote(database or user, safe='')}"


def add_variable(
    name: str,
    value: str,
    environment: Mapping[str, str],
    findings: Discovery,
    known: set[Place] | None = None,
    *,
    every: bool = False,
) -> None:
    """Add the database of a variable that is set already: backup.yaml names it, and nothing is written for it.

    With `every` all databases of its server, where that has several.

    Raises:
        BackupSystemError: it is no connection string, or the server does not answer.
    """
    beside = _login_beside(name, value, environment)
    user, password = (environment.get(beside.get(part, ""), "") for part in ("user_env", "password_env"))
    target = parse_target(value, variable=name, user=user, password=password, environment=environment)
    place: Place = (target.host, target.port, target.database)
    if known is not None and place in known:
        findings.passed_over.append((name, f"is {target.label} again"))
        return
    others = _others(target)
    if every and others:
        found = sorted({target.database, *others})
        settings = {"dsn_env": name, **beside, "databases": {"include": ["*"]}}
        findings.add(_server_name(findings), "postgres", _server_label(target, found), settings)
        return
    if known is not None:
        known.add(place)
    findings.add(target.database, "postgres", f"database {target.label}", {"dsn_env": name, **beside})
    _mention(others, findings)


def _login_beside(name: str, value: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that hold user and password of a URL without them, as Keycloak's KC_DB_URL has them."""
    if "@" in value:
        return {}
    prefix = name.removesuffix("_URL")
    named = {"user_env": f"{prefix}_USERNAME", "password_env": f"{prefix}_PASSWORD"}
    return {setting: variable for setting, variable in named.items() if environment.get(variable)}


def add_server(dsn: str, environment: Mapping[str, str], findings: Discovery, *, every: bool) -> None:
    """Add the database of a connection string that is given, or all databases of its server.

    Args:
        dsn: the connection string, which goes into `.env`.
        environment: PG* variables.
        findings: what they are added to.
        every: all databases that the role may connect to.

    Raises:
        BackupSystemError: it is no connection string, or the server does not answer.
    """
    target = parse_target(dsn, variable="--dsn", environment=environment)
    names = [one.name for one in databases_of(target)]
    if every and len(names) > 1:
        _add_all(target, names, findings, environment)
        return
    wanted = names if every else [target.database]
    if target.database not in names and not every:
        names.append(target.database)
    for name in wanted:
        _add(target.with_database(name), findings, environment)
    _mention([name for name in names if name not in wanted], findings)


def find_on_this_machine(environment: Mapping[str, str], findings: Discovery) -> None:
    """Add every server of this machine that lets this user in, and say which do not.

    One database with tables is a source; several are one source that stands for all of the server.
    """
    for server in local_servers(environment):
        try:
            found = databases_of(server)
        except BackupSystemError as error:
            findings.passed_over.append((f"PostgreSQL at {server.host}:{server.port}", str(error.what)))
            continue
        names = [database.name for database in found if database.tables]
        if len(names) > 1:
            _add_all(server.with_database(names[0]), names, findings, environment)
            continue
        for database in found:
            if database.tables:
                _add(server.with_database(database.name), findings, environment)
            else:
                findings.passed_over.append((f"database {database.name}", "has no tables"))


def _add(target: PostgresTarget, findings: Discovery, environment: Mapping[str, str]) -> None:
    name = free_name(target.database, {source.name for source in findings.sources})
    variable, value = _variable(name, target, environment)
    findings.add(name, "postgres", f"database {target.label}", {"dsn_env": variable}, **{variable: value})


def _add_all(target: PostgresTarget, names: list[str], findings: Discovery, environment: Mapping[str, str]) -> None:
    """Add one source for all databases of a server, those that will be made later among them."""
    name = _server_name(findings)
    variable, value = _variable(name, target, environment)
    # `include` is what stands there anyway: it shows where to write another.
    settings = {"dsn_env": variable, "databases": {"include": ["*"]}}
    findings.add(name, "postgres", _server_label(target, names), settings, **{variable: value})


def _server_name(findings: Discovery) -> str:
    """Return a free name; databases are named `<server>_…`, so that none of them may begin with another and `_`."""
    number = sum("databases" in source.settings for source in findings.sources) + 1
    return "server" if number == 1 else f"server{number}"


def _server_label(target: PostgresTarget, names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return f"all {len(names)} databases of {target.host}:{target.port}: {shown}"


def _variable(name: str, target: PostgresTarget, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return a variable that holds the target or is free, and the connection string."""
    variable, value = variable_of(name), connection_string(target)
    number = 1
    while environment.get(variable, value) != value:
        number += 1
        variable = f"{variable_of(name)}_{number}"
    return variable, value


def _others(target: PostgresTarget) -> list[str]:
    return [one.name for one in databases_of(target) if one.name != target.database and one.tables]


def _mention(names: list[str], findings: Discovery) -> None:
    findings.passed_over += [
        (f"database {name}", "is on the same server; --all-databases takes it, too") for name in names
    ]


def given_variable(name: str, environment: Mapping[str, str]) -> str:
    """Return the value of a variable that was named; SettingsError when it is not set."""
    if value := environment.get(name, "").strip():
        return value
    raise SettingsError("Not set.", where=name, remedy="Set it in the environment or in .env, or use --dsn FILE.")
