"""From a source's settings and the environment to the PostgreSQL database it means. No connection is made here."""

from __future__ import annotations

from backup_pipeline.errors import SettingsError
from backup_pipeline.postgres.server.target import PostgresTarget, parse_target
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import OrdersSource, PostgresSource


def target_of(site: Site, source: PostgresSource | OrdersSource, source_name: str) -> PostgresTarget:
    """Return the database of a source: the first set variable of `dsn_env`, completed by user and password variables.

    Raises:
        SettingsError: no variable is set, or the one that is set cannot be understood; its value is never quoted.
    """
    for variable in source.dsn_env:
        if value := site.value(variable):
            break
    else:
        raise SettingsError(
            f"None of the variables of source {source_name} is set: {', '.join(source.dsn_env) or 'dsn_env is empty'}.",
            where=str(site.folder / ".env"),
            remedy="Set one of them in .env or in the environment; .env.template explains each.",
        )
    if isinstance(source, OrdersSource):
        return parse_target(value, variable=variable, environment=site.environment)
    return parse_target(
        value,
        variable=variable,
        user=site.value(source.user_env),
        password=site.value(source.password_env),
        environment=site.environment,
    )
