"""Orders of a workshop's archive as values: columns, file names, findings and results. No I/O, no decisions.

The byte format of the files named here is written down in docs/formats-orders.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from backup_pipeline.errors import BackupSystemError, StoreError, ValidationError

TABLE = "auftraege"
COLUMNS = (
    "record_id",
    "auftrag_nr",
    "kunde_name",
    "kunden_nr",
    "kennzeichen",
    "vin",
    "datum",
    "formular_version",
    "keywords_json",
    "file_path",
    "hash",
    "data_complete",
    "created_at",
    "updated_at",
)
INTEGER_COLUMNS = ("record_id", "data_complete")
RECORD_ID, AUFTRAG_NR, DATUM, FILE_PATH = 0, 1, 6, 9
CREATED_AT, UPDATED_AT = 12, 13

DATA_NAME = "data.csv"
META_NAME = "meta.json"
DATA_PART = ".data.csv.part"
META_PART = ".meta.json.part"
INDEX_NAME = "archive-manifest.json"
LOCK_NAME = ".backup.lock"
SCHEMA_VERSION = "1.0"
PAIRS = "order_pairs"
"""Last part of the key under which a set records that the pairs were written."""

Value = int | float | str | None
OrderRow = tuple[Value, ...]
"""One row of `auftraege` in the order of COLUMNS, as the database gave it."""
TextRow = tuple[str | None, ...]
"""One row as data.csv holds it: every value as text, None for NULL."""


class OrderMeta(NamedTuple):
    """meta.json. `checksum` is the SHA-256 in hex of data.csv, `file_size` its bytes, `exported_at` ISO 8601 in UTC."""

    schema_version: str
    checksum: str
    exported_at: str
    auftrag_nr: str | None
    record_id: int
    file_size: int


Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class OrderFinding:
    """One thing about an archive that a person should know.

    Attributes:
        path: relative to the archive, forward slashes.
        kind: a word for programs, listed in docs/guide-workshop-archive.md.
        reason: one sentence; column names and numbers of orders, never a customer's values.
        level: an error makes the command fail; a warning does not.
    """

    path: str
    kind: str
    reason: str
    level: Level = "error"

    def as_dict(self) -> dict[str, str]:
        """Return the finding for `--json`."""
        return {"path": self.path, "kind": self.kind, "level": self.level, "reason": self.reason}


KEPT_FINDINGS = 20_000


class Findings:
    """Findings as they come: every one is counted, and the first `limit` errors and warnings are kept each.

    So memory stays bounded, and no error is hidden behind warnings.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = KEPT_FINDINGS if limit is None else limit
        self.kept: list[OrderFinding] = []
        self.counts: dict[str, int] = {}
        self.errors = 0
        self.warnings = 0
        self._errors: dict[str, int] = {}

    def add(self, path: str, kind: str, reason: str, level: Level = "error") -> None:
        """Count a finding and keep it while there is room."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if level == "error":
            self.errors += 1
            self._errors[kind] = self._errors.get(kind, 0) + 1
        else:
            self.warnings += 1
        if (self.errors if level == "error" else self.warnings) <= self.limit:
            self.kept.append(OrderFinding(path, kind, reason, level))

    def errors_of(self, *kinds: str) -> int:
        """Return how many errors of these kinds were counted."""
        return sum(self._errors.get(kind, 0) for kind in kinds)

    @property
    def first_error(self) -> OrderFinding | None:
        """The error that came first."""
        return next((finding for finding in self.kept if finding.level == "error"), None)

    def worst_first(self) -> list[OrderFinding]:
        """Return what was kept, errors before warnings, each as they came."""
        return sorted(self.kept, key=lambda finding: finding.level)

    @property
    def omitted(self) -> int:
        """How many were counted and not kept."""
        return self.errors + self.warnings - len(self.kept)

    def as_dict(self) -> dict[str, Any]:
        """Return counts and findings for `--json`."""
        return {
            "errors": self.errors,
            "warnings": self.warnings,
            "counts": dict(sorted(self.counts.items())),
            "findings": [finding.as_dict() for finding in self.kept],
            "findings_left_out": self.omitted,
        }


@dataclass
class ExportResult:
    """What an export did.

    Attributes:
        exported: orders written.
        unchanged: orders whose folder was found to hold the row already.
        failed: orders that could not be written; each is a finding.
        row_deleted: folders whose row is gone from the database; nothing was done to them.
        taken_over: of the exported and unchanged ones, those whose folder held a pair that the index did not know.
        beside_file: of the orders that were inspected in their folder, those whose own file lies there too;
            without_file: those whose file does not. Orders whose row names no file are in neither.
        dry_run: nothing was written; `exported` counts what would have been.
        stopped: why the run ended early (a full disk), empty otherwise.
        seconds: wall time of everything; sync_seconds: of that, waiting for the disk.
        per_year: orders written, by year ("unknown" without one).
    """

    exported: int = 0
    unchanged: int = 0
    failed: int = 0
    row_deleted: int = 0
    taken_over: int = 0
    beside_file: int = 0
    without_file: int = 0
    dry_run: bool = False
    stopped: str = ""
    seconds: float = 0.0
    sync_seconds: float = 0.0
    per_year: dict[str, int] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)

    @property
    def ok(self) -> bool:
        """Whether every order that was asked for is in its folder."""
        return not self.failed and not self.stopped

    def summary(self) -> str:
        """Return the line that ends a run: `150 exported, 2 failed, …`."""
        verb = "would be exported" if self.dry_run else "exported"
        text = f"{self.exported} {verb}, {self.failed} failed, {self.unchanged} unchanged"
        if self.taken_over:
            text += f", {self.taken_over} pairs of another program taken over"
        if self.row_deleted:
            text += f", {self.row_deleted} folders without a row"
        return f"{text}, {self.seconds:.1f} s" + (f". Stopped: {self.stopped}" if self.stopped else "")

    def monitor_line(self) -> str:
        """Return the line that monitors of order archives search for; every order with its pair counts as a success."""
        errors = self.failed + bool(self.stopped)
        return f"Export abgeschlossen: {self.exported + self.unchanged} erfolgreich, {errors} Fehler"

    def raise_for_failure(self, where: str) -> None:
        """Raise when an order failed or the run was stopped; the counts are in the text.

        Raises:
            StoreError: stopped by the disk.
            BackupSystemError: orders failed.
        """
        if self.stopped:
            raise StoreError(self.summary(), where=where, remedy="Free space, then run again; it goes on from there.")
        if self.failed:
            first = self.findings.first_error
            named = f" First: {first.path}: {first.reason}" if first else ""
            raise BackupSystemError(
                f"{self.summary()}.{named}", where=where, remedy="Correct the orders named and run again."
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        sync_seconds, per_year = round(self.sync_seconds, 3), dict(sorted(self.per_year.items()))
        return {"ok": self.ok, **_document(self, sync_seconds=sync_seconds, per_year=per_year)}


@dataclass
class VerifyResult:
    """What a verification found. `folders` with an order in them, `valid` without an error of their own."""

    folders: int = 0
    valid: int = 0
    rolled_forward: int = 0
    database_rows: int | None = None
    indexed: int | None = None
    seconds: float = 0.0
    per_year: dict[str, tuple[int, int]] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)

    @property
    def ok(self) -> bool:
        """Whether there was no error."""
        return self.findings.errors == 0

    def summary(self) -> str:
        """Return the line that ends a run."""
        return (
            f"{self.folders} folders, {self.valid} valid, {self.findings.errors} errors, "
            f"{self.findings.warnings} warnings, {self.rolled_forward} rolled forward, {self.seconds:.1f} s"
        )

    def raise_for_failure(self, where: str) -> None:
        """Raise ValidationError when there was an error."""
        if not self.ok:
            first = self.findings.first_error
            named = f" First: {first.path}: {first.reason}" if first else ""
            raise ValidationError(
                f"{self.summary()}.{named}",
                where=where,
                remedy="Export again where the database is right; put the folder back from a backup where it is not.",
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        per_year = {year: {"folders": n, "errors": bad} for year, (n, bad) in sorted(self.per_year.items())}
        return {"ok": self.ok, **_document(self, per_year=per_year)}


@dataclass
class OrdersRestoreResult:
    """What a restore did.

    Attributes:
        target: the database that was restored, without secrets.
        restored: rows of the new table.
        folders: folders with an order that were read.
        invalid: folders that could not be used.
        missing: orders of the index that have no folder.
        duplicates: folders that lost against a newer one of the same order.
        kept: where the old database (or table) is, "" when there was none.
    """

    target: str = ""
    restored: int = 0
    folders: int = 0
    invalid: int = 0
    missing: int = 0
    duplicates: int = 0
    rolled_forward: int = 0
    dry_run: bool = False
    kept: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    findings: Findings = field(default_factory=Findings)

    def summary(self) -> str:
        """Return the line that ends a run."""
        verb = "would be restored" if self.dry_run else "restored"
        text = (
            f"{self.restored} {verb} from {self.folders} folders, {self.invalid} invalid, {self.missing} missing, "
            f"{self.duplicates} duplicates, {self.seconds:.1f} s"
        )
        return text + (f"; the old one is {self.kept}" if self.kept else "")

    def as_dict(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        return _document(self, notes=list(self.notes))


def _document(result: ExportResult | VerifyResult | OrdersRestoreResult, **in_other_form: Any) -> dict[str, Any]:
    """Return a result's fields by name, in their order, then its findings."""
    figures = {name: value for name, value in vars(result).items() if name != "findings"}
    return {**figures, "seconds": round(result.seconds, 3), **in_other_form, **result.findings.as_dict()}
