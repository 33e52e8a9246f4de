"""What a drill gives to the code that restores and compares one source: scratch area, options, the set's part."""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from backup_pipeline.artefacts.types import OpenFile
from backup_pipeline.errors import StoreError
from backup_pipeline.model.drill_outcome import DrillOutcome
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.rules.scratch_server import DRILL_VARIABLE
from backup_pipeline.settings.site import Site
from backup_pipeline.system.scratch_folders import scratch_folder

if TYPE_CHECKING:
    # A site of folders loads no client of PostgreSQL.
    from backup_pipeline.postgres.server.target import PostgresTarget


@dataclass(frozen=True)
class SealedPart:
    """What a sealed set holds of one source.

    Attributes:
        open_file: opens a file of the set.
        records: the source's artefacts.
    """

    open_file: OpenFile
    records: Sequence[ArtefactRecord]


class DrillBeside(Protocol):
    """Something outside of the set that a drill restores too, and compares with what it restored of the set.

    Attributes:
        outcome: grows with what is found.
    """

    outcome: DrillOutcome

    def compare_server(self, target: PostgresTarget) -> None:
        """Compare with a database that was restored from the set."""

    def compare_copy(self, open_file: OpenFile, records: Sequence[ArtefactRecord], folder: Path, now: datetime) -> None:
        """Compare with the files of the set; `folder` is for what is put there on the way."""


@dataclass(frozen=True)
class DrillOptions:
    """How a drill is done.

    Attributes:
        jobs: connections for loading and comparing; from the number of cores when 0.
        before_comparison: called with each restored database; the tests damage it there.
    """

    jobs: int = 0
    before_comparison: Callable[[Any], None] | None = None


AS_USUAL = DrillOptions()


class DrillArea:
    """Where the sources of one set are restored to; made when first needed, removed with `stack` whatever happens.

    Args:
        site: the site.
        stack: closes what is opened here.
        space_needed: estimates the bytes that restoring the set takes.
        options: how the drill is done.
        progress: receives what is restored and compared.
        now: names what is made.
    """

    def __init__(
        self,
        site: Site,
        stack: ExitStack,
        space_needed: Callable[[], int],
        now: datetime,
        options: DrillOptions = AS_USUAL,
        progress: ProgressSink = no_progress,
    ) -> None:
        self.site = site
        self.stack = stack
        self.options = options
        self.progress = progress
        self.now = now
        self._space_needed = space_needed
        self._folder: Path | None = None

    @property
    def folder(self) -> Path:
        """An empty folder for files.

        Raises:
            StoreError: there is not enough space for what the set holds.
        """
        if self._folder is None:
            self.check_space()
            self._folder = self.stack.enter_context(scratch_folder("backup-pipeline-drill-"))
        return self._folder

    def check_space(self, place: Path | None = None) -> None:
        """Raise StoreError unless the disk of a folder (that for temporary files when None) holds the whole set."""
        place = place or Path(tempfile.gettempdir())
        needed = self._space_needed()
        free = shutil.disk_usage(place).free
        if free < needed:
            raise StoreError(
                f"The drill needs about {needed / 1e6:,.0f} MB for its scratch area, {free / 1e6:,.0f} MB are free.",
                where=str(place),
                remedy=f"Free space, set TMPDIR to a larger disk, or name a scratch server in {DRILL_VARIABLE}.",
            )


class Drills(ABC):
    """The drills of one set's sources that have the same restorer; servers that they share are kept here."""

    @abstractmethod
    def drill(self, part: SealedPart, beside: DrillBeside | None) -> DrillOutcome:
        """Restore what the set holds of a source into the scratch area, compare it, and remove it again.

        Args:
            part: what the set holds of the source.
            beside: compared with what was restored; None where there is nothing outside of the set.

        Raises:
            ValidationError, MissingFileError: what the set says of the source is itself damaged.
            BackupSystemError: the scratch area cannot be had; what is wrong with the set is a finding instead.
        """
