"""Archive and database of a source of kind `orders`, opened on demand."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from backup_pipeline.artefacts.targets import target_of
from backup_pipeline.artefacts.time_limits import archive_limit, default_limit
from backup_pipeline.errors import SettingsError
from backup_pipeline.postgres.server.target import PostgresTarget, parse_target
from backup_pipeline.settings.loader import find_settings_file, load_site
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.orders.database import database as orders_database
from backup_pipeline.sources.orders.database import postgres
from backup_pipeline.sources.orders.database.database import OrdersSnapshot
from backup_pipeline.sources.orders.format.order import OrdersRestoreResult, VerifyResult
from backup_pipeline.sources.orders.old_settings_file import (
    DATABASE_NAME,
    WORKSHOP_FILE,
    is_workshop_file,
    read_workshop_file,
)
from backup_pipeline.sources.orders.settings import OrdersLog, OrdersSource
from backup_pipeline.system.limits import Limit, limited
from backup_pipeline.system.log_file import LogFile, log_file


@dataclass(frozen=True)
class OrdersPlace:
    """An archive and its database.

    Attributes:
        archive: the folder.
        database: a SQLite file or a PostgreSQL database; None when only the archive is known.
        lock_wait_seconds: how long to wait for another process.
        log: the archive's log file; None for none.
        limit: of the time that work on it may take; the settings' defaults when None.
    """

    archive: Path
    database: Path | PostgresTarget | None
    lock_wait_seconds: float = 30.0
    log: OrdersLog | None = None
    limit: Limit | None = None

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


def orders_settings(site: Site, name: str) -> OrdersSource:
    """Return the settings of an order archive.

    Raises:
        SettingsError: the source is of another kind.
    """
    source = site.source(name)
    if not isinstance(source, OrdersSource):
        raise SettingsError(
            f"Source {name} is of kind {source.kind_name}, not orders.",
            where=str(site.file),
            remedy=f"Name one of: {', '.join(order_sources(site)) or '(there is none)'}.",
        )
    return source


def orders_place(site: Site, source_name: str) -> OrdersPlace:
    """Return a source's archive and database.

    Raises:
        SettingsError: not a source of kind `orders`, or it names no database, or its variable is not set.
    """
    source = orders_settings(site, source_name)
    database: Path | PostgresTarget | None = source.database
    if database is None and source.connection is not None:
        database = target_of(site, source.connection, source_name)
    limit = archive_limit(site, source_name)
    return OrdersPlace(source.archive, database, source.lock_wait_seconds, source.log, limit)


def time_limit(place: OrdersPlace, what: str) -> AbstractContextManager[object]:
    """Limit the time of a `with` block that works on a place; `what` begins the error's sentence."""
    return limited(what, place.limit or default_limit(), where=str(place.archive))


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
        f"There {'are several sources' if names else 'is no source'} of kind orders.",
        where=str(site.file),
        remedy=f"Name one with --source: {', '.join(names)}." if names else "Add one, or use --db and --archive.",
    )


def place_named(
    config: Path | None,
    *,
    plan: str | None = None,
    source: str | None = None,
    database: Path | None = None,
    archive: Path | None = None,
    dsn_env: str | None = None,
    dsn: str = "",
) -> OrdersPlace:
    """Return the archive and the database that a command's options mean.

    What no option names comes from the settings: the file that is named, else backup.yaml, else `.archiv_config.json`
    in this folder. Without any of them the database of an archive is `werkstatt.db` in it.

    Args:
        config: backup.yaml, its folder, or a workshop's own settings file; None to search for one.
        plan, source: which source of backup.yaml, where it has several.
        database, archive: instead of what the settings say.
        dsn_env: name of the variable with a PostgreSQL database's connection string, `dsn` its value.

    Raises:
        SettingsError: nothing names an archive, or a file is wrong.
    """
    if dsn_env is not None and archive is None:
        raise SettingsError("--dsn-env needs --archive.", where="command line", remedy="Name the archive's folder.")
    if dsn_env is not None and not dsn:
        raise SettingsError("The variable is not set.", where=dsn_env, remedy="Set it to the connection string.")
    if archive is not None and (database is not None or dsn_env is not None):
        if dsn_env is not None:
            return OrdersPlace(archive, parse_target(dsn, variable=dsn_env, environment=os.environ))
        return OrdersPlace(archive, database)
    known = _place_of_settings(config, plan, source, needed=archive is None)
    if known is None:
        assert archive is not None
        return OrdersPlace(archive, archive / DATABASE_NAME)
    return replace(known, database=database or known.database, archive=archive or known.archive)


def _place_of_settings(
    config: Path | None, plan: str | None, source: str | None, *, needed: bool
) -> OrdersPlace | None:
    """Return what the settings say; None where there are none and none are needed."""
    if config is not None and is_workshop_file(config):
        return _place_of_workshop(config)
    if config is None:
        try:
            find_settings_file()
        except SettingsError:
            if Path(WORKSHOP_FILE).is_file():
                return _place_of_workshop(Path(WORKSHOP_FILE))
            if not needed:
                return None
            raise
    site = load_site(config)
    if not needed and config is None and plan is None and source is None and not order_sources(site):
        return None
    return orders_place(site, choose_source(site, plan, source))


def _place_of_workshop(file: Path) -> OrdersPlace:
    """Return what a workshop's own settings file says; its log is `backup_system.log` beside it where it names none."""
    found = read_workshop_file(file)
    log = OrdersLog(file=found.log or file.absolute().parent / "backup_system.log")
    return OrdersPlace(found.archive, found.database, log=log)


@contextlib.contextmanager
def open_orders(place: OrdersPlace) -> Iterator[OrdersSnapshot]:
    """Hold one consistent snapshot of the place's rows for the block.

    Raises:
        SettingsError, SourceError, UnreachableError: no database is named, or it cannot be read.
    """
    database = place.need_database()
    with time_limit(place, "The work on the order archive"):
        if isinstance(database, PostgresTarget):
            with postgres.postgres_orders(database) as from_server:
                yield from_server
        else:
            with orders_database.sqlite_orders(database) as from_file:
                yield from_file


def orders_log(place: OrdersPlace) -> AbstractContextManager[LogFile]:
    """Open the archive's log file, if it has one, for a `with` block."""
    if place.log is None:
        return log_file(None)
    return log_file(place.log.file, max_bytes=int(place.log.max_megabytes * 1_000_000), keep=place.log.keep)


def log_findings(log: LogFile, result: VerifyResult | OrdersRestoreResult) -> None:
    """Write what a verification or a restore found into the archive's log: each error, then the summary."""
    what, good = ("verify", result.valid) if isinstance(result, VerifyResult) else ("restore", result.restored)
    name = f"orders.{what}"
    for finding in result.findings.worst_first():
        if finding.level == "error":
            log.write(name, "ERROR", f"{finding.path}: {finding.reason}")
    done = f"{what.capitalize()} abgeschlossen: {good} erfolgreich, {result.findings.errors} Fehler"
    log.write(name, "INFO", done)


def year_states(place: OrdersPlace) -> dict[str, tuple[int, str]]:
    """Return, by year, the number of rows and the newest updated_at: what a sensor compares."""
    database = place.need_database()
    if isinstance(database, PostgresTarget):
        return postgres.year_states(database)
    return orders_database.year_states(database)


def database_state(place: OrdersPlace) -> str:
    """Return a text that changes with every commit; "" where only a query can say."""
    database = place.need_database()
    return "" if isinstance(database, PostgresTarget) else orders_database.database_state(database)
