"""The context of a capture: the set's writer, the source, the last set, progress and clock.

A capture function is a generator: it writes the artefact's files through `writer.create`, builds the record with its
checks, calls `writer.write_record(record)` and yields it, so that shell and Dagster see each artefact as it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import BinaryIO, Literal

from backup_pipeline.model.manifest import Manifest, Purpose
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.record import Severity
from backup_pipeline.model.set_id import set_time
from backup_pipeline.stores.contract import SetWriter


def utc_now() -> datetime:
    """Return the present moment, aware, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class EarlierSet:
    """A verified set of the same plan: what is unchanged since may be taken over from it.

    Attributes:
        manifest: of the set.
        open: opens a file of it.
    """

    manifest: Manifest
    open: Callable[[str], BinaryIO]


@dataclass(frozen=True)
class CaptureContext:
    """What a capture needs besides its source's settings.

    Attributes:
        writer: the unsealed set.
        source: the source's name.
        previous: the plan's last sealed set, for checks on collapse and drift; None for the first.
        verified: the plan's last verified set, whose unchanged files are taken over; None where nothing is.
        progress: receives how far the work is.
        schemas: the site's folder of pandera schemas.
        timezone: of the site; times in file names are in it.
        now: the clock.
    """

    writer: SetWriter
    source: str
    previous: Manifest | None = None
    verified: EarlierSet | None = None
    progress: ProgressSink = no_progress
    schemas: Path | None = None
    timezone: tzinfo = UTC
    now: Callable[[], datetime] = utc_now

    def grave(self, severity: Literal["WARN", "ERROR"]) -> Severity:
        """Return what a change since the last set means: in an emergency set no more than a warning.

        What is there must be captured before a restore changes it, above all when it is not as it should be.
        """
        return Severity.WARN if self.writer.draft.purpose is Purpose.EMERGENCY else Severity(severity)

    @property
    def moment(self) -> datetime:
        """When the set began, in the site's time zone: what names of files say."""
        return set_time(self.writer.draft.set_id).astimezone(self.timezone)
