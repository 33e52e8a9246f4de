"""Progress of a run's pieces of work: written to its log as lines for people, and read from there for our pages."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import dagster as dg

from backup_pipeline.model.progress import Progress, ProgressSink
from backup_pipeline.orchestration.run_observer import current_observer

PREFIX = "progress: "
_SECONDS_BETWEEN = 2.0
_MOST = 12
_READ = 300
# The name comes last: it may hold anything.
_LINE = re.compile(
    rf"{PREFIX}(?P<done>\d+)(?: of (?P<total>\d+))? ?(?P<unit>\w*) in (?P<seconds>\d+) s(?P<end>, done)?: (?P<name>.*)"
)


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of a run's work, as it was last reported.

    Attributes:
        name: what it is.
        done: units that are done.
        total: of so many; None where that is not known.
        unit: "bytes", "rows", "tables", ...
        seconds: since it began.
        finished: whether it is done.
    """

    name: str
    done: int
    total: int | None
    unit: str
    seconds: int
    finished: bool

    @property
    def share(self) -> float | None:
        """How much of it is done, 0 to 1; None where that is not known."""
        return 1.0 if self.finished else min(1.0, self.done / self.total) if self.total else None

    @property
    def left(self) -> int | None:
        """Seconds that it still takes if it goes on as so far; None where nothing can be said."""
        if self.finished or not self.total or self.done <= 0 or self.seconds < 1 or self.done >= self.total:
            return None
        return round(self.seconds * (self.total - self.done) / self.done)

    def line(self) -> str:
        """Return it as a line of the run's log."""
        of = f" of {self.total}" if self.total else ""
        end = ", done" if self.finished else ""
        return f"{PREFIX}{self.done}{of} {self.unit} in {self.seconds} s{end}: {self.name}"


def reported_progress(write: Callable[[str], None]) -> ProgressSink:
    """Return a sink that passes progress on to the run's observer, and every other second writes what moved.

    Args:
        write: writes a line to the run's log.
    """
    observer = current_observer().progress
    begun: dict[str, float] = {}
    moved: dict[str, Piece] = {}
    last = [0.0]
    # Tables are loaded and compared by several threads.
    lock = threading.Lock()

    def sink(event: Progress) -> None:
        observer(event)
        now = time.monotonic()
        with lock:
            seconds = int(now - begun.setdefault(event.name, now))
            moved[event.name] = Piece(event.name, event.done, event.total, event.unit, seconds, event.finished)
            if now - last[0] < _SECONDS_BETWEEN:
                return
            last[0] = now
            lines = [piece.line() for piece in list(moved.values())[-_MOST:]]
            moved.clear()
        for line in lines:
            write(line)

    return sink


def read_line(text: str) -> Piece | None:
    """Return the piece of work that a line of a run's log reports; None for any other line."""
    found = _LINE.fullmatch(text)
    if found is None:
        return None
    total = found["total"]
    return Piece(
        found["name"],
        int(found["done"]),
        int(total) if total else None,
        found["unit"],
        int(found["seconds"]),
        bool(found["end"]),
    )


def pieces_of(instance: dg.DagsterInstance, run_id: str) -> tuple[Piece, ...]:
    """Return the pieces of a run's work, in the order in which they were begun, from its newest lines."""
    found: dict[str, Piece] = {}
    for record in instance.get_records_for_run(run_id, limit=_READ, ascending=False).records:
        piece = read_line(record.event_log_entry.user_message)
        if piece is not None:
            found.setdefault(piece.name, piece)
    return tuple(reversed(found.values()))
