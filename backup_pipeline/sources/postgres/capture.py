"""A PostgreSQL database: one exported snapshot for the dump, every table export, fingerprints, catalog and roles.

The order: check that what is required is there; lock and export the snapshot; read the catalog; write roles; then
dump and tables at once on a bounded number of connections, each artefact's record yielded as it is complete.
What each artefact is made of stands in `postgres.dump`, `postgres.roles` and `postgres.table_export`.
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.artefacts.required_tables import required_check
from backup_pipeline.errors import BackupSystemError, SourceError, UnreachableError
from backup_pipeline.model.catalog import Catalog, CatalogTable
from backup_pipeline.model.manifest import Failure, Purpose
from backup_pipeline.model.record import ArtefactRecord, ColumnRecord, Fingerprint
from backup_pipeline.postgres.catalog.keycloak_schema import keycloak_state_in
from backup_pipeline.postgres.catalog.read import read_catalog, read_roles, read_tables
from backup_pipeline.postgres.catalog.search_path import is_not_found
from backup_pipeline.postgres.export.fingerprint import (
    HashableTypes,
    fingerprint_large_objects,
    fingerprint_table,
)
from backup_pipeline.postgres.export.readers import CaptureStoppedError, HolderReaders, OwnPathReaders, Readers
from backup_pipeline.postgres.server.connection import LockNotGrantedError, asking, connected
from backup_pipeline.postgres.server.snapshot import Snapshot, exported_snapshot
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.settings.types import TableSelection
from backup_pipeline.sources.postgres.dump import SnapshotFacts, TableName, WrittenDump, dump_record, write_dump
from backup_pipeline.sources.postgres.roles import capture_roles
from backup_pipeline.sources.postgres.settings import PostgresSource
from backup_pipeline.system.threads import ContextThreadPool
from backup_pipeline.tables.file_stems import file_stems

if TYPE_CHECKING:
    from backup_pipeline.sources.postgres.table_export import TableExport

Key = tuple[str, ...]
_Read = TypeVar("_Read")
_ATTEMPTS = 10
_PAUSE_SECONDS = 0.3
# To read less takes no longer than another session takes to begin, on the server and here.
_WORTH_MORE_CONNECTIONS = 4 << 20
_PATH_REMEDY = (
    "A function that the table needs names something without its schema. Write the schema into the function, give it "
    "`set search_path`, or give the application's search_path to the backup's role: alter role … set search_path = …"
)


def discover_tables(
    target: PostgresTarget, settings: PostgresSource
) -> list[tuple[str, str, tuple[ColumnRecord, ...]]]:
    """Return (schema, table, columns) of every table that a capture would export now. A quick query, no snapshot."""
    with asking(target) as connection:
        tables = read_tables(connection, keys=False)
    return [(t.schema_name, t.name, t.columns) for t in tables_to_export(tables, settings.tables)]


def tables_to_export(tables: Sequence[CatalogTable], selection: TableSelection) -> list[CatalogTable]:
    """Return the tables that a selection means.

    A partitioned table is one table: its partitions are exported with it, alone only when it is not selected itself.
    Foreign tables hold no rows of this database and are skipped (see `foreign_tables`).
    """
    selected_tables = {_name(t) for t in tables if t.kind != "foreign" and is_selected(t, selection)}
    by_name = {_name(t): t for t in tables}
    return [t for t in tables if _name(t) in selected_tables and not _names_above(t, by_name) & selected_tables]


def foreign_tables(tables: Sequence[CatalogTable], selection: TableSelection) -> list[str]:
    """Return the foreign tables that a selection means, themselves or as partitions of a selected table, by label."""
    by_name = {_name(t): t for t in tables}
    return [
        t.label
        for t in tables
        if t.kind == "foreign"
        and not _matches(t, selection.exclude)
        and any(is_selected(by_name[n], selection) for n in {_name(t), *_names_above(t, by_name)})
    ]


def _name(table: CatalogTable) -> TableName:
    return table.schema_name, table.name


def _names_above(table: CatalogTable, by_name: Mapping[TableName, CatalogTable]) -> set[TableName]:
    """Return the partitioned tables that a table is a partition of, at any depth."""
    above = set()
    parent = table.leaf_of
    while parent is not None and parent in by_name:
        above.add(parent)
        parent = by_name[parent].leaf_of
    return above


def is_selected(table: CatalogTable, selection: TableSelection) -> bool:
    """Return whether the patterns mean this table (`schema.table`, case counts)."""
    return _matches(table, selection.include) and not _matches(table, selection.exclude)


def _matches(table: CatalogTable, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(table.label, pattern) for pattern in patterns)


def missing_tables(tables: Sequence[CatalogTable], settings: PostgresSource) -> list[str]:
    """Return every table of `required_tables` that does not exist (`table` means public.table)."""
    known = {t.label for t in tables}
    return [name for name in settings.required_tables if (name if "." in name else f"public.{name}") not in known]


def require_tables(tables: Sequence[CatalogTable], settings: PostgresSource, target: PostgresTarget) -> None:
    """Raise SourceError naming every missing table, unless the settings only want a warning (see `required_check`)."""
    missing = missing_tables(tables, settings)
    if missing and settings.missing_tables == "error":
        raise SourceError(
            f"Required tables are missing: {', '.join(missing)}.",
            where=target.label,
            remedy="Check that this is the right database; correct `required_tables` if they are gone on purpose, or "
            "set `missing_tables: warning` to capture the others.",
        )


def capture_postgres(
    context: CaptureContext,
    settings: PostgresSource,
    target: PostgresTarget,
    *,
    selected: frozenset[Key] | None = None,
) -> Iterator[ArtefactRecord]:
    """Capture a database; yields records with keys (source, "roles"), (source, "dump"), (source, schema, table).

    Args:
        context: the set and its surroundings.
        settings: of the source.
        target: the database.
        selected: the keys to capture; None means all.

    Raises:
        SourceError, UnreachableError, ToolError: as found; artefacts that were complete before stay in the set, and
            when one table fails the others are still captured.
    """
    if context.writer.draft.purpose is Purpose.EMERGENCY:
        # A missing table may be what the restore is for.
        settings = settings.model_copy(update={"missing_tables": "warning"})
    if settings.required_tables:
        # Before anything is locked or written; the snapshot's are asked for again.
        with connected(target) as connection:
            require_tables(read_tables(connection, keys=False), settings, target)
    until = time.monotonic() + settings.lock_timeout_seconds
    for attempt in itertools.count(1):
        recorded = False
        try:
            for record in _captured(context, settings, target, selected):
                recorded = True
                yield record
            return
        except LockNotGrantedError:
            # Somebody's DDL waits for our locks, and pg_dump waits behind it: all are given back, and taken anew.
            if recorded or (attempt >= _ATTEMPTS and time.monotonic() >= until):
                raise
        time.sleep(_PAUSE_SECONDS)


def _captured(
    context: CaptureContext, settings: PostgresSource, target: PostgresTarget, selected: frozenset[Key] | None
) -> Iterator[ArtefactRecord]:
    """Capture a database in one snapshot. As long as pg_dump has not got its locks, nothing is recorded."""
    with (
        exported_snapshot(target, lock_timeout_seconds=settings.lock_timeout_seconds) as snapshot,
        Readers(snapshot, settings.connections) as readers,
        _dump_begun(context, settings, snapshot, readers, selected) as dump,
    ):
        catalog = read_catalog(snapshot.connection)
        require_tables(catalog.tables, settings, target)
        dump.catalog.set_result(catalog)
        roles = None
        if _wanted((context.source, "roles"), selected):
            roles = capture_roles(context, snapshot, read_roles(snapshot.connection, catalog))
        for record in _Capture(context, settings, snapshot, catalog, readers, selected, dump).records(roles):
            context.writer.write_record(record)
            yield record


@dataclass
class _Dump:
    """A pg_dump that was begun before anything else, for the less time between its locks and the snapshot's the better.

    Attributes:
        written: what it gives; None where no dump is asked for.
        catalog: for its record; set when it is known.
        dumping: set when it has its locks.
    """

    written: Future[WrittenDump] | None = None
    catalog: Future[Catalog] = field(default_factory=Future)
    dumping: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def _dump_begun(
    context: CaptureContext,
    settings: PostgresSource,
    snapshot: Snapshot,
    readers: Readers,
    selected: frozenset[Key] | None,
) -> Iterator[_Dump]:
    dump = _Dump()
    if not _wanted((context.source, "dump"), selected):
        yield dump
        return
    with ContextThreadPool(1, thread_name_prefix=f"dump-{context.source}") as thread:
        dump.written = thread.submit(
            write_dump,
            context,
            settings,
            snapshot,
            dump.catalog.result,
            check=readers.check,
            begun=dump.dumping.set,
        )
        try:
            yield dump
        except BaseException as error:
            readers.stop()
            if not dump.catalog.done():
                dump.catalog.set_exception(error)
            raise


def _wanted(key: Key, selected: frozenset[Key] | None) -> bool:
    return selected is None or key in selected


@dataclass
class _Capture:
    """The work on one snapshot: jobs on threads, results in the order in which they are done."""

    context: CaptureContext
    settings: PostgresSource
    snapshot: Snapshot
    catalog: Catalog
    readers: Readers
    selected: frozenset[Key] | None
    dump: _Dump
    hashable: HashableTypes = field(default_factory=HashableTypes)
    fingerprints: dict[TableName, Fingerprint] = field(default_factory=dict)

    def records(self, roles: ArtefactRecord | None = None) -> Iterator[ArtefactRecord]:
        """Yield every record, `roles` first; raise the first error after the others have had their turn.

        Raises:
            LockNotGrantedError: pg_dump was not granted its locks; no record was yielded.
        """
        source = self.context.source
        exports = [
            t
            for t in tables_to_export(self.catalog.tables, self.settings.tables)
            if _wanted((source, t.schema_name, t.name), self.selected)
        ]
        sizes = self._sizes()
        exports.sort(key=lambda t: -sizes[_name(t)])
        exported = {(t.schema_name, t.name) for t in exports}
        stems = file_stems(source, [(t.schema_name, t.name) for t in self.catalog.tables])
        others = (
            [t for t in self.catalog.tables if t.kind == "table" and (t.schema_name, t.name) not in exported]
            if self.dump.written
            else []
        )
        done: queue.SimpleQueue[Future[ArtefactRecord | None]] = queue.SimpleQueue()
        errors: list[BaseException] = []
        written = self.dump.written
        finished = False
        pool = ContextThreadPool(self._side_by_side(sizes), thread_name_prefix=f"capture-{source}")
        try:
            jobs: list[Callable[[], ArtefactRecord | None]] = [
                *self._export_jobs(exports, stems),
                *(self._fingerprint_job(t) for t in sorted(others, key=lambda t: -t.bytes)),
            ]
            for job in jobs:
                pool.submit(job).add_done_callback(done.put)
            if written is not None:
                self._wait_for_locks(written)
            if roles is not None:
                yield roles
            for _ in jobs:
                try:
                    record = done.get().result()
                except BackupSystemError as error:
                    errors.append(error)
                    self._stop_when_ended(error)
                    continue
                if record is not None:
                    yield record
            if written is not None:
                try:
                    yield self._dump_record(written.result())
                except BackupSystemError as error:
                    errors.insert(0, error)
            finished = True
        finally:
            if not finished:
                self.readers.stop()
            pool.shutdown(wait=True, cancel_futures=True)
        if errors:
            raise next((error for error in errors if not isinstance(error, CaptureStoppedError)), errors[0])

    def _wait_for_locks(self, written: Future[WrittenDump]) -> None:
        """Wait until pg_dump has all its locks (tables are exported meanwhile); raise when it was not granted them."""
        while not self.dump.dumping.wait(0.02):
            if written.done():
                if isinstance(error := written.exception(), LockNotGrantedError):
                    raise error
                return

    def _stop_when_ended(self, error: BackupSystemError) -> None:
        """Stop everything when the session that holds the snapshot is gone: nothing can be read in it any more."""
        away = isinstance(error, UnreachableError) and not isinstance(error, LockNotGrantedError)
        if away and not self.snapshot.held():
            self.readers.stop()

    def _side_by_side(self, sizes: Mapping[TableName, int]) -> int:
        """Return how many tables are read at once: those of a small database one by one, on one connection."""
        return self.readers.size if sum(sizes.values()) >= _WORTH_MORE_CONNECTIONS else 1

    def _sizes(self) -> dict[TableName, int]:
        """Return the bytes of every table; those of a partitioned one are its partitions'."""
        by_name = {_name(t): t for t in self.catalog.tables}
        sizes = {name: table.bytes for name, table in by_name.items()}
        for table in by_name.values():
            for above in _names_above(table, by_name):
                sizes[above] += table.bytes
        return sizes

    def _export_jobs(
        self, tables: Sequence[CatalogTable], stems: Mapping[TableName, str]
    ) -> Iterator[Callable[[], ArtefactRecord | None]]:
        if not tables:
            return
        # Arrow, pandas and pandera are loaded only when a table is exported: a dump alone needs none of them.
        from backup_pipeline.postgres.export.source_columns import KnownTables
        from backup_pipeline.sources.postgres.table_export import TableExport

        known = KnownTables(_name(table) for table in tables)
        utf8 = self.catalog.encoding == "UTF8"
        for table in tables:
            yield self._export_job(
                TableExport(
                    self.context, self.settings, self.readers, self.hashable, known, table, stems[_name(table)], utf8
                )
            )

    def _export_job(self, export: TableExport) -> Callable[[], ArtefactRecord | None]:
        table = export.table

        def job() -> ArtefactRecord | None:
            try:
                record = self._read(table, lambda readers: replace(export, readers=readers).run())
            except BackupSystemError as error:
                # The first error ends the capture at last; every table that failed is named in the set.
                failure = Failure(key=export.key, what=str(error), remedy=error.remedy, at=self.context.now())
                self.context.writer.write_failure(failure)
                raise
            assert record.fingerprint is not None
            self.fingerprints[table.schema_name, table.name] = record.fingerprint
            return record

        return job

    def _fingerprint_job(self, table: CatalogTable) -> Callable[[], ArtefactRecord | None]:
        def job() -> ArtefactRecord | None:
            name = (table.schema_name, table.name)

            def read(readers: Readers) -> Fingerprint:
                with readers.borrow() as connection:
                    return fingerprint_table(connection, *name, self.hashable)

            self.fingerprints[name] = self._read(table, read)
            return None

        return job

    def _read(self, table: CatalogTable, read: Callable[[Readers], _Read]) -> _Read:
        """Read a table: as others are; by the snapshot's own session where somebody waits for the table; and under the
        database's own search_path where its functions need that. Whatever goes wrong names the table."""
        try:
            readers = self.readers
            try:
                return read(readers)
            except LockNotGrantedError:
                readers = HolderReaders(self.readers)
                return read(readers)
            except SourceError as error:
                if not is_not_found(error):
                    raise
                try:
                    return read(OwnPathReaders(readers))
                except SourceError as again:
                    if is_not_found(again):
                        again.remedy = _PATH_REMEDY
                    raise
        except BackupSystemError as error:
            if table.label not in error.where:
                error.where = f"{error.where}: {table.label}" if error.where else table.label
            raise

    def _dump_record(self, written: WrittenDump) -> ArtefactRecord:
        with self.snapshot.guard:
            large_objects = fingerprint_large_objects(self.snapshot.connection)
            keycloak = keycloak_state_in(self.snapshot.connection)
        tables = self.catalog.tables
        facts = SnapshotFacts(
            self.catalog,
            self.fingerprints,
            large_objects,
            foreign=foreign_tables(tables, self.settings.tables),
            keycloak=keycloak,
            required=required_check(self.settings.required_tables, missing_tables(tables, self.settings)),
        )
        return dump_record(self.context, self.settings, self.snapshot, written, facts)
