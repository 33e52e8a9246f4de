"""Export: the rows of `auftraege` into the folders of their orders, only what changed, durable in batches.

Rows and index are read side by side by rising record_id, so memory does not grow with the archive. A batch's new files
are all written beside their names, then the file system is synced once, then they are renamed; the renames are synced
with the next batch. The states that a kill leaves behind are in docs/formats-orders.md.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from json.encoder import encode_basestring as json_text
from pathlib import Path

from backup_pipeline.artefacts.orders_folder import (
    ArchiveTree,
    publish,
    read_pair,
    remove_parts,
    roll_forward,
    seen_below,
    seen_in,
    sync_parts,
    write_parts,
)
from backup_pipeline.artefacts.orders_index import (
    IndexHead,
    IndexWriter,
    check_index,
    entry_line,
    entry_start,
    index_lines,
    parse_entry,
    record_id_of,
)
from backup_pipeline.artefacts.orders_seen import all_untouched
from backup_pipeline.errors import StoreError, ValidationError
from backup_pipeline.model.order import (
    AUFTRAG_NR,
    DATA_NAME,
    DATA_PART,
    INDEX_NAME,
    LOCK_NAME,
    META_NAME,
    META_PART,
    RECORD_ID,
    SCHEMA_VERSION,
    ExportResult,
    OrderMeta,
    OrderRow,
)
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.rules.orders_format import data_formatter, format_meta
from backup_pipeline.rules.orders_pair import PairState
from backup_pipeline.rules.orders_place import folder_of, year_of
from backup_pipeline.rules.orders_types import TypeCheck
from backup_pipeline.tools.file_system import sync_file_system
from backup_pipeline.tools.files import translate_os_error
from backup_pipeline.tools.locks import hold_lock
from backup_pipeline.tools.orders_database import OrdersSnapshot, UnreadableRow

LOG = logging.getLogger("orders.export")
BATCH = 5_000
_HELD_LINES = 50_000
_ALL_NAMES = {DATA_NAME, META_NAME, DATA_PART, META_PART}
_STOPPING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


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
    """

    years: frozenset[str] | None = None
    rewrite: bool = False
    durable: bool = True
    dry_run: bool = False
    lock_wait_seconds: float = 30.0
    batch: int = BATCH


@dataclass(slots=True)
class _Job:
    """An order whose new files stand complete beside their names."""

    record_id: int
    folder: str
    year: str
    start: tuple[int, str, str, str, int]
    meta_checksum: str
    old_line: str | None


class _DiskStopError(Exception):
    """The disk takes no more."""


def export_orders(
    snapshot: OrdersSnapshot,
    archive: Path,
    options: ExportOptions | None = None,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    progress: ProgressSink = no_progress,
) -> ExportResult:
    """Bring the folders of an archive up to the rows of the database.

    Args:
        snapshot: the rows, from `sqlite_orders` or `postgres_orders`.
        archive: folder of the archive; it must exist.
        options: what and how.
        now: the clock, for `exported_at`.
        progress: where to tell how far the work is, in orders.

    Returns:
        Counts and findings; one bad order does not end the run, look at `ok`.

    Raises:
        LockError: another process works on the archive.
        StoreError: the archive is missing or cannot be written at all.
        SourceError: the database went away.
    """
    options = options or ExportOptions()
    begin = time.perf_counter()
    if not archive.is_dir():
        raise StoreError("The archive's folder does not exist.", where=str(archive), remedy="Make it, or correct it.")
    lock = (
        contextlib.nullcontext()
        if options.dry_run
        else hold_lock(archive / LOCK_NAME, purpose="export of orders", wait_seconds=options.lock_wait_seconds)
    )
    with lock:
        exporter = _Exporter(snapshot, archive, options, now().astimezone(UTC).isoformat(timespec="seconds"))
        try:
            exporter.run(progress)
        finally:
            exporter.tree.close()
    result = exporter.result
    result.seconds = time.perf_counter() - begin
    for finding in result.findings.kept[:100]:
        LOG.log(logging.ERROR if finding.level == "error" else logging.WARNING, "%s: %s", finding.path, finding.reason)
    LOG.log(logging.INFO if result.ok else logging.ERROR, "%s", result.summary())
    return result


