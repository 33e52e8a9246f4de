"""Export: the rows of `auftraege` into the folders of their orders, only what changed, durable in batches.

Rows and index are read side by side by rising record_id, so memory does not grow with the archive. A batch's new files
are all written beside their names, then the file system is synced once, then they are renamed; the renames are synced
with the next batch. The states that a kill leaves behind are in docs/formats-orders.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from json.encoder import encode_basestring as json_text
from pathlib import Path

from backup_pipeline.errors import BackupSystemError, StoreError, ValidationError
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.sources.orders.archive.batch import Batch, DiskStopError, Written
from backup_pipeline.sources.orders.archive.folder import ArchiveTree, read_pair, recorded_below
from backup_pipeline.sources.orders.archive.freshness import all_untouched
from backup_pipeline.sources.orders.archive.index import (
    IndexHead,
    IndexWriter,
    OldIndex,
    check_index,
    entry_start,
    index_lines,
    parse_entry,
)
from backup_pipeline.sources.orders.archive.places import OrderPlaces
from backup_pipeline.sources.orders.archive.write import Order, Outcome, write_order
from backup_pipeline.sources.orders.database.database import OrdersSnapshot, UnreadableRow
from backup_pipeline.sources.orders.format.order import (
    AUFTRAG_NR,
    DATA_NAME,
    INDEX_NAME,
    LOCK_NAME,
    META_NAME,
    RECORD_ID,
    SCHEMA_VERSION,
    ExportResult,
    OrderMeta,
    OrderRow,
)
from backup_pipeline.sources.orders.format.pair import PairState
from backup_pipeline.sources.orders.format.place import year_of
from backup_pipeline.sources.orders.format.text import data_formatter
from backup_pipeline.sources.orders.format.types import TypeCheck
from backup_pipeline.system.files import user_name
from backup_pipeline.system.locks import hold_lock, require_held
from backup_pipeline.system.log_file import NO_LOG, LogFile

LOG = logging.getLogger("orders.export")
BATCH = 5_000


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        years: only orders of these years ("2024", "unknown"); all when None.
        rewrite: write every order, changed or not.
        durable: wait for the disk; without it a power cut (not a kill) can lose or tear what was written last.
        dry_run: say what would be written and change nothing.
        lock_wait_seconds: how long to wait for another process that works on the archive.
        batch: orders between two syncs.
        reread: read every pair that was written again.
        look_for_files: also search the own file of orders that are unchanged.
    """

    years: frozenset[str] | None = None
    rewrite: bool = False
    durable: bool = True
    dry_run: bool = False
    lock_wait_seconds: float = 30.0
    batch: int = BATCH
    reread: bool = False
    find_order_files: bool = False


def export_orders(
    snapshot: OrdersSnapshot,
    archive: Path,
    options: ExportOptions | None = None,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    progress: ProgressSink = no_progress,
    log: LogFile = NO_LOG,
) -> ExportResult:
    """Bring the folders of an archive up to the rows of the database.

    Args:
        snapshot: the rows, from `sqlite_orders` or `postgres_orders`.
        archive: folder of the archive; it must exist.
        options: what and how.
        now: the clock, for `exported_at`.
        progress: receives how far the work is, in orders.
        log: the archive's own log: a line for each order, and the summary that its monitors search for.

    Returns:
        Counts and findings; one bad order does not end the run; check `ok`.

    Raises:
        LockError: another process works on the archive.
        StoreError: the archive is missing or cannot be written at all.
        SourceError: the database went away.
    """
    options = options or ExportOptions()
    begin = time.perf_counter()
    log.write(LOG.name, "INFO", "Starte Export aller Aufträge..." if options.years is None else "Starte Export...")
    try:
        if not archive.is_dir():
            raise StoreError("The archive's folder does not exist.", where=str(archive), remedy="Make or correct it.")
        if not options.dry_run:
            _require_writable(archive)
        lock = (
            contextlib.nullcontext()
            if options.dry_run
            else hold_lock(archive / LOCK_NAME, purpose="export of orders", wait_seconds=options.lock_wait_seconds)
        )
        with lock:
            stamp = now().astimezone(UTC).isoformat(timespec="seconds")
            exporter = _Exporter(snapshot, archive, options, stamp, log)
            try:
                exporter.run(progress)
            finally:
                exporter.tree.close()
    except BackupSystemError as error:
        log.write(LOG.name, "ERROR", f"Export abgebrochen: {error}")
        raise
    result = exporter.result
    result.seconds = time.perf_counter() - begin
    _report(result, log, dry_run=options.dry_run)
    return result


