"""Which capture belongs to which kind of source: the one table, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.artefacts.targets import target_of
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import (
    FolderSource,
    OrdersSource,
    PostgresSource,
    RepositorySource,
    SqliteSource,
    TableSelection,
)

AUFTRAEGE = "auftraege"


def capture_source(
    site: Site, context: CaptureContext, selected: frozenset[tuple[str, ...]] | None = None
) -> Iterator[ArtefactRecord]:
    """Capture one source with the function of its kind, yielding records as artefacts complete.

    The captures import their libraries here, so that a plan of folders does not load pandas.
    """
    source = site.source(context.source)
    match source:
        case PostgresSource():
            from backup_pipeline.sources.postgres.capture import capture_postgres

            target = target_of(site, source, context.source)
            yield from capture_postgres(context, source, target, selected=selected)
        case SqliteSource():
            from backup_pipeline.sources.sqlite.capture import capture_sqlite

            yield from capture_sqlite(context, source)
        case OrdersSource():
            yield from _capture_orders(site, context, source, selected)
        case FolderSource():
            from backup_pipeline.sources.folder.capture import capture_folder

            yield from capture_folder(context, source)
        case RepositorySource():
            from backup_pipeline.sources.repository.capture import capture_repository

            yield from capture_repository(context, source)


def _capture_orders(
    site: Site, context: CaptureContext, source: OrdersSource, selected: frozenset[tuple[str, ...]] | None
) -> Iterator[ArtefactRecord]:
    """Capture the database of an order archive, then write each order's pair into its folder."""
    from backup_pipeline.sources.orders.capture import capture_pairs, writes_pairs
    from backup_pipeline.sources.orders.source import orders_place

    records: list[ArtefactRecord] = []
    for record in _capture_orders_database(site, context, source):
        records.append(record)
        yield record
    if writes_pairs(context, selected):
        yield capture_pairs(context, orders_place(site, context.source), records)


def _capture_orders_database(site: Site, context: CaptureContext, source: OrdersSource) -> Iterator[ArtefactRecord]:
    if source.database is not None:
        from backup_pipeline.sources.sqlite.capture import capture_sqlite

        yield from capture_sqlite(context, as_sqlite(source, source.database))
        return
    from backup_pipeline.sources.postgres.capture import capture_postgres

    yield from capture_postgres(context, as_postgres(source), target_of(site, source, context.source))


def as_sqlite(source: OrdersSource, database: Path) -> SqliteSource:
    """Return the SQLite source that an order archive's database is."""
    return SqliteSource(
        kind="sqlite",
        path=database,
        tables=TableSelection(include=("main.*",)),
        required_tables=(AUFTRAEGE,),
        owners=source.owners,
        collapse=source.collapse,
    )


def as_postgres(source: OrdersSource) -> PostgresSource:
    """Return the PostgreSQL source that an order archive's database is."""
    return PostgresSource(
        kind="postgres",
        dsn_env=source.dsn_env,
        tables=TableSelection(include=(f"public.{AUFTRAEGE}",)),
        required_tables=(AUFTRAEGE,),
        owners=source.owners,
        collapse=source.collapse,
    )
