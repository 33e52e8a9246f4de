"""From a source's settings and the environment to the PostgreSQL database it means. No connection is made here."""

from __future__ import annotations

from backup_pipeline.errors import SettingsError
from backup_pipeline.postgres.server.target import PostgresTarget, parse_target
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import Connection


def target_of(site: Site, connection: Connection, source_name: str) -> PostgresTarget:
    """Return the database of a source: the first set variable of `dsn_env`, completed by user and password variables.

    Raises:
        SettingsError: no variable is set, or the one that is set cannot be understood; its value is never quoted.
    """
    for variable in connection.dsn_env:
        if value := site.value(variable):
            break
    else:
        variable, value = "dsn", connection.address
    if not value:
        raise SettingsError(
            f"None of the variables of source {source_name} is set: "
            f"{', '.join(connection.dsn_env) or 'dsn_env is empty'}.",
            where=str(site.folder / ".env"),
            remedy="Set one of them in .env or in the environment; .env.template explains each.",
        )
    target = parse_target(
        value,
        variable=variable,
        user=site.value(connection.user_env),
        password=site.value(connection.password_env),
        environment=site.environment,
    )
    return target if connection.database is None else target.with_database(connection.database)


def database_of(site: Site, source_name: str) -> PostgresTarget:
    """Return the database of a source by its name.

    Raises:
        SettingsError: the source has none now, or as in `target_of`.
    """
    connection = site.source(source_name).connection
    if connection is None:
        raise SettingsError(
            f"The set holds a database of source {source_name}, which has no connection in the settings.",
            where=str(site.file),
            remedy="Name its `dsn_env` again, or restore the set of a site that has it.",
        )
    return target_of(site, connection, source_name)