def _report(result: ExportResult, log: LogFile, *, dry_run: bool) -> None:
    for finding in result.findings.worst_first()[:100]:
        LOG.log(logging.ERROR if finding.level == "error" else logging.WARNING, "%s: %s", finding.path, finding.reason)
    LOG.log(logging.INFO if result.ok else logging.ERROR, "%s", result.summary())
    if not dry_run:
        if result.stopped:
            log.write(LOG.name, "ERROR", f"Export abgebrochen: {result.stopped}")
        LOG.info("%s", result.monitor_line())
        log.write(LOG.name, "INFO", result.monitor_line())


class _Exporter:
    def __init__(
        self, snapshot: OrdersSnapshot, archive: Path, options: ExportOptions, stamp: str, log: LogFile = NO_LOG
    ) -> None:
        self.snapshot = snapshot
        self.options = options
        self.stamp = stamp
        self.archive = archive
        self.tree = ArchiveTree(archive)
        self.places = OrderPlaces(self.tree, snapshot.database_folder)
        self.log = log
        self.result = ExportResult(dry_run=options.dry_run)
        self._index = archive / INDEX_NAME
        self._changed = False
        self._last: int | None = None

    def run(self, progress: ProgressSink) -> None:
        old = self._old_index()
        if old is None:
            return
        writer = None
        if not self.options.dry_run:
            head = IndexHead(self.stamp, self.snapshot.kind, self.snapshot.columns, "", self.snapshot.schema)
            writer = IndexWriter(self._index, head)
        self._batch = Batch(self.tree, writer, durable=self.options.durable, limit=self.options.batch)
        try:
            self._rows(old, progress)
            self._publish()
        except DiskStopError as stop:
            self.result.stopped = str(stop)
            # What was complete when the disk took no more; it may take the renames.
            with contextlib.suppress(DiskStopError):
                self._publish()
            for line in old.rest():
                self._batch.keep(line)
        self._report_files()
        if writer is not None:
            self._finish(writer)
        self.result.sync_seconds = self._batch.sync_seconds

    # --- the index ----------------------------------------------------------------------------------------------

    def _old_index(self) -> OldIndex | None:
        """Return the old index; None when it already says that there is nothing to do."""
        try:
            head = check_index(self._index)
        except ValidationError as error:
            self.result.findings.add(INDEX_NAME, "index", f"{error.what} It is written anew.", "warning")
            return OldIndex(iter(()))
        if head is None:
            self._changed = True
            return OldIndex(iter(()))
        theirs, ours = (head.kind, head.columns, head.schema), self.snapshot
        if theirs != (ours.kind, ours.columns, ours.schema):
            self._changed = True
        elif self._all_untouched(head.state):
            return None
        # An export that finds every order unchanged still notes the database's state.
        self._changed |= self._complete and head.state != self.snapshot.state
        return OldIndex(index_lines(self._index))

    @property
    def _complete(self) -> bool:
        """Whether everything was asked for and nothing went wrong so far."""
        return self.options.years is None and self.result.ok

    def _all_untouched(self, state: str) -> bool:
        """Return whether no row was committed since the last complete export and no file was touched since.

        Costs two stat calls per order; neither row nor file is read.
        """
        if not state or state != self.snapshot.state or self.options.years is not None or self.options.rewrite:
            return False
        count = all_untouched(self.tree)
        if count is None:
            return False
        self.result.unchanged = count
        return True

    def _finish(self, writer: IndexWriter) -> None:
        try:
            if self._changed and self.options.durable and not self.result.stopped:
                self._batch.sync()
            if self._changed:
                require_held(self.archive / LOCK_NAME)
                writer.commit(self.snapshot.state if self._complete else "", durable=self.options.durable)
            else:
                writer.discard()
        except StoreError as error:
            writer.discard()
            self.result.stopped = self.result.stopped or str(error)
            self.result.findings.add(INDEX_NAME, "index", f"The index could not be written: {error.what}")

    # --- the rows -----------------------------------------------------------------------------------------------

    def _rows(self, old: OldIndex, progress: ProgressSink) -> None:
        types = TypeCheck(self.snapshot.columns)
        format_row = data_formatter()
        total = self.snapshot.count()
        for done, row in enumerate(self.snapshot.rows()):
            if not done % 1000:
                progress(Progress("orders", done, total, "orders"))
            if type(row) is UnreadableRow:
                self._failed(f"row {row.position}", "row", f"The row cannot be read: {row.reason}.")
                continue
            assert type(row) is tuple
            if problem := types.problem(row):
                self._failed(_named(row), "row", problem)
                continue
            record_id = row[RECORD_ID]
            assert type(record_id) is int
            for line in old.before(record_id):
                self._row_deleted(line)
            self._row(row, record_id, old.take(record_id), format_row)
            if self._batch.full:
                self._publish()
        for line in old.rest():
            self._row_deleted(line)
        progress(Progress("orders", total, total, "orders", finished=True))

    def _row(self, row: OrderRow, record_id: int, line: str | None, format_row: Callable[[OrderRow], bytes]) -> None:
        """Bring one order's folder up to its row; whatever goes wrong, the index keeps what it knew of it."""
        years, folder = self.options.years, ""
        year = year_of(row)
        if years is not None and year not in years:
            self._keep(line)
            return
        try:
            order = self._prepared(row, record_id, year, line, format_row)
            folder = order.folder
            unchanged = self._kept_unchanged(order)
            if not unchanged:
                order = self._where_it_is(order, row)
                unchanged = self._kept_unchanged(order)
            if not unchanged:
                self._write(order)
            if not unchanged or self.options.find_order_files:
                self._find_file(order.folder, row)
        except DiskStopError:
            self._keep(line)
            raise
        except (ValidationError, UnicodeEncodeError, OSError) as error:
            self._failed(_named(row), "order", _reason(error, folder))
            self._keep(line)

    def _prepared(
        self, row: OrderRow, record_id: int, year: str, line: str | None, format_row: Callable[[OrderRow], bytes]
    ) -> Order:
        if record_id == self._last:
            raise ValidationError(f"record_id {record_id} is there twice in the database.")
        self._last = record_id
        folder = self.places.folder(row)
        data = format_row(row)
        checksum = hashlib.sha256(data).hexdigest()
        number = None if row[AUFTRAG_NR] is None else str(row[AUFTRAG_NR])
        meta = OrderMeta(SCHEMA_VERSION, checksum, self.stamp, number, record_id, len(data))
        start = (record_id, "null" if number is None else json_text(number), json_text(folder), checksum, len(data))
        return Order(record_id, year, folder, data, meta, start, line, self.stamp)

    def _kept_unchanged(self, order: Order) -> bool:
        """Keep the index's line where it holds this very order and nobody touched its files since."""
        line = order.line
        if line is None or self.options.rewrite or not self._untouched(order):
            return False
        self.result.unchanged += 1
        self._batch.keep(line)
        if self.log.on:
            self.log.write(LOG.name, "DEBUG", f"✓ Unverändert: {_number(order)}")
        return True

    def _where_it_is(self, order: Order, row: OrderRow) -> Order:
        """Return the order with the folder that it was moved to by hand, where its own is gone and another holds it."""
        if self._batch.holder(order.folder) is not None or self.places.is_there(order.folder):
            return order
        moved = self.places.moved_to(order.folder, order.record_id, row)
        if moved is None:
            return order
        if order.line is None or parse_entry(order.line).path != moved:
            self.result.findings.add(
                moved,
                "moved_folder",
                f"Order {order.record_id} lies here and no longer in {order.folder}, which file_path names.",
                "warning",
            )
        return replace(order, folder=moved, start=(*order.start[:2], json_text(moved), *order.start[3:]))

    def _untouched(self, order: Order) -> bool:
        """Return whether the index knows this very content there, and both files are as it saw them."""
        try:
            parent, name = self.tree.parent(order.folder, create=False)
        except (OSError, ValidationError):
            return False
        seen, line = recorded_below(parent, name), order.line or ""
        return seen is not None and line.startswith(entry_start(*order.start, seen)) and not line.endswith("true}")

    def _write(self, order: Order) -> None:
        options, result = self.options, self.result
        brought = write_order(
            self.tree, self._batch, order, rewrite=options.rewrite, dry_run=options.dry_run, claims=self._claims
        )
        result.taken_over += brought.taken_over
        if brought.kept:
            result.findings.add(
                order.folder,
                "kept",
                f"What lay here was not this order as the index or its row knows it; it is kept as {brought.kept}.",
                "warning",
            )
        if brought.outcome is Outcome.EQUAL:
            result.unchanged += 1
            # The index did not know it so.
            self._changed = True
            self.log.write(LOG.name, "DEBUG", f"✓ Unverändert: {_number(order)}")
            return
        if brought.outcome is Outcome.WOULD_WRITE:
            self._count(order.year)
        if order.line is not None and (before := parse_entry(order.line)).path != order.folder:
            if not self.places.is_there(before.path):
                return
            result.findings.add(
                before.path,
                "moved",
                f"Order {order.record_id} is now in {order.folder}; its old copy stays here.",
                "warning",
            )

    def _find_file(self, folder: str, row: OrderRow) -> None:
        there = self.places.holds_file(folder, row)
        self.result.beside_file += there is True
        self.result.without_file += there is False

    def _report_files(self) -> None:
        """Say so where not one of several orders was written beside its file: perhaps that is not their archive."""
        result = self.result
        if result.without_file > 1 and not result.beside_file:
            result.findings.add(
                "",
                "no_files",
                f"None of {result.without_file} orders was written beside the file that its file_path names; the "
                "files are not in this archive. Is it the right folder, and mounted?",
                "warning",
            )

    def _failed(self, path: str, kind: str, reason: str) -> None:
        self.result.failed += 1
        self.result.findings.add(path, kind, reason)
        number = path.removeprefix("order ").removeprefix("record ")
        self.log.write(LOG.name, "ERROR", f"Fehler bei Auftrag {number}: {reason}")

    def _claims(self, record_id: int, folder: str) -> bool:
        """Return whether another order has a row that says that this folder is its own."""
        other = self.snapshot.row(record_id)
        if other is None:
            return False
        try:
            return self.places.folder(other) == folder
        except ValidationError:
            return False

    def _row_deleted(self, line: str) -> None:
        entry = parse_entry(line)
        try:
            parent, name = self.tree.parent(entry.path, create=False)
            there = recorded_below(parent, name) is not None
        except (OSError, ValidationError):
            there = False
        if not there:
            self._changed = True
            self.result.findings.add(
                entry.path, "gone", f"Order {entry.record_id} has neither a row nor a folder any more.", "warning"
            )
            return
        self.result.row_deleted += 1
        self.result.findings.add(
            entry.path, "row_deleted", f"Order {entry.record_id} has no row any more; its folder stays.", "warning"
        )
        if not entry.row_deleted:
            self._changed = True
            line = line[:-1] + ', "row_deleted": true}'
        self._batch.keep(line)

    def _keep(self, line: str | None) -> None:
        if line is not None:
            self._batch.keep(line)

    def _count(self, year: str) -> None:
        self.result.exported += 1
        self.result.per_year[year] = self.result.per_year.get(year, 0) + 1

    def _publish(self) -> None:
        require_held(self.archive / LOCK_NAME)
        done = self._batch.publish()
        for order in done.orders:
            self._changed = True
            if self.options.reread and (problem := self._reread(order)):
                self._failed(order.folder, "order", problem)
                continue
            self._count(order.year)
            if self.log.on:
                self.log.write(LOG.name, "DEBUG", f"✓ Exportiert: {order.folder.rpartition('/')[2]} → data.csv")
        for order, reason in done.failed:
            self._failed(order.folder, "order", _reason(reason))

    def _reread(self, order: Written) -> str:
        """Return what is wrong with a pair that was written, read from its folder; "" when nothing is."""
        try:
            descriptor, _ = self.tree.enter(order.folder, create=False)
            try:
                pair = read_pair({DATA_NAME, META_NAME}, descriptor)
            finally:
                os.close(descriptor)
        except (OSError, ValidationError) as error:
            return f"It was written and cannot be read again: {_reason(error)}"
        whole = pair.state is PairState.VALID and pair.meta is not None and pair.meta.checksum == order.start[3]
        return "" if whole else "What is read from its folder is not what was written."


