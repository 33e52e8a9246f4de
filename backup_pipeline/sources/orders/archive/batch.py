"""A batch of orders on its way: new files complete beside their names, one sync for all of them, then the renames.

The index's lines wait with the orders, so that they stay in the order of record_id. Which orders are written, and what
a failure means for the run, is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field

from backup_pipeline.errors import StoreError, ValidationError
from backup_pipeline.sources.orders.archive.folder import ArchiveTree, publish, remove_parts, sync_parts
from backup_pipeline.sources.orders.archive.index import IndexWriter, entry_line, entry_start
from backup_pipeline.system.file_system import sync_file_system
from backup_pipeline.system.files import translate_os_error

_WAITING_LINES = 10_000


class DiskStopError(Exception):
    """The disk takes no more; the text says why."""


@dataclass(slots=True)
class Written:
    """An order whose new files stand complete beside their names.

    Attributes:
        record_id, folder, year: which order, and where.
        start: what `entry_start` needs besides the files' times.
        meta_checksum: SHA-256 of the new meta.json.
        old_line: the index's line so far, None when it did not know the order.
    """

    record_id: int
    folder: str
    year: str
    start: tuple[int, str, str, str, int]
    meta_checksum: str
    old_line: str | None


@dataclass
class Published:
    """What became of a batch: orders under their names, and those that could not be renamed, with the reason."""

    orders: list[Written] = field(default_factory=list)
    failed: list[tuple[Written, Exception]] = field(default_factory=list)


class Batch:
    """Orders written and not yet renamed, and lines of the new index that come after the first of them.

    Args:
        tree: the archive.
        writer: the new index; None in a dry run.
        durable: wait for the disk before the renames.
        limit: orders that make the batch full.
    """

    def __init__(self, tree: ArchiveTree, writer: IndexWriter | None, *, durable: bool, limit: int) -> None:
        self._tree = tree
        self._writer = writer
        self._durable = durable
        self._limit = limit
        self._orders: list[Written] = []
        self._holders: dict[str, int] = {}
        self._waiting: list[str | Written] = []
        self.sync_seconds = 0.0

    @property
    def full(self) -> bool:
        """Whether it is time to publish."""
        return len(self._orders) >= self._limit or len(self._waiting) >= _WAITING_LINES

    def holder(self, folder: str) -> int | None:
        """Return the record_id that this batch writes into a folder."""
        return self._holders.get(folder)

    def add(self, order: Written) -> None:
        """Take an order whose new files are complete."""
        self._orders.append(order)
        self._waiting.append(order)
        self._holders[order.folder] = order.record_id

    def keep(self, line: str) -> None:
        """Take a line of the index as it is to stand in the new one."""
        if self._orders:
            self._waiting.append(line)
        elif self._writer is not None:
            self._writer.add(line)

    def sync(self) -> bool:
        """Wait until everything written so far is on the disk; False where each file must be synced by itself.

        Raises:
            StoreError: the disk refused.
        """
        begin = time.perf_counter()
        try:
            return sync_file_system(self._tree.descriptor)
        except OSError as error:
            raise translate_os_error(error, self._tree.path) from error
        finally:
            self.sync_seconds += time.perf_counter() - begin

    def publish(self) -> Published:
        """Sync the new files, give them their names, and write the waiting lines of the index; empty afterwards.

        Raises:
            DiskStopError: the files were refused; they were taken away again, the old pairs stand as they were.
        """
        orders, waiting = self._orders, self._waiting
        self._orders, self._waiting, self._holders = [], [], {}
        done = Published()
        whole = True
        if orders and self._durable:
            try:
                whole = self.sync()
            except StoreError as error:
                self._take_back(orders)
                self._write_lines(waiting, {})
                raise DiskStopError(error.what) from error
        lines: dict[int, str] = {}
        for order in orders:
            try:
                lines[order.record_id] = self._rename(order, sync=not whole)
                done.orders.append(order)
            except (OSError, ValidationError) as error:
                done.failed.append((order, error))
        self._write_lines(waiting, lines)
        return done

    def _rename(self, order: Written, *, sync: bool) -> str:
        """Give one order's files their names; return its line of the index."""
        descriptor, _ = self._tree.enter(order.folder, create=False)
        try:
            if sync:
                sync_parts(descriptor)
            seen = publish(descriptor)
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return entry_line(entry_start(*order.start, seen), order.meta_checksum)

    def _take_back(self, orders: list[Written]) -> None:
        for order in orders:
            with contextlib.suppress(OSError, ValidationError):
                descriptor, _ = self._tree.enter(order.folder, create=False)
                remove_parts(descriptor)
                os.close(descriptor)

    def _write_lines(self, waiting: list[str | Written], lines: dict[int, str]) -> None:
        """Write the lines in order; an order without a new one keeps its old one."""
        if self._writer is None:
            return
        for item in waiting:
            line = item if isinstance(item, str) else lines.get(item.record_id, item.old_line)
            if line is not None:
                self._writer.add(line)
