"""Which archive and which database a source of kind `orders` means. Nothing is read here but by who asks for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backup_pipeline.errors import SettingsError
from backup_pipeline.operations.targets import target_of
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import OrdersSource
from backup_pipeline.tools import orders_database
from backup_pipeline.tools.orders_database import OrdersSnapshot
from backup_pipeline.tools.postgres import orders as postgres
from backup_pipeline.tools.postgres.target import PostgresTarget, parse_target


@dataclass(frozen=True)
class OrdersPlace:
    """An archive and its database.

    Attributes:
        archive: the folder.
        database: a SQLite file or a PostgreSQL database; None when only the archive is known.
        lock_wait_seconds: how long to wait for another process.
    """

    archive: Path
    database: Path | PostgresTarget | None
    lock_wait_seconds: float = 30.0

    @property
    def label(self) -> str:
        """The database for people, without secrets."""
        if isinstance(self.database, PostgresTarget):
            return self.database.label
        return str(self.database or "")

    def need_database(self) -> Path | PostgresTarget:
        """Return the database; SettingsError when none is known."""
        if self.database is None:
            raise SettingsError(
                "No database is named.", where=str(self.archive), remedy="Name it with --db, or in backup.yaml."
            )
        return self.database


def order_sources(site: Site, plan: str | None = None) -> list[str]:
    """Return the names of the site's (or a plan's) sources of kind `orders`."""
    names = site.plan(plan).sources if plan else tuple(site.settings.sources)
    return [name for name in names if isinstance(site.source(name), OrdersSource)]


def orders_place(site: Site, source_name: str) -> OrdersPlace:
    """Return a source's archive and database.

    Raises:
        SettingsError: not a source of kind `orders`, or it names no database, or its variable is not set.
    """
    source = site.source(source_name)
    if not isinstance(source, OrdersSource):
        raise SettingsError(
            f"Source {source_name} is of kind {source.kind}, not orders.", where=str(site.file),
            remedy=f"Name one of: {', '.join(order_sources(site)) or '(there is none)'}.",
        )  # fmt: skip
    database: Path | PostgresTarget | None = source.database
    if database is None and source.dsn_env:
        database = target_of(site, source, source_name)
    return OrdersPlace(source.archive, database, source.lock_wait_seconds)


def choose_source(site: Site, plan: str | None, source: str | None) -> str:
    """Return the source that is meant: as named, else the only one of kind `orders`.

    Raises:
        SettingsError: none, or several.
    """
    if source is not None:
        return source
    names = order_sources(site, plan)
    if len(names) == 1:
        return names[0]
    raise SettingsError(
        f"There {'are several sources' if names else 'is no source'} of kind orders.", where=str(site.file),
        remedy=f"Name one with --source: {', '.join(names)}." if names else "Add one, or use --db and --archive.",
    )  # fmt: skip


def place_without_site(database: Path | None, archive: Path, dsn_env: str | None, value: str) -> OrdersPlace:
    """Return the place that options name. `value` is that of the variable `dsn_env`."""
    if dsn_env is None:
        return OrdersPlace(archive, database)
    if not value:
        raise SettingsError("The variable is not set.", where=dsn_env, remedy="Set it to the connection string.")
    return OrdersPlace(archive, parse_target(value, variable=dsn_env))


@contextlib.contextmanager
def open_orders(place: OrdersPlace) -> Iterator[OrdersSnapshot]:
    """Hold one consistent snapshot of the place's rows for the block.

    Raises:
        SettingsError, SourceError, UnreachableError: no database is named, or it cannot be read.
    """
    database = place.need_database()
    if isinstance(database, PostgresTarget):
        with postgres.postgres_orders(database) as from_server:
            yield from_server
    else:
        with orders_database.sqlite_orders(database) as from_file:
            yield from_file


def year_states(place: OrdersPlace) -> dict[str, tuple[int, str]]:
    """Return, by year, the number of rows and the newest updated_at: what a sensor compares."""
    database = place.need_database()
    if isinstance(database, PostgresTarget):
        return postgres.year_states(database)
    return orders_database.year_states(database)


def database_state(place: OrdersPlace) -> str:
    """Return a text that changes with every commit; "" where only a query can tell."""
    database = place.need_database()
    return "" if isinstance(database, PostgresTarget) else orders_database.database_state(database)
