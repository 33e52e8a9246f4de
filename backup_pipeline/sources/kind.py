"""The protocol of a kind of source: what backup, environment checks, restore and the UI ask of it.

A kind is a class without state. Each method is given a source as it stands in a site: its name and its settings, which
are an instance of the kind's `settings`. What is done with a sealed set follows from the types of its artefacts instead
(`artefacts.types`), which name the restorer that plans, applies, undoes and drills (`artefacts.restorer`), for a source
may have left the settings by then.

Nothing outside of `sources` asks which kind a source is. `docs/adding-a-source.md` walks through a new one.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.artefacts.drilling import DrillBeside
from backup_pipeline.artefacts.types import ArtefactType
from backup_pipeline.errors import RefusedError
from backup_pipeline.model.base import JsonValue
from backup_pipeline.model.manifest import Manifest
from backup_pipeline.model.progress import ProgressSink
from backup_pipeline.model.record import ArtefactRecord, ColumnRecord
from backup_pipeline.rules.environment import EnvironmentFault
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import SourceSettings

Key = tuple[str, ...]
"""Of an artefact below its plan: (source, "dump") or (source, schema, table)."""
S = TypeVar("S", bound=SourceSettings)


@dataclass(frozen=True, slots=True)
class SiteSource(Generic[S]):
    """A source of a site.

    Attributes:
        site: the site.
        name: its name in backup.yaml.
        settings: what backup.yaml says of it.
    """

    site: Site
    name: str
    settings: S


@dataclass(frozen=True, slots=True)
class KnownTable:
    """A table that a source has now, with its columns."""

    schema: str
    name: str
    columns: tuple[ColumnRecord, ...]


@dataclass(frozen=True, slots=True)
class CandidateDatabase:
    """A database of a server that a source stands for.

    Attributes:
        name: as its server has it.
        skipped: why it is not captured; "" where it is.
        remedy: what would have it captured; "" where it is skipped on purpose, which is no fault.
    """

    name: str
    skipped: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class StandingProblem:
    """Something of a source that is not as it should be, which no set shows.

    Attributes:
        subject: what it is about, the same whenever it is found ("archive").
        severity: "error" or "warning".
        what: one sentence.
        remedy: what to do.
    """

    subject: str
    severity: str
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class BackupToImport:
    """A backup of a source that another program made.

    Attributes:
        path: a file or folder, which is never changed.
        form: as `backup_form` of its kind called it.
        label: stands for the source that was captured, of which nothing is known.
        origin: what is known of where it comes from; its record has it in `details["imported"]`.
        part: of a file that holds several, the name of this one; `path` is then a file that was split off.
        beside: what the file holds for all of its parts.
    """

    path: Path
    form: str
    label: str
    origin: Mapping[str, JsonValue]
    part: str = ""
    beside: Path | None = None


@dataclass(frozen=True, slots=True)
class BackupPart:
    """One of the backups that a file of another program holds, as that of a whole server does of its databases.

    Attributes:
        name: what it is a backup of; "" where the file does not say.
        excluded: why it is no backup to import; "" where it is.
        remedy: "" where nothing is lost without it.
    """

    name: str
    excluded: str = ""
    remedy: str = ""


class SourceKind(ABC, Generic[S]):
    """One kind of source.

    Attributes:
        name: as in `kind:` of backup.yaml.
        settings: the model of its settings.
        artefact_types: those that no other kind has, by name.
        has_tables: whether it gives table exports, which are known only once it was captured.
        restored_with_its_plan: whether the plan's restore job brings it back; one that is not has commands of its own.
        programs: of the system that it needs, and the remedy where one is missing.
    """

    name: ClassVar[str]
    settings: ClassVar[type[SourceSettings]]
    artefact_types: ClassVar[Mapping[str, ArtefactType]] = {}
    has_tables: ClassVar[bool] = False
    restored_with_its_plan: ClassVar[bool] = True
    programs: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def artefacts(self, source: SiteSource[S]) -> Sequence[tuple[Key, str]]:
        """Return the keys that every capture gives, each with its artefact's type; tables come on top."""

    @abstractmethod
    def capture(
        self, source: SiteSource[S], context: CaptureContext, selected: frozenset[Key] | None
    ) -> Iterator[ArtefactRecord]:
        """Capture the source into a set that is being written; yield each artefact's record as it is complete.

        Args:
            source: what is captured.
            context: the set and its surroundings.
            selected: the keys to capture; all when None.

        Raises:
            BackupSystemError: the source cannot be read; what was complete before stays in the set.
        """

    @abstractmethod
    def place(self, source: SiteSource[S]) -> Path | None:
        """Return the file or folder that a restore of its files brings back; None where it is a database."""

    @abstractmethod
    def environment_faults(self, source: SiteSource[S]) -> Iterator[EnvironmentFault]:
        """Yield what is wrong with its files and folders on this machine; no connection is made."""

    def export_formats(self, source: SiteSource[S]) -> tuple[str, ...]:
        """Return the formats of its table exports (`parquet`, `jsonl`, `json`, `csv`)."""
        return ()

    def labels(self, source: SiteSource[S], artefact: str) -> frozenset[str] | None:
        """Return the UI's labels of an artefact type where the settings decide them; None for the type's own."""
        return None

    def master_tables(self, source: SiteSource[S]) -> tuple[str, ...]:
        """Return the patterns of its tables of master data."""
        return ()

    def discover_tables(self, source: SiteSource[S]) -> Sequence[KnownTable] | None:
        """Return the tables that it has now; None where they are known from captures only.

        Raises:
            BackupSystemError: it does not answer.
        """
        return None

    def watches_tables(self) -> bool:
        """Return whether `discover_tables` gives them."""
        return type(self).discover_tables is not SourceKind.discover_tables

    def find_databases(self, source: SiteSource[S], known: Set[str]) -> Sequence[CandidateDatabase]:
        """Return the databases that its server has now, where the source stands for all of them (`server_databases`).

        Args:
            source: the source.
            known: databases that are sources already; one that is not is tried before it becomes one.

        Raises:
            BackupSystemError: the server does not answer.
        """
        return ()

    def standing_problems(
        self, source: SiteSource[S], plan: str, last_good: Manifest | None
    ) -> Sequence[StandingProblem]:
        """Return what is wrong with the source between backups, by little reading; for `status` and alerts.

        Args:
            source: the source.
            plan: a plan that has it.
            last_good: the plan's newest good set; None where there is none.
        """
        return ()

    def backup_form(self, path: Path) -> str | None:
        """Return what a file or folder is called that another program made as a backup of such a source; else None."""
        return None

    def backup_parts(self, path: Path, form: str) -> Sequence[BackupPart] | None:
        """Return the backups that a file holds, where it holds those of several sources; None where it is one.

        Raises:
            BackupSystemError: it is damaged, or not what it seems.
        """
        return None

    def split_backup(self, path: Path, form: str, wanted: Set[str], folder: Path) -> tuple[Mapping[str, Path], Path]:
        """Write the wanted parts as files of their own into a folder, and beside them what all of them need.

        Raises:
            BackupSystemError: it is damaged.
        """
        raise NotImplementedError

    def backup_names(self, source: SiteSource[S]) -> Sequence[str]:
        """Return the names beside its own that such backups may call a source by."""
        place = self.place(source)
        return [place.name] if place is not None else []

    def import_backup(
        self, source: SiteSource[S], context: CaptureContext, backup: BackupToImport
    ) -> Sequence[ArtefactRecord]:
        """Write a backup of another program into a set, read to its end; return the records, which it has stored.

        Raises:
            ValidationError: it is damaged or cut short.
        """
        raise RefusedError("Backups of this kind are not imported.", where=source.name, remedy="Capture it anew.")

    def drill_beside(
        self,
        source: SiteSource[S],
        records: Sequence[ArtefactRecord],
        folder: Path,
        captured: datetime,
        progress: ProgressSink,
    ) -> DrillBeside | None:
        """Begin the drill of something outside of the set; None where there is nothing.

        Args:
            source: the source.
            records: its artefacts in the set.
            folder: an existing scratch folder.
            captured: when the set was begun.
            progress: takes events.
        """
        return None


def path_faults(name: str, *paths: Path) -> Iterator[EnvironmentFault]:
    """Yield which of a source's files and folders are missing or cannot be read."""
    for path in paths:
        if not path.exists():
            yield EnvironmentFault(
                str(path), f"source {name} does not exist there", "Correct its path in backup.yaml, or mount it."
            )
        elif not os.access(path, os.R_OK):
            yield EnvironmentFault(str(path), f"source {name} cannot be read", "Give this user the right to read it.")
