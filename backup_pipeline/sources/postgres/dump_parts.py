"""Parts of a plain dump that are as in the last verified set: their compressed bytes are taken over from there.

The record of a dump notes marks of its parts (`system.stream_parts`). What is taken over has the digests of that set,
plain and compressed, and is hashed again as it is written; the dump is the file that it would have been otherwise.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.base import JsonValue
from backup_pipeline.model.record import CheckResult, Severity
from backup_pipeline.sources.postgres.settings import PostgresSource
from backup_pipeline.system.stream_parts import EarlierStream, Mark, MarkedSink

_PARTS = "parts"
_TAKEN_OVER = "taken_over"
_FROM = "taken_over_from"


@dataclass(frozen=True)
class MarkedParts:
    """What a record says of a dump's parts.

    Attributes:
        marks: of each part.
        taken_over: plain bytes of parts that were not compressed anew.
        earlier: id of the set that they are from; "" where none was asked.
        damaged: whether that set's dump is missing or not what was sealed.
    """

    marks: tuple[Mark, ...] = ()
    taken_over: int = 0
    earlier: str = ""
    damaged: bool = False

    @classmethod
    def of(cls, context: CaptureContext, sink: MarkedSink, earlier: EarlierStream | None) -> MarkedParts:
        """Return what is known when the dump is written."""
        set_id = context.verified.manifest.set_id if context.verified is not None and earlier is not None else ""
        return cls(tuple(sink.marks), sink.taken_over, set_id, earlier is not None and earlier.damaged)

    def details(self) -> dict[str, JsonValue]:
        """Return the entries of the record."""
        details: dict[str, JsonValue] = {}
        if self.marks:
            details[_PARTS] = [mark.as_text() for mark in self.marks]
        if self.taken_over:
            details |= {_TAKEN_OVER: self.taken_over, _FROM: self.earlier}
        return details

    def checks(self) -> Iterator[CheckResult]:
        """Yield a warning where the earlier dump is not what was sealed."""
        if self.damaged:
            yield CheckResult(
                name="earlier_dump_is_whole",
                passed=False,
                severity=Severity.WARN,
                summary=f"The dump in set {self.earlier} is missing or not what was sealed, so nothing more of it was "
                f"taken over. Remedy: backup-pipeline verify {self.earlier}",
            )


@contextlib.contextmanager
def earlier_dump(context: CaptureContext, settings: PostgresSource) -> Iterator[EarlierStream | None]:
    """Give the dump of the last verified set for the block; None where nothing can be taken over from it."""
    verified = context.verified
    record = verified.manifest.record(context.source, "dump") if verified is not None else None
    marks = _marks(record.details.get(_PARTS)) if record is not None else ()
    if verified is None or record is None or not marks or record.details["compression"] != settings.dump_compression:
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(verified.open(record.files[0].path))
        except (OSError, BackupSystemError):
            # As if it were empty: whatever keeps it from being read, the database itself is there.
            file = io.BytesIO()
        yield EarlierStream(file, marks)


def _marks(noted: JsonValue) -> tuple[Mark, ...]:
    try:
        return tuple(Mark.from_text(cast(str, text)) for text in noted) if isinstance(noted, list) else ()
    except (ValueError, AttributeError):
        return ()
