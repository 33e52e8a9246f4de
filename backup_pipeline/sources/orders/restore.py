"""Restore of `auftraege` from an order archive, without the old database: read, choose, build beside, compare, swap.

Nothing that is there is destroyed: the old database stays for `undo`. The database is a SQLite file here; a
PostgreSQL table is reached through the same steps in `sources.orders.database.postgres`.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from backup_pipeline.errors import StoreError, ValidationError
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.sources.orders.archive.folder import ArchiveTree
from backup_pipeline.sources.orders.archive.index import IndexHead, check_index, index_lines, parse_entry
from backup_pipeline.sources.orders.archive.places import OrderPlaces
from backup_pipeline.sources.orders.archive.reading import OrderRead, finish_renames, read_archive
from backup_pipeline.sources.orders.database import postgres
from backup_pipeline.sources.orders.database.candidates import Candidate, Candidates, candidates
from backup_pipeline.sources.orders.database.rebuild import Filled, begin_database, fill_database, settle_old
from backup_pipeline.sources.orders.database.staging import staging
from backup_pipeline.sources.orders.format.newest import instant_of
from backup_pipeline.sources.orders.format.order import INDEX_NAME, RECORD_ID, UPDATED_AT, OrdersRestoreResult
from backup_pipeline.sources.orders.format.pair import PairState
from backup_pipeline.sources.orders.format.schema import SchemaBatch
from backup_pipeline.sources.orders.verify import archive_lock
from backup_pipeline.system import file_swap

LOG = logging.getLogger("orders.restore")
SIDECARS = ("-wal", "-shm", "-journal")


@dataclass(frozen=True)
class OrdersRestoreOptions:
    """How to restore.

    Attributes:
        skip_invalid: go on without folders that cannot be used, and without orders that the index misses.
        skip_deleted: skip orders whose row the last export no longer found in the database.
        dry_run: read, choose and build, but do not swap.
        lock_wait_seconds: how long to wait for another process that works on the archive or the database.
        workers: processes that read; by the archive's size when None.
    """

    skip_invalid: bool = False
    skip_deleted: bool = False
    dry_run: bool = False
    lock_wait_seconds: float = 30.0
    workers: int | None = None


def restore_orders(
    archive: Path,
    target: Path | PostgresTarget,
    options: OrdersRestoreOptions | None = None,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    progress: ProgressSink = no_progress,
) -> OrdersRestoreResult:
    """Rebuild the table `auftraege` from the folders of an archive.

    Args:
        archive: its folder.
        target: the SQLite file (may be missing or damaged) or the PostgreSQL database that is to hold the table.
        options: what and how.
        now: the clock, for the names of what is kept.
        progress: receives how far the work is, in orders.

    Returns:
        Counts, findings, and where the old database is.

    Raises:
        ValidationError: folders are invalid or missing (and `skip_invalid` is off), there is no order at all, or the
            new table is not equal to what was read; the present database is untouched.
        LockError: another process works on the archive or restores this database.
        RefusedError: a program works with the database.
    """
    options = options or OrdersRestoreOptions()
    begin = time.perf_counter()
    result = OrdersRestoreResult(dry_run=options.dry_run)
    with archive_lock(archive, "restore of orders", options.lock_wait_seconds) as writable, candidates() as orders:
        folder = None if isinstance(target, PostgresTarget) else target.absolute().parent
        reader = _FolderReader(archive, options, writable, result, orders, folder)
        reader.read(progress)
        reader.judge()
        if isinstance(target, PostgresTarget):
            _into_postgres(archive, target, orders, options, result, now())
        else:
            _into_sqlite(archive, target, orders, options, result, now())
    result.seconds = time.perf_counter() - begin
    for finding in result.findings.worst_first()[:100]:
        LOG.log(logging.ERROR if finding.level == "error" else logging.WARNING, "%s: %s", finding.path, finding.reason)
    LOG.info("%s", result.summary())
    return result


def undo_restore(
    target: Path | PostgresTarget,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    lock_wait_seconds: float = 30.0,
) -> str:
    """Take back the newest restore; return a sentence that says where what had been restored is now.

    Raises:
        RefusedError: there is nothing to undo, or a program works with the database.
    """
    if isinstance(target, PostgresTarget):
        return f"The table is as it was before; what had been restored is {postgres.undo(target, now())}."
    settle_old(target)
    swapped = file_swap.undo(target, now=now(), wait_seconds=lock_wait_seconds)
    places = ", ".join(str(path) for path in swapped.kept)
    return f"{target} is as it was before; what had been restored is {places or 'gone'}."


class _FolderReader:
    """Reads the archive into the candidates and decides whether they are enough."""

    def __init__(
        self,
        archive: Path,
        options: OrdersRestoreOptions,
        writable: bool,
        result: OrdersRestoreResult,
        orders: Candidates,
        database_folder: Path | None = None,
    ) -> None:
        self._database_folder = database_folder
        self.archive = archive
        self.options = options
        self.writable = writable
        self.result = result
        self.orders = orders
        self._batch = SchemaBatch()
        self._places: OrderPlaces | None = None

    def read(self, progress: ProgressSink) -> None:
        """Read every folder; note what is invalid, missing or odd."""
        result = self.result
        with staging() as stage, contextlib.closing(ArchiveTree(self.archive)) as tree:
            self._places = OrderPlaces(tree, self._database_folder)
            deleted = self._index(stage.add_indexed)
            for read in read_archive(self.archive, workers=self.options.workers):
                chunk = [order for order in read if not self._not_there_yet(order)]
                self.orders.add(self._usable(chunk, deleted))
                stage.add_found(
                    [(o.path, int(o.row[RECORD_ID] or 0) if o.row is not None else None, None, "", "") for o in chunk]
                )
                progress(Progress("orders", result.folders, None, "orders"))
                if self._batch.full:
                    self._check_values()
            self._check_values()
            stage.prepare()
            for path, record_id, elsewhere in stage.missing():
                if elsewhere is not None:
                    reason = f"Record {record_id} was moved here from {path}."
                    result.findings.add(elsewhere, "moved", reason, "warning")
                    continue
                result.missing += 1
                result.findings.add(path, "missing", f"Record {record_id} is in the index, but its folder is gone.")
        progress(Progress("orders", result.folders, None, "orders", finished=True))

    def _not_there_yet(self, order: OrderRead) -> bool:
        """Report a first export that was broken off. Where the index knows the order, it is missing."""
        if order.state is not PairState.UNFINISHED:
            return False
        self.result.findings.add(order.path, order.kind, order.problem, "warning")
        return True

    def _index(self, add: Callable[[list[tuple[str, int, str, str, int]]], None]) -> frozenset[str]:
        """Take in the index's paths; return those without a row."""
        path = self.archive / INDEX_NAME
        try:
            if check_index(path) is None:
                self.result.findings.add(INDEX_NAME, "index", "No index: missing folders go unnoticed.", "warning")
                return frozenset()
        except ValidationError as error:
            self.result.findings.add(INDEX_NAME, "index", f"{error.what} Missing folders go unnoticed.", "warning")
            return frozenset()
        deleted, batch = set(), []
        for line in index_lines(path):
            entry = parse_entry(line)
            batch.append((entry.path, entry.record_id, "", "", 0))
            if entry.row_deleted:
                deleted.add(entry.path)
            if len(batch) >= 10_000:
                add(batch)
                batch = []
        add(batch)
        return frozenset(deleted)

    def _usable(self, chunk: list[OrderRead], deleted: frozenset[str]) -> Iterator[Candidate]:
        result = self.result
        for order in chunk:
            result.folders += 1
            row = order.row
            if row is None:
                result.invalid += 1
                result.findings.add(order.path, order.kind, order.problem)
                continue
            if order.path in deleted:
                what = "skipped" if self.options.skip_deleted else "restored all the same"
                result.findings.add(
                    order.path, "row_deleted", f"The last export found no row of this order; it is {what}.", "warning"
                )
                if self.options.skip_deleted:
                    continue
            if order.state is not PairState.VALID:
                self._roll_forward(order)
            if self._places is not None and (folder := self._places.misplaced(order.path, row)):
                reason = f"The order's own file lies in {folder}, its pair here."
                result.findings.add(order.path, "misplaced", reason, "warning")
            if order.escaped:
                reason = "data.csv puts a backslash before quotes instead of doubling them; it was read so."
                result.findings.add(order.path, "old_form", reason, "warning")
            self._batch.add(order.path, row, order.size)
            yield (order.path, instant_of(row[UPDATED_AT]), order.exported_at, int(row[RECORD_ID] or 0), *row[1:])

    def _roll_forward(self, order: OrderRead) -> None:
        self.result.rolled_forward += 1
        reason = "An export that was broken off here has been finished."
        if self.writable and not self.options.dry_run:
            try:
                finish_renames(self.archive, order)
            except StoreError as error:
                reason = f"An export was broken off here; its files are whole. {error.what}"
        else:
            reason = "An export was broken off here; its files are whole."
        self.result.findings.add(order.path, "rolled_forward", reason, "warning")

    def _check_values(self) -> None:
        """Note what the schema does not like; the database held it so, and it comes back so."""
        for path, finding in self._batch.check():
            self.result.findings.add(path, "schema", f"{finding.column} {finding.check}.", "warning")

    def judge(self) -> None:
        """Raise ValidationError where the restore must not go on."""
        result = self.result
        if (result.invalid or result.missing) and not self.options.skip_invalid:
            first = result.findings.first_error
            LOG.error("%s", result.summary())
            raise ArchiveIncompleteError(
                f"{result.invalid} invalid and {result.missing} missing orders; nothing was changed. "
                + (f"First: {first.path}: {first.reason}" if first else ""),
                where=str(self.archive),
                remedy="Put the folders named back, or restore without them: --skip-invalid.",
                result=result,
            )
        for record_id, path, winner in self.orders.settle("record_id"):
            result.duplicates += 1
            result.findings.add(path, "duplicate", f"Record {record_id} is newer in {winner}.", "warning")
        if not self.orders.count():
            raise ArchiveIncompleteError(
                "There is no order that can be restored; nothing was changed.",
                where=str(self.archive),
                remedy="Name the archive's folder, the one with the years in it.",
                result=result,
            )


