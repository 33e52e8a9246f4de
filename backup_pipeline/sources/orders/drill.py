"""The order archive's part in a drill: its table rebuilt from the folders, and held against what the set holds of it.

The restore is the one that a person would run without the database. What a difference means stands in
`sources.orders.format.agreement`; the set's own copy of the database is drilled elsewhere.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.drill_outcome import DrillOutcome
from backup_pipeline.model.progress import ProgressSink
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.sources.orders.archive.index import check_index, index_lines
from backup_pipeline.sources.orders.database.database import OrdersSnapshot, UnreadableRow, sqlite_orders
from backup_pipeline.sources.orders.database.postgres import postgres_orders
from backup_pipeline.sources.orders.format.agreement import Agreement, agreement
from backup_pipeline.sources.orders.format.newest import instant_of
from backup_pipeline.sources.orders.format.order import INDEX_NAME, RECORD_ID, OrderRow
from backup_pipeline.sources.orders.format.text import data_formatter
from backup_pipeline.sources.orders.restore import OrdersRestoreOptions, restore_orders
from backup_pipeline.sources.orders.settings import OrdersSource

_SUBJECT = "order archive"
_REMEDY = "Run `backup-pipeline orders verify`, put right what it names, export, and drill again."


class ArchiveDrill:
    """An order archive, restored into a scratch folder. `outcome` grows with what is found.

    Args:
        settings: the source.
        folder: an existing scratch folder.
        captured: when the set was begun.
        progress: receives orders.
        recorded: how many pairs the set saw in the archive; None where it does not say.

    Raises:
        LockError: another process works on the archive.
    """

    def __init__(
        self,
        settings: OrdersSource,
        folder: Path,
        captured: datetime,
        progress: ProgressSink,
        recorded: int | None = None,
    ) -> None:
        self.outcome = DrillOutcome()
        self._captured = instant_of(captured.isoformat())
        self._restored: Path | None = None
        if not (settings.archive / INDEX_NAME).exists():
            if recorded is not None:
                self._find(f"has no {INDEX_NAME}, though the set saw {recorded} orders in it")
                return
            reported = "was never exported, so there is nothing to restore from its folders"
            self.outcome.skipped.append(Finding(subject=_SUBJECT, problem=reported))
            return
        began = time.monotonic()
        place = Path(tempfile.mkdtemp(dir=folder)) / "orders.sqlite"
        try:
            head = check_index(settings.archive / INDEX_NAME)
            if recorded == 0 and not any(True for _ in index_lines(settings.archive / INDEX_NAME)):
                self.outcome.numbers["orders"] = 0
                return
            self._exported = instant_of(head.written_at if head else None)
            options = OrdersRestoreOptions(lock_wait_seconds=settings.lock_wait_seconds)
            restored = restore_orders(settings.archive, place, options, progress=progress)
            self.outcome.numbers["orders"] = restored.restored
            self._restored = place
            if misplaced := restored.findings.counts.get("misplaced", 0):
                self._find(f"{misplaced} pairs lie in another folder than the order's own file")
        except BackupSystemError as error:
            if not error.permanent:
                raise
            self._find(f"cannot be restored: {error.what}", error.remedy)
        self.outcome.numbers["archive_restore_seconds"] = round(time.monotonic() - began, 3)

    def _find(self, problem: str, remedy: str = _REMEDY) -> None:
        self.outcome.findings.append(Finding(subject=_SUBJECT, problem=problem, remedy=remedy))

    def compare_server(self, target: PostgresTarget) -> None:
        """Compare with the table of a database that was restored from the set."""
        if self._restored is not None:
            with postgres_orders(target) as snapshot:
                self._compare(snapshot)

    def compare_copy(
        self, open_file: Callable[[str], BinaryIO], records: Sequence[ArtefactRecord], folder: Path, now: datetime
    ) -> None:
        """Compare with the set's copy of the SQLite database, restored into the folder once more."""
        if self._restored is None or not any(record.kind is ArtefactKind.SQLITE_COPY for record in records):
            return
        from backup_pipeline.artefacts.sqlite_restore import restore_sqlite

        place = folder / "of_the_set.sqlite"
        try:
            restore_sqlite(open_file, records, place, now=now)
            with sqlite_orders(place) as snapshot:
                self._compare(snapshot)
        except BackupSystemError as error:
            if not error.permanent:
                raise
            self._find(f"cannot be compared with the set: {error.what}", error.remedy)
        finally:
            place.unlink(missing_ok=True)

    def _compare(self, snapshot: OrdersSnapshot) -> None:
        """Judge every order of the set; both sides come by rising record_id."""
        assert self._restored is not None
        format_row = data_formatter()
        counts: Counter[Agreement] = Counter()
        named: dict[Agreement, int] = {}
        with sqlite_orders(self._restored) as archive:
            theirs = _readable(archive)
            other = next(theirs, None)
            for row in _readable(snapshot):
                while other is not None and _id(other) < _id(row):
                    other = next(theirs, None)
                found = other if other is not None and _id(other) == _id(row) else None
                same = found is not None and _same(row, found, format_row)
                judged = agreement(row, found, same=same, captured=self._captured, exported=self._exported)
                counts[judged] += 1
                named.setdefault(judged, _id(row))
        for judged, reported in (
            (Agreement.LOST, "orders of the set are in no folder"),
            (Agreement.UNLIKE, "orders are another in their folder than in the set"),
        ):
            if counts[judged]:
                self._find(f"{counts[judged]} {reported}, the first is record {named[judged]}")
        self.outcome.numbers["orders_equal"] = counts[Agreement.EQUAL]
        self.outcome.details["orders_newer_in_the_folder"] = counts[Agreement.AHEAD]
        self.outcome.details["orders_not_exported_yet"] = counts[Agreement.BEHIND]


def _readable(snapshot: OrdersSnapshot) -> Iterator[OrderRow]:
    """Yield the rows that have a key and can be read; the others are in no folder, and the export reports them."""
    for row in snapshot.rows():
        if not isinstance(row, UnreadableRow) and isinstance(row[RECORD_ID], int):
            yield row


def _id(row: OrderRow) -> int:
    value = row[RECORD_ID]
    assert isinstance(value, int)
    return value


def _same(row: OrderRow, other: OrderRow, format_row: Callable[[OrderRow], bytes]) -> bool:
    try:
        return format_row(row) == format_row(other)
    except UnicodeEncodeError:
        return False