class _Exporter:
    def __init__(self, snapshot: OrdersSnapshot, archive: Path, options: ExportOptions, stamp: str) -> None:
        self.snapshot = snapshot
        self.options = options
        self.stamp = stamp
        self.archive = archive
        self.tree = ArchiveTree(archive)
        self.result = ExportResult(dry_run=options.dry_run)
        self._index = archive / INDEX_NAME
        self._writer: IndexWriter | None = None
        self._changed = False
        self._jobs: list[_Job] = []
        self._folders: dict[str, int] = {}
        # Lines of the new index that wait for the batch, so that they stay in the order of record_id.
        self._held: list[str | _Job] = []

    def run(self, progress: ProgressSink) -> None:
        old = self._old_index()
        if old is None:
            return
        if not self.options.dry_run:
            self._writer = IndexWriter(
                self._index, IndexHead(self.stamp, self.snapshot.kind, self.snapshot.columns, "")
            )
        try:
            self._rows(old, progress)
            self._flush()
        except _DiskStopError as stop:
            self.result.stopped = str(stop)
            self._save_batch()
            for line in old.rest():
                self._keep(line)
        self._finish()

    def _old_index(self) -> _OldIndex | None:
        """Return the old index; None when it already says that there is nothing to do."""
        try:
            head = check_index(self._index)
        except ValidationError as error:
            self.result.findings.add(INDEX_NAME, "index", f"{error.what} It is written anew.", "warning")
            return _OldIndex(iter(()))
        if head is None:
            self._changed = True
            return _OldIndex(iter(()))
        if head.kind != self.snapshot.kind or head.columns != self.snapshot.columns:
            self._changed = True
        elif self._all_untouched(head.state):
            return None
        # An export that finds every order unchanged still notes the database's state.
        self._changed |= self._complete and head.state != self.snapshot.state
        return _OldIndex(index_lines(self._index))

    @property
    def _complete(self) -> bool:
        """Whether everything was asked for and nothing went wrong so far."""
        return self.options.years is None and self.result.ok

    def _all_untouched(self, state: str) -> bool:
        """Return whether no row was committed since the last complete export and no file was touched since.

        Costs two looks at the file system per order; neither row nor file is read.
        """
        if not state or state != self.snapshot.state or self.options.years is not None or self.options.rewrite:
            return False
        count = all_untouched(self.tree)
        if count is None:
            return False
        self.result.unchanged = count
        return True

    def _finish(self) -> None:
        writer = self._writer
        if writer is None:
            return
        try:
            if self._changed and self.options.durable and not self.result.stopped:
                self._sync()
            if self._changed:
                writer.commit(self.snapshot.state if self._complete else "", durable=self.options.durable)
            else:
                writer.discard()
        except StoreError as error:
            writer.discard()
            self.result.stopped = self.result.stopped or str(error)
            self.result.findings.add(INDEX_NAME, "index", f"The index could not be written: {error.what}")

    # --- the rows -----------------------------------------------------------------------------------------------

    def _rows(self, old: _OldIndex, progress: ProgressSink) -> None:
        options, result, findings = self.options, self.result, self.result.findings
        types = TypeCheck(self.snapshot.columns)
        format_row = data_formatter()
        total = self.snapshot.count()
        years = options.years
        last = None
        for done, row in enumerate(self.snapshot.rows()):
            if not done % 1000:
                progress(Progress("orders", done, total, "orders"))
            if type(row) is UnreadableRow:
                result.failed += 1
                findings.add(f"row {row.position}", "row", f"The row cannot be read: {row.reason}.")
                continue
            assert type(row) is tuple
            if problem := types.problem(row):
                result.failed += 1
                findings.add(_named(row), "row", problem)
                continue
            record_id = row[RECORD_ID]
            assert type(record_id) is int
            for line in old.before(record_id):
                self._row_deleted(line)
            line_now = old.take(record_id)
            year = year_of(row)
            if years is not None and year not in years:
                result.skipped += 1
                if line_now is not None:
                    self._keep(line_now)
                continue
            try:
                if record_id == last:
                    raise ValidationError(f"record_id {record_id} is there twice in the database.")
                last = record_id
                folder = folder_of(row, year)
                data = format_row(row)
                number = row[AUFTRAG_NR]
                start = (
                    record_id,
                    "null" if number is None else json_text(str(number)),
                    json_text(folder),
                    hashlib.sha256(data).hexdigest(),
                    len(data),
                )
                if line_now is not None and not options.rewrite and self._untouched(line_now, folder, start):
                    result.unchanged += 1
                    self._keep(line_now)
                else:
                    self._export(row, year, folder, data, start, line_now)
            except _DiskStopError:
                if line_now is not None:
                    self._keep(line_now)
                raise
            except (ValidationError, UnicodeEncodeError, OSError) as error:
                result.failed += 1
                findings.add(_named(row), "order", _reason(error))
                if line_now is not None:
                    self._keep(line_now)
            if len(self._jobs) >= options.batch or len(self._held) >= _HELD_LINES:
                self._flush()
        for line in old.rest():
            self._row_deleted(line)
        progress(Progress("orders", total, total, "orders", finished=True))

    def _untouched(self, line: str, folder: str, start: tuple[int, str, str, str, int]) -> bool:
        """Return whether the index knows this very content there, and both files are as it saw them."""
        try:
            parent, name = self.tree.parent(folder, create=False)
        except (OSError, ValidationError):
            return False
        seen = seen_below(parent, name)
        return seen is not None and line.startswith(entry_start(*start, seen)) and not line.endswith("true}")

    def _export(
        self,
        row: OrderRow,
        year: str,
        folder: str,
        data: bytes,
        start: tuple[int, str, str, str, int],
        line: str | None,
    ) -> None:
        record_id = start[0]
        if folder in self._folders:
            raise ValidationError(f"its folder {folder} belongs to order {self._folders[folder]} already.")
        number = row[AUFTRAG_NR]
        meta = OrderMeta(
            SCHEMA_VERSION, start[3], self.stamp, None if number is None else str(number), record_id, start[4]
        )
        dry = self.options.dry_run
        try:
            descriptor, made = self.tree.enter(folder, create=not dry)
        except FileNotFoundError:
            if not dry:
                raise
            self._count(year)
            return
        except OSError as error:
            raise self._stop_or(error) from error
        try:
            mode = 0o666
            if not made:
                pair = read_pair(_ALL_NAMES, folder=descriptor)
                if pair.state is not PairState.BROKEN and not dry:
                    if pair.state is not PairState.VALID:
                        # The only whole pair may stand in the part files: give it its names before they are replaced.
                        roll_forward(descriptor, pair.state)
                    else:
                        remove_parts(descriptor)
                if pair.state is not PairState.BROKEN and pair.meta is not None:
                    same = pair.data == data and pair.meta._replace(exported_at=self.stamp) == meta
                    if same and not self.options.rewrite:
                        self._found_equal(descriptor, start, pair.meta_bytes or b"")
                        return
                    self._check_owner(pair.meta.record_id, record_id, folder)
                if pair.data is not None and not dry:
                    with contextlib.suppress(FileNotFoundError):
                        mode = os.stat(DATA_NAME, dir_fd=descriptor, follow_symlinks=False).st_mode & 0o777
            if dry:
                self._count(year)
                return
            if line is not None and (before := parse_entry(line)).path != folder:
                self.result.findings.add(
                    before.path, "moved", f"Order {record_id} is now in {folder}; its old copy stays here.", "warning"
                )
            meta_bytes = format_meta(meta)
            write_parts(descriptor, data, meta_bytes, mode)
        except OSError as error:
            raise self._stop_or(error) from error
        finally:
            os.close(descriptor)
        job = _Job(record_id, folder, year, start, hashlib.sha256(meta_bytes).hexdigest(), line)
        self._jobs.append(job)
        self._held.append(job)
        self._folders[folder] = record_id

    def _check_owner(self, holder: int, record_id: int, folder: str) -> None:
        """Refuse a folder that holds another order whose row still says that it belongs there."""
        if holder == record_id:
            return
        other = self.snapshot.row(holder)
        if other is None:
            return
        with contextlib.suppress(ValidationError):
            if folder_of(other, year_of(other)) == folder:
                raise _OwnedError(f"its folder {folder} belongs to order {holder} already.")

    def _found_equal(self, descriptor: int, start: tuple[int, str, str, str, int], meta_bytes: bytes) -> None:
        self.result.unchanged += 1
        if not self.options.dry_run:
            self._changed = True
            self._keep(entry_line(entry_start(*start, seen_in(descriptor)), hashlib.sha256(meta_bytes).hexdigest()))

    def _row_deleted(self, line: str) -> None:
        entry = parse_entry(line)
        try:
            parent, name = self.tree.parent(entry.path, create=False)
            there = seen_below(parent, name) is not None
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
        self._keep(line)

    def _keep(self, line: str) -> None:
        if self._jobs:
            self._held.append(line)
        elif self._writer is not None:
            self._writer.add(line)

    def _count(self, year: str) -> None:
        self.result.exported += 1
        self.result.per_year[year] = self.result.per_year.get(year, 0) + 1

    # --- batches ------------------------------------------------------------------------------------------------

    def _sync(self) -> bool:
        begin = time.perf_counter()
        try:
            return sync_file_system(self.tree.descriptor)
        except OSError as error:
            raise translate_os_error(error, self.archive) from error
        finally:
            self.result.sync_seconds += time.perf_counter() - begin

    def _flush(self) -> None:
        """Sync the batch's new files, give them their names, and write the waiting lines of the index."""
        jobs, held = self._jobs, self._held
        self._jobs, self._held = [], []
        self._folders.clear()
        whole = True
        if jobs and self.options.durable:
            try:
                whole = self._sync()
            except StoreError as error:
                self._take_back(jobs, held)
                raise _DiskStopError(error.what) from error
        lines = {id(job): self._publish(job, sync=not whole) for job in jobs}
        if self._writer is None:
            return
        for item in held:
            line = item if isinstance(item, str) else lines[id(item)]
            if line is not None:
                self._writer.add(line)

    def _publish(self, job: _Job, *, sync: bool) -> str | None:
        """Rename one order's files; return its line of the index (the old one when that failed)."""
        try:
            descriptor, _ = self.tree.enter(job.folder, create=False)
            try:
                if sync:
                    sync_parts(descriptor)
                seen = publish(descriptor)
                if sync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except (OSError, ValidationError) as error:
            self.result.failed += 1
            self.result.findings.add(job.folder, "order", _reason(error))
            return job.old_line
        self._changed = True
        self._count(job.year)
        return entry_line(entry_start(*job.start, seen), job.meta_checksum)

    def _save_batch(self) -> None:
        """Publish what was complete when the disk took no more."""
        try:
            self._flush()
        except _DiskStopError:
            return

    def _take_back(self, jobs: list[_Job], held: list[str | _Job]) -> None:
        for job in jobs:
            with contextlib.suppress(OSError, ValidationError):
                descriptor, _ = self.tree.enter(job.folder, create=False)
                remove_parts(descriptor)
                os.close(descriptor)
        for item in held:
            line = item if isinstance(item, str) else item.old_line
            if line is not None and self._writer is not None:
                self._writer.add(line)

    def _stop_or(self, error: OSError) -> Exception:
        if error.errno in _STOPPING:
            return _DiskStopError(translate_os_error(error, self.archive).what)
        return error