class ArchiveIncompleteError(ValidationError):
    """The archive does not hold all that it should; `result` says what was found."""

    def __init__(
        self, what: str, *, where: str = "", remedy: str = "", result: OrdersRestoreResult | None = None
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.result = result or OrdersRestoreResult()


def _into_sqlite(
    archive: Path,
    target: Path,
    orders: Candidates,
    options: OrdersRestoreOptions,
    result: OrdersRestoreResult,
    now: datetime,
) -> None:
    result.target = str(target)
    with file_swap.restoring(target, now=now, wait_seconds=options.lock_wait_seconds) as (real, new):
        for left in real.parent.glob(f".{real.name}.restored-*"):
            # Of a restore that was killed while it built; the lock says that nobody builds here now.
            file_swap.remove(left)
        head = _head(archive)
        database = begin_database(new, real, head.columns if head else (), head.schema if head else ())
        if database.unique_number:
            _settle_numbers(orders, result)
        filled = fill_database(database, orders)
        _compare(filled, orders, result, database.notes)
        if options.dry_run:
            return
        settle_old(real)
        swapped = file_swap.swap(real, now, sidecars=SIDECARS, label="orders")
        result.kept = ", ".join(str(path) for path in swapped.kept)


def _head(archive: Path, kind: str = "sqlite") -> IndexHead | None:
    """Return what the index says of the database, where that was of this kind."""
    try:
        head = check_index(archive / INDEX_NAME)
    except ValidationError:
        return None
    return head if head is not None and head.kind == kind else None


def _settle_numbers(orders: Candidates, result: OrdersRestoreResult) -> None:
    for number, path, winner in orders.settle("auftrag_nr"):
        result.duplicates += 1
        result.findings.add(path, "duplicate_number", f"auftrag_nr {number} is newer in {winner}.", "warning")


def _compare(filled: Filled, orders: Candidates, result: OrdersRestoreResult, notes: tuple[str, ...]) -> None:
    expected = orders.count()
    if filled.rows != expected or filled.different:
        raise ValidationError(
            f"The new table has {filled.rows} rows of {expected}, {filled.different} of them unlike their folder; "
            "nothing was changed.",
            where=result.target,
            remedy="Compare the column types of the present table with those of the archive's index.",
        )
    result.restored = filled.rows
    reported = list(notes)
    if filled.only_in_old:
        reported.append(f"{filled.only_in_old} orders of the present database are not in the archive.")
    if filled.newer_in_old:
        reported.append(f"{filled.newer_in_old} orders are newer in the present database than in the archive.")
    result.notes = tuple(reported)


def _into_postgres(
    archive: Path,
    target: PostgresTarget,
    orders: Candidates,
    options: OrdersRestoreOptions,
    result: OrdersRestoreResult,
    now: datetime,
) -> None:
    result.target = target.label
    if postgres.number_is_unique(target):
        _settle_numbers(orders, result)
    head = _head(archive, "postgres")
    columns = head.columns if head else ()
    done = postgres.replace_rows(target, orders.rows(), now, commit=not options.dry_run, columns=columns)
    _compare(done.filled, orders, result, done.notes)
    result.kept = done.kept
