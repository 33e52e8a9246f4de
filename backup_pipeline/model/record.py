"""The record of one captured artefact. Written as JSON beside the set's files when the artefact is complete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, Field

from backup_pipeline.model.base import Frozen, JsonValue
from backup_pipeline.model.set_id import SetId


class ArtefactKind(StrEnum):
    """The kinds of artefact; each has its own file in `artefacts`."""

    POSTGRES_DUMP = "postgres_dump"
    POSTGRES_ROLES = "postgres_roles"
    POSTGRES_DATABASES = "postgres_databases"
    TABLE_EXPORT = "table_export"
    SQLITE_COPY = "sqlite_copy"
    FOLDER_TARBALL = "folder_tarball"
    REPOSITORY_ARCHIVE = "repository_archive"
    REPOSITORY_BUNDLE = "repository_bundle"
    ORDER_PAIRS = "order_pairs"


DATABASES_CAPTURED = "every_database_captured"
"""The check of a server's list: all databases that the settings select are in the set."""


class Severity(StrEnum):
    """ERROR stops the seal; WARN is shown and kept."""

    ERROR = "ERROR"
    WARN = "WARN"


class CheckResult(Frozen):
    """The outcome of one check: counts and column names only, never a customer's values.

    Attributes:
        name: a Dagster-safe name (letters, digits, underscore).
        passed: whether it held.
        severity: what a failure means.
        summary: one line for a person.
        table: rows of a table for the UI and `show` (same keys in every row), may be empty.
        numbers: figures that are worth plotting over time.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_]+$")
    passed: bool
    severity: Severity = Severity.ERROR
    summary: str = ""
    table: tuple[dict[str, JsonValue], ...] = ()
    numbers: dict[str, float | int] = Field(default_factory=dict)


class FileRecord(Frozen):
    """One file of a set: path relative to the set's folder (forward slashes), bytes, SHA-256 in hex.

    `content_sha256` is the digest of the uncompressed content (for a plain dump: without its two random
    `\\restrict` lines), so that two dumps of equal data are known to be equal.
    """

    path: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    content_sha256: str | None = None
    content_size: int | None = None


class Fingerprint(Frozen):
    """Order-free content hash of a table plus its row count, taken inside the dump's snapshot.

    `algorithm` and `server_major` belong to the value: equal only where both are equal.
    """

    algorithm: str
    server_major: int
    value: str
    rows: int = Field(ge=0)


class ColumnRecord(Frozen):
    """A column of a table as the catalog gives it. `type` is PostgreSQL's format_type() or SQLite's declared type."""

    name: str
    type: str
    nullable: bool = True
    generated: bool = False


class ToolRecord(Frozen):
    """The outside program that made an artefact: name, version, exit code, and its warnings (no secrets)."""

    name: str
    version: str
    exit_code: int = 0
    warnings: tuple[str, ...] = ()


class ArtefactRecord(Frozen):
    """What is known of one captured artefact.

    Attributes:
        key: path of the artefact below its plan, as in ("supabase", "dump") or ("supabase", "public", "orders");
            the Dagster asset key is the plan's name followed by it.
        set_id: the set it belongs to; the manifest refuses any other.
        files: its files in the set.
        rows: rows of a table export.
        fingerprint: the table's, taken in the snapshot.
        source_label: host, port and database or path of the source, without any secret.
        server_version: as the server says it.
        facts: what a person wants to see of the source in one line, as in {"tables": "5/5"} or {"branch": "main"}.
        details: what only this kind knows (listing of a tarball, git metadata, catalog of a database, …).
    """

    record_version: Literal[1] = 1
    key: tuple[str, ...] = Field(min_length=2)
    source: str
    kind: ArtefactKind | str = Field(union_mode="left_to_right")
    set_id: SetId
    files: tuple[FileRecord, ...]
    rows: int | None = None
    fingerprint: Fingerprint | None = None
    columns: tuple[ColumnRecord, ...] = ()
    source_label: str
    server_version: str | None = None
    tool: ToolRecord | None = None
    started_at: AwareDatetime
    finished_at: AwareDatetime
    checks: tuple[CheckResult, ...] = ()
    facts: dict[str, str] = Field(default_factory=dict)
    details: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """The key joined by dots, for messages and file names."""
        return ".".join(self.key)

    @property
    def imported(self) -> dict[str, JsonValue] | None:
        """Where it was imported from, and what is not known of it (`operations.importing`); None for a capture."""
        found = self.details.get("imported")
        return found if isinstance(found, dict) else None

    @property
    def rows_in_dump(self) -> int:
        """Rows of all tables of an imported dump, which has no exports beside it."""
        listed = self.details.get("rows_in_dump")
        rows = [each.get("rows") for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        return sum(count for count in rows if isinstance(count, int))

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)

    @property
    def failed_checks(self) -> tuple[CheckResult, ...]:
        """Checks that did not hold and are of severity ERROR."""
        return tuple(c for c in self.checks if not c.passed and c.severity is Severity.ERROR)


def left_undone(records: Iterable[ArtefactRecord]) -> tuple[str, ...]:
    """Return what a run had to do beside its set and has not done, one text for each; empty when all is done.

    Single orders without their pair do not keep the database from being sealed, and one database of a server that
    lets nobody in does not keep the others from it. The set is whole then, and yet what the owner wants to find in the
    archive, or in the set, is not there: commands, logs and switches must not report success.
    """
    return tuple(
        f"{record.name}: {check.name}: {check.summary}"
        for record in records
        for check in record.checks
        if not check.passed and (record.kind is ArtefactKind.ORDER_PAIRS or check.name == DATABASES_CAPTURED)
    )


def facts_of(records: Iterable[ArtefactRecord]) -> dict[str, dict[str, str]]:
    """Return the facts of every source that has some, by source."""
    found: dict[str, dict[str, str]] = {}
    for record in records:
        if record.facts:
            found.setdefault(record.source, {}).update(record.facts)
    return found


def facts_text(facts: Mapping[str, str]) -> str:
    """Return facts as one line, as in `branch main, commit 0e4fbd3`."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())
