"""Verification of an order archive: every pair read and checked, folders against index and, where given, database.

Works without the database. An export that was ended between its renames is finished; nothing else is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from backup_pipeline.errors import StoreError, ValidationError
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.sources.orders.archive.folder import ArchiveTree
from backup_pipeline.sources.orders.archive.index import INDEX_PART, check_index, index_lines, parse_entry
from backup_pipeline.sources.orders.archive.places import OrderPlaces
from backup_pipeline.sources.orders.archive.reading import OrderRead, finish_renames, read_archive
from backup_pipeline.sources.orders.database.database import OrdersSnapshot, UnreadableRow
from backup_pipeline.sources.orders.database.staging import Row, Staging, staging
from backup_pipeline.sources.orders.format.order import (
    AUFTRAG_NR,
    INDEX_NAME,
    LOCK_NAME,
    RECORD_ID,
    Level,
    OrderRow,
    TextRow,
    VerifyResult,
)
from backup_pipeline.sources.orders.format.pair import PairState
from backup_pipeline.sources.orders.format.place import year_of_path
from backup_pipeline.sources.orders.format.schema import SchemaBatch
from backup_pipeline.sources.orders.format.text import data_formatter
from backup_pipeline.sources.orders.format.types import TypeCheck
from backup_pipeline.system.locks import hold_lock

LOG = logging.getLogger("orders.verify")
_INDEX_ENTRIES = 1_000


@dataclass(frozen=True)
class VerifyOptions:
    """How to verify.

    Attributes:
        years: only folders below these of the first level ("2024"), "unknown" for all others; everything when None.
        lock_wait_seconds: how long to wait for another process that works on the archive.
        workers: processes that read; by the archive's size when None.
    """

    years: frozenset[str] | None = None
    lock_wait_seconds: float = 30.0
    workers: int | None = None


@contextlib.contextmanager
def archive_lock(archive: Path, purpose: str, wait_seconds: float) -> Iterator[bool]:
    """Hold the archive's lock where it can be written; give False where it cannot, and nobody else can write either.

    Raises:
        LockError: another process works on the archive.
        StoreError: there is no such archive.
    """
    if not archive.is_dir():
        raise StoreError("The archive's folder does not exist.", where=str(archive), remedy="Correct the path.")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(archive / LOCK_NAME, purpose=purpose, wait_seconds=wait_seconds))
        except StoreError:
            yield False
            return
        yield True


def verify_orders(
    archive: Path,
    snapshot: OrdersSnapshot | None = None,
    options: VerifyOptions | None = None,
    *,
    progress: ProgressSink = no_progress,
) -> VerifyResult:
    """Check an archive.

    Args:
        archive: its folder.
        snapshot: the database's rows, to find orders without a folder, folders without a row and outdated ones.
        options: what and how.
        progress: receives how far the work is, in orders.

    Returns:
        Counts and findings; check `ok`.

    Raises:
        LockError, StoreError: as in `archive_lock`.
    """
    options = options or VerifyOptions()
    begin = time.perf_counter()
    with (
        archive_lock(archive, "verification of orders", options.lock_wait_seconds) as writable,
        staging() as stage,
        contextlib.closing(ArchiveTree(archive)) as tree,
    ):
        places = OrderPlaces(tree, snapshot.database_folder if snapshot is not None else None)
        verifier = _Verifier(archive, options, writable, stage, places)
        verifier.folders(progress)
        if snapshot is not None:
            verifier.database(snapshot)
        stage.prepare()
        verifier.compare(database=snapshot is not None)
    result = verifier.result
    result.seconds = time.perf_counter() - begin
    LOG.log(logging.INFO if result.ok else logging.ERROR, "%s", result.summary())
    return result


class _Verifier:
    def __init__(
        self, archive: Path, options: VerifyOptions, writable: bool, stage: Staging, places: OrderPlaces
    ) -> None:
        self.archive = archive
        self.options = options
        self.writable = writable
        self.stage = stage
        self.places = places
        self._moved: set[str] = set()
        self.result = VerifyResult()
        self._batch = SchemaBatch()

    def note(self, path: str, kind: str, reason: str, level: Level = "error") -> None:
        """Add a finding and count it for its year."""
        self.result.findings.add(path, kind, reason, level)
        if level == "error":
            year = year_of_path(path)
            folders, bad = self.result.per_year.get(year, (0, 0))
            self.result.per_year[year] = (folders, bad + 1)

    def _in_scope(self, path: str) -> bool:
        return self.options.years is None or year_of_path(path) in self.options.years

    # --- folders ------------------------------------------------------------------------------------------------

    def folders(self, progress: ProgressSink) -> None:
        """Read every folder; check files, versions and values. Take in the index side by side.

        The processes that read have more at hand while this one works at the index.
        """
        index = self._index()
        for read in read_archive(self.archive, years=self.options.years, workers=self.options.workers):
            chunk = [order for order in read if not self._not_there_yet(order)]
            self._count(chunk)
            for order in chunk:
                self._order(order)
            self.stage.add_found(
                [
                    (o.path, int(o.row[RECORD_ID] or 0), o.row[AUFTRAG_NR], o.checksum, o.meta_checksum)
                    if o.row is not None
                    else (o.path, None, None, o.checksum, o.meta_checksum)
                    for o in chunk
                ]
            )
            progress(Progress("orders", self.result.folders, None, "orders"))
            next(index, None)
            if self._batch.full:
                self._check_values()
        self._check_values()
        for _ in index:
            pass
        progress(Progress("orders", self.result.folders, None, "orders", finished=True))

    def _not_there_yet(self, order: OrderRead) -> bool:
        """Report a first export that was broken off. Where the index knows the order, it is missing too."""
        if order.state is not PairState.UNFINISHED:
            return False
        self.note(order.path, order.kind, order.problem, "warning")
        return True

    def _count(self, orders: list[OrderRead]) -> None:
        self.result.folders += len(orders)
        for year, count in Counter(year_of_path(order.path) for order in orders).items():
            folders, bad = self.result.per_year.get(year, (0, 0))
            self.result.per_year[year] = (folders + count, bad)

    def _order(self, order: OrderRead) -> None:
        if order.row is None:
            self.note(order.path, order.kind, order.problem)
            return
        self.result.valid += 1
        self._batch.add(order.path, order.row, order.size)
        self._beside_its_file(order.path, order.row)
        if order.escaped:
            reason = "data.csv puts a backslash before quotes instead of doubling them; the next export writes it anew."
            self.note(order.path, "old_form", reason, "warning")
        if order.state is not PairState.VALID:
            self._roll_forward(order)
        elif order.leftover:
            self.note(
                order.path, "leftover", "Files of an export that was broken off lie beside the valid pair.", "warning"
            )

    def _beside_its_file(self, path: str, row: TextRow) -> None:
        if folder := self.places.misplaced(path, row):
            self.note(path, "misplaced", f"The order's own file lies in {folder}, its pair here.")

    def _roll_forward(self, order: OrderRead) -> None:
        if self.writable:
            try:
                finish_renames(self.archive, order)
            except StoreError as error:
                self.note(order.path, "unfinished", f"An export was broken off here: {error.what}", "warning")
                return
            self.result.rolled_forward += 1
            self.note(order.path, "rolled_forward", "An export that was broken off here has been finished.", "warning")
        else:
            self.note(order.path, "unfinished", "An export was broken off here; its files are whole.", "warning")

    def _check_values(self) -> None:
        bad = set()
        for path, finding in self._batch.check():
            self.note(path, "schema", f"{finding.column} {finding.check}.", finding.level)
            if finding.level == "error":
                bad.add(finding.row)
        self.result.valid -= len(bad)

    # --- index and database ------------------------------------------------------------------------------------

    def _index(self) -> Iterator[None]:
        """Take in the index, some entries at each step; nothing where there is none that can be used."""
        path = self.archive / INDEX_NAME
        try:
            if check_index(path) is None:
                if not self._interrupted():
                    self.note(INDEX_NAME, "index", "There is no index: missing folders cannot be noticed.", "warning")
                return
        except ValidationError as error:
            self.note(INDEX_NAME, "index", error.what)
            return
        self.result.indexed = count = 0
        entries = (parse_entry(line) for line in index_lines(path))
        kept = (
            (e.path, e.record_id, e.checksum, e.meta_checksum, int(e.row_deleted))
            for e in entries
            if self._in_scope(e.path)
        )
        while batch := list(itertools.islice(kept, _INDEX_ENTRIES)):
            self.stage.add_indexed(batch)
            count += len(batch)
            self.result.indexed = count
            yield

    def database(self, snapshot: OrdersSnapshot) -> None:
        """Take in the database's rows: where their folders are and what data.csv would hold."""
        format_row = data_formatter()
        types = TypeCheck(snapshot.columns)
        batch: list[Row] = []
        count = 0
        for row in snapshot.rows():
            count += 1
            staged = self._staged(row, format_row, types)
            if staged is not None and self._in_scope(staged[1]):
                batch.append(staged)
            if len(batch) >= 10_000:
                self.stage.add_rows(batch)
                batch = []
        self.stage.add_rows(batch)
        self.result.database_rows = count

    def _staged(
        self, row: OrderRow | UnreadableRow, format_row: Callable[[OrderRow], bytes], types: TypeCheck
    ) -> Row | None:
        if isinstance(row, UnreadableRow):
            self.note(f"row {row.position}", "row", f"The row cannot be read: {row.reason}.")
            return None
        if problem := types.problem(row):
            self.note(f"record {row[RECORD_ID]}", "row", problem)
            return None
        try:
            folder = self.places.folder(row)
            data = format_row(row)
        except (ValidationError, UnicodeEncodeError) as error:
            reason = error.what if isinstance(error, ValidationError) else "The row holds text that is not UTF-8."
            self.note(f"record {row[RECORD_ID]}", "row", reason)
            return None
        record_id = row[RECORD_ID]
        assert isinstance(record_id, int)
        return record_id, folder, hashlib.sha256(data).hexdigest()

    # --- between them -------------------------------------------------------------------------------------------

    def compare(self, *, database: bool) -> None:
        """Find duplicates, what is missing, and what does not fit together."""
        stage, note = self.stage, self.note
        for record_id, path in stage.same_record():
            note(path, "duplicate", f"Record {record_id} is in several folders; a restore takes the newest.")
        for number, path in stage.same_number():
            note(path, "duplicate_number", f"auftrag_nr {number} belongs to several records.")
        if self.result.indexed is not None:
            self._against_index()
        if database:
            for path, record_id in stage.without_folder():
                if not self._has_moved(path, int(record_id)):
                    note(path, "not_exported", f"Record {record_id} of the database is in no folder.")
            for path, record_id in stage.without_row():
                note(path, "orphan", f"Record {record_id} has no row in the database.", "warning")
            for path, record_id in stage.outdated():
                note(path, "outdated", f"The row of record {record_id} has changed since it was exported.", "warning")
            for path, record_id in stage.same_folder():
                note(path, "same_folder", f"Record {record_id} claims a folder that another record claims too.")

    def _has_moved(self, path: str, record_id: int, elsewhere: str | None = None) -> bool:
        """Note that an order lies in another folder now, where it does: as it was read, or below another year."""
        if elsewhere is None:
            elsewhere = self.places.moved_to(path, record_id) if not self.places.is_there(path) else None
        if elsewhere is None:
            return False
        if elsewhere not in self._moved:
            self._moved.add(elsewhere)
            reason = f"Record {record_id} was moved here from {path}; the next export notes it."
            self.note(elsewhere, "moved", reason, "warning")
        return True

    def _interrupted(self) -> bool:
        """Report an export that did not reach its end; True when there was one."""
        if not (self.archive / INDEX_PART).exists():
            return False
        self.note(
            INDEX_PART, "interrupted", "An export was broken off; folders may be newer than the index.", "warning"
        )
        return True

    def _against_index(self) -> None:
        for path, record_id, elsewhere in self.stage.missing():
            if not self._has_moved(path, int(record_id), elsewhere):
                reason = f"Record {record_id} is in the index, but its folder or both files are gone."
                self.note(path, "missing", reason)
        level: Level = "warning" if self._interrupted() else "error"
        for path, name in self.stage.unlike_index():
            self.note(path, "unlike_index", f"{name} is another one than the index says.", level)
        for (path,) in self.stage.not_indexed():
            if path in self._moved:
                continue
            self.note(path, "not_indexed", "The index does not know this folder; the next export adds it.", "warning")
