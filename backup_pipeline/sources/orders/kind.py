"""The kind `orders`: an order archive, captured as its database, with each order's pair written into its folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.artefacts.drilling import DrillBeside
from backup_pipeline.model.manifest import Manifest
from backup_pipeline.model.progress import ProgressSink
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.rules.environment import EnvironmentFault
from backup_pipeline.settings.types import SourceSettings, source_kinds
from backup_pipeline.sources.kind import Key, SiteSource, SourceKind, StandingProblem, path_faults
from backup_pipeline.sources.orders.format.order import PAIRS
from backup_pipeline.sources.orders.settings import OrdersSource
from backup_pipeline.sources.registry import kind_named

AUFTRAEGE = "auftraege"


class OrdersKind(SourceKind[OrdersSource]):
    """A workshop's order archive. Its database is captured by the kind of source that a database of its sort is."""

    name: ClassVar[str] = "orders"
    settings: ClassVar[type[SourceSettings]] = OrdersSource
    has_tables: ClassVar[bool] = True
    restored_with_its_plan: ClassVar[bool] = False

    def artefacts(self, source: SiteSource[OrdersSource]) -> Sequence[tuple[Key, str]]:
        """Return the database's keys and that of the pairs."""
        database = database_source(source)
        return [
            *kind_named(database.settings.kind_name).artefacts(database),
            ((source.name, PAIRS), ArtefactKind.ORDER_PAIRS),
        ]

    def capture(
        self, source: SiteSource[OrdersSource], context: CaptureContext, selected: frozenset[Key] | None
    ) -> Iterator[ArtefactRecord]:
        """Capture the database, then write each order's pair into its folder."""
        from backup_pipeline.sources.orders.capture import capture_pairs, writes_pairs
        from backup_pipeline.sources.orders.source import orders_place

        database = database_source(source)
        records: list[ArtefactRecord] = []
        for record in kind_named(database.settings.kind_name).capture(database, context, None):
            records.append(record)
            yield record
        if writes_pairs(context, selected):
            yield capture_pairs(context, orders_place(source.site, source.name), records)

    def place(self, source: SiteSource[OrdersSource]) -> Path | None:
        """Return the SQLite file; None where the orders are in PostgreSQL."""
        return source.settings.database

    def environment_faults(self, source: SiteSource[OrdersSource]) -> Iterator[EnvironmentFault]:
        """Yield what is wrong with database file and archive."""
        database, archive = source.settings.database, source.settings.archive
        yield from path_faults(source.name, *(path for path in (database, archive) if path))
        if archive.exists() and os.access(archive, os.R_OK) and not os.access(archive, os.W_OK | os.X_OK):
            yield EnvironmentFault(
                str(archive),
                f"the archive of {source.name} cannot be written, so no order gets its pair",
                "Give this user the right to write there.",
            )

    def standing_problems(
        self, source: SiteSource[OrdersSource], plan: str, last_good: Manifest | None
    ) -> Sequence[StandingProblem]:
        """Return what a few orders of the archive show."""
        from backup_pipeline.sources.orders.standing import archive_problems

        return archive_problems(source, plan, last_good)

    def drill_beside(
        self,
        source: SiteSource[OrdersSource],
        records: Sequence[ArtefactRecord],
        folder: Path,
        captured: datetime,
        progress: ProgressSink,
    ) -> DrillBeside:
        """Restore the archive's folders into a scratch database, to be compared with the set's."""
        from backup_pipeline.sources.orders.capture import recorded_pairs
        from backup_pipeline.sources.orders.drill import ArchiveDrill

        recorded = recorded_pairs(list(records), source.name)
        return ArchiveDrill(source.settings, folder, captured, progress, recorded)


def database_source(source: SiteSource[OrdersSource]) -> SiteSource[SourceSettings]:
    """Return the source that the archive's database is for itself."""
    settings = source.settings
    fields: dict[str, object] = {
        "required_tables": (AUFTRAEGE,),
        "owners": settings.owners,
        "collapse": settings.collapse,
    }
    if settings.database is not None:
        fields |= {"kind": "sqlite", "path": settings.database, "tables": {"include": ("main.*",)}}
    else:
        fields |= {"kind": "postgres", "dsn_env": settings.dsn_env, "tables": {"include": (f"public.{AUFTRAEGE}",)}}
    database = source_kinds()[str(fields["kind"])].model_validate(fields)
    return SiteSource(source.site, source.name, database)
