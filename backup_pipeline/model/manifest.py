"""The manifest, whose presence is the seal of a backup set, and the draft that stands in its place before."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, Field

from backup_pipeline.model.base import Frozen
from backup_pipeline.model.command_record import CommandRecord
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.set_id import SetId

MANIFEST_NAME = "manifest.json"
RECORDS_FOLDER = "records/"
DRAFT_NAME = "records/set.json"
CHECKSUM_NAME = "records/sealed.sha256"
MANIFEST_VERSION = 1


class Purpose(StrEnum):
    """Why a set was made; emergency sets have a retention of their own."""

    BACKUP = "backup"
    EMERGENCY = "emergency"


class Failure(Frozen):
    """Why one artefact of an incomplete set is missing: its key, and the error's text and remedy."""

    key: tuple[str, ...]
    what: str
    remedy: str = ""
    at: AwareDatetime


class Draft(Frozen):
    """What a set that is being written says of itself; written first, kept after sealing.

    Attributes:
        root_run_id: the Dagster run that began the set; its re-executions complete the same set.
        sources: the sources this run captures.
        partial: True when the run captures fewer sources than the plan has; such a set is not a backup of the plan.
    """

    draft_version: Literal[1] = 1
    set_id: SetId
    plan: str
    root_run_id: str
    purpose: Purpose = Purpose.BACKUP
    sources: tuple[str, ...]
    partial: bool = False
    started_at: AwareDatetime


class Manifest(Frozen):
    """The sealed account of a set: its identity, times, run, environment, and every artefact's record."""

    manifest_version: Literal[1] = 1
    set_id: SetId
    plan: str
    purpose: Purpose = Purpose.BACKUP
    sources: tuple[str, ...]
    partial: bool = False
    status: Literal["complete"] = "complete"
    started_at: AwareDatetime
    sealed_at: AwareDatetime
    run_id: str
    root_run_id: str
    pipeline_version: str
    environment: str = ""
    artefacts: tuple[ArtefactRecord, ...] = Field(min_length=1)
    commands: tuple[CommandRecord, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files of the set."""
        return sum(record.size for record in self.artefacts)

    @property
    def rows(self) -> int:
        """Rows of all table exports, and of the tables of imported dumps, which have none."""
        return sum((record.rows or 0) + record.rows_in_dump for record in self.artefacts)

    @property
    def broken_data(self) -> tuple[str, ...]:
        """What of the captured data breaks its source's own rules, by artefact, as text without values.

        The set holds what was there; a failed check of severity ERROR that says otherwise keeps a set from its seal.
        """
        return tuple(f"{record.name}: {check.summary}" for record in self.artefacts for check in record.failed_checks)

    def record(self, *key: str) -> ArtefactRecord | None:
        """Return the record with that key, or None."""
        return next((record for record in self.artefacts if record.key == key), None)