def _require_writable(archive: Path) -> None:
    """Raise StoreError naming cause and remedy where nothing can be written into the archive."""
    if os.access(archive, os.W_OK | os.X_OK):
        return
    if os.statvfs(archive).f_flag & os.ST_RDONLY:
        raise StoreError(
            "No permission: the archive's disk is mounted read-only.",
            where=str(archive),
            remedy="Mount it for writing. A disk that the system made read-only by itself is damaged: check it first.",
        )
    owner, me = user_name(archive.stat().st_uid), user_name()
    raise StoreError(
        f"The archive's folder belongs to {owner} and cannot be written by {me}.",
        where=str(archive),
        remedy=f"Run it as {owner}, or give {me} the right: setfacl -R -m u:{me}:rwX, and the same with -d.",
    )


def _named(row: OrderRow) -> str:
    number = row[AUFTRAG_NR]
    return f"order {number}" if isinstance(number, str) and number.isalnum() else f"record {row[RECORD_ID]}"


def _number(order: Order) -> str:
    number = order.meta.auftrag_nr or ""
    return number if number.isalnum() else str(order.record_id)


def _reason(error: Exception, folder: str = "") -> str:
    if isinstance(error, PermissionError) and folder:
        return f"its folder {folder}, or what lies in it, cannot be written by {user_name()}."
    if isinstance(error, ValidationError):
        return error.what
    if isinstance(error, UnicodeEncodeError):
        return "The row holds text that is not UTF-8."
    if isinstance(error, OSError):
        return str(error.strerror or error)
    return str(error)
