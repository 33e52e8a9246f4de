"""What a backup of an order archive does beside capturing its database: the pairs are written into the orders' folders.

The set keeps the account of it, `<source>_orders.json`. An emergency set, made before a restore replaces the database,
writes no pairs: what it captures may be just what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.errors import StoreError
from backup_pipeline.model.manifest import Manifest, Purpose
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord, CheckResult, Severity
from backup_pipeline.rules.data_checks import OF_THE_DATA
from backup_pipeline.sources.orders.export import ExportOptions, export_orders
from backup_pipeline.sources.orders.format.order import INDEX_NAME, PAIRS, ExportResult
from backup_pipeline.sources.orders.source import OrdersPlace, open_orders, orders_log

_NAMED = 20
_COPIES = (ArtefactKind.SQLITE_COPY, ArtefactKind.POSTGRES_DUMP)


def writes_pairs(context: CaptureContext, selected: frozenset[tuple[str, ...]] | None) -> bool:
    """Return whether this run writes the pairs: not in an emergency, and not where others were selected alone."""
    wanted = selected is None or (context.source, PAIRS) in selected
    return wanted and context.writer.draft.purpose is Purpose.BACKUP


def capture_pairs(context: CaptureContext, place: OrdersPlace, captured: Sequence[ArtefactRecord]) -> ArtefactRecord:
    """Bring the orders' folders up to the database; return the record of it, key (source, "order_pairs").

    Args:
        context: the capture.
        place: the archive and its database.
        captured: the records of the database, which must be sound before anything is written from it.

    Raises:
        StoreError: the archive is missing, not mounted, or takes no more.
        LockError: another process works on the archive.
        SourceError, UnreachableError: the database cannot be read.
    """
    started = context.now()
    copies = [record for record in captured if record.kind in _COPIES]
    if bad := [check.name for record in copies for check in record.failed_checks if check.name not in OF_THE_DATA]:
        reported = f"Not written: the copy of the database failed {', '.join(bad)}."
        check = CheckResult(name="pairs_written", passed=False, summary=reported)
        return _recorded(context, place, started, {"written": False, "why": reported}, (check,))
    before = _recorded_pairs(context.previous, context.source)
    if before and not (place.archive / INDEX_NAME).exists():
        raise StoreError(
            f"The archive has no {INDEX_NAME}, though the last set saw {before} orders in it; nothing was written.",
            where=str(place.archive),
            remedy="Is the right folder mounted there? If the archive begins anew: backup-pipeline orders export",
        )
    options = ExportOptions(lock_wait_seconds=place.lock_wait_seconds, reread=True, find_order_files=True)
    with orders_log(place) as log, open_orders(place) as snapshot:
        result = export_orders(snapshot, place.archive, options, now=context.now, progress=context.progress, log=log)
    if result.stopped:
        result.raise_for_failure(str(place.archive))
    files = _files(result, context.previous, context.source)
    account = {"written": True, "archive": str(place.archive), **result.as_dict(), **files}
    return _recorded(context, place, started, account, (_written(result), _beside(files)))


def _recorded(
    context: CaptureContext,
    place: OrdersPlace,
    started: datetime,
    account: dict[str, object],
    checks: tuple[CheckResult, ...],
) -> ArtefactRecord:
    writer, path = context.writer, f"{context.source}_orders.json"
    with writer.create(path) as file:
        file.write(json.dumps(account, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace"))
    exported, unchanged = account.get("exported", 0), account.get("unchanged", 0)
    assert isinstance(exported, int)
    assert isinstance(unchanged, int)
    record = ArtefactRecord(
        key=(context.source, PAIRS),
        source=context.source,
        kind=ArtefactKind.ORDER_PAIRS,
        set_id=writer.draft.set_id,
        files=(writer.file_record(path, file),),
        source_label=str(place.archive),
        started_at=started,
        finished_at=context.now(),
        checks=checks,
        details={
            "pairs": exported + unchanged,
            "exported": exported,
            "beside_file": account.get("beside_file"),
            "without_file": account.get("without_file"),
        },
    )
    writer.write_record(record)
    return record


def recorded_pairs(records: Sequence[ArtefactRecord], source: str) -> int | None:
    """Return how many pairs a set saw in the archive of a source; None where it does not say."""
    for record in records:
        if record.kind is ArtefactKind.ORDER_PAIRS and record.source == source:
            pairs = record.details.get("pairs")
            return pairs if isinstance(pairs, int) else None
    return None


def _recorded_pairs(previous: Manifest | None, source: str) -> int | None:
    return recorded_pairs(previous.artefacts, source) if previous else None


def _files(result: ExportResult, previous: Manifest | None, source: str) -> dict[str, object]:
    """Return how many orders lie beside their own file; as before where nothing was written and so none inspected."""
    found: dict[str, object] = {"beside_file": result.beside_file, "without_file": result.without_file}
    if result.beside_file or result.without_file or previous is None:
        return found
    record = previous.record(source, PAIRS)
    return {name: record.details.get(name) for name in found} if record else found


def _written(result: ExportResult) -> CheckResult:
    pairs = result.exported + result.unchanged
    errors = [finding for finding in result.findings.worst_first() if finding.level == "error"]
    return CheckResult(
        name="pairs_written",
        passed=not result.failed,
        # The database itself is whole and in the set: an order that cannot be written must not cost that too.
        severity=Severity.WARN,
        summary=f"{pairs} orders have their pair ({result.exported} written now), {result.failed} have none",
        table=tuple({"order": finding.path, "reason": finding.reason} for finding in errors[:_NAMED]),
        numbers={"pairs": pairs, "written": result.exported, "failed": result.failed},
    )


def _beside(files: dict[str, object]) -> CheckResult:
    beside, without = files["beside_file"] or 0, files["without_file"] or 0
    assert isinstance(beside, int)
    assert isinstance(without, int)
    return CheckResult(
        name="pairs_beside_their_files",
        passed=not (without > 1 and not beside),
        severity=Severity.WARN,
        summary=f"{beside} pairs lie beside the order's own file, {without} where that file is not",
        numbers={"beside_file": beside, "without_file": without},
    )