class _OwnedError(OSError):
    """The folder belongs to another order. (Not a ValidationError: those of the other's row are passed over.)"""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EEXIST, text)


class _OldIndex:
    """The lines of the old index, read side by side with the rows."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._line = next(lines, None)
        self._id = -1 if self._line is None else record_id_of(self._line)

    def _advance(self) -> str:
        line = self._line
        assert line is not None
        self._line = next(self._lines, None)
        self._id = -1 if self._line is None else record_id_of(self._line)
        return line

    def before(self, record_id: int) -> Iterator[str]:
        """Take every line of a smaller record_id."""
        while self._line is not None and self._id < record_id:
            yield self._advance()

    def take(self, record_id: int) -> str | None:
        """Take the line of that record_id, if it is the next."""
        return self._advance() if self._line is not None and self._id == record_id else None

    def rest(self) -> Iterator[str]:
        """Take every line that is left."""
        while self._line is not None:
            yield self._advance()


def _named(row: OrderRow) -> str:
    number = row[AUFTRAG_NR]
    return f"order {number}" if isinstance(number, str) and number.isalnum() else f"record {row[RECORD_ID]}"


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return error.what
    if isinstance(error, UnicodeEncodeError):
        return "The row holds text that is not UTF-8."
    if isinstance(error, OSError):
        return str(error.strerror or error)
    return str(error)
