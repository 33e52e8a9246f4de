"""Sources of one run captured side by side: each in a thread, some of them before anybody asks for their records.

Dagster takes the steps of a run one after the other; each asks here for the records of its own source, which is under
way or done by then. A source that fails fails for whoever asks for it, and for nobody else. What a capture is, and what
of it is written into the set, is `run`'s business.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

from backup_pipeline.errors import BackupSystemError, CrowdedError, UnreachableError
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.system import limits
from backup_pipeline.system.threads import start_thread

Selection = frozenset[tuple[str, ...]] | None
_CHECK_SECONDS = 0.5
# What a limit has ended is waited for so long; a thread that waits in the system itself cannot be woken.
_PATIENCE_SECONDS = 20.0
_CLOSING_SECONDS = 30.0


class _State(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    CAPTURED = "captured"
    FAILED = "failed"


@dataclass(frozen=True)
class Ahead:
    """A source whose capture may begin before it is asked for.

    Attributes:
        after: those of the others that must have been captured before.
        commands: whether commands are run around its capture; of such sources one is captured at a time, for what one
            of them has started again must not run during the capture of another.
    """

    after: frozenset[str] = frozenset()
    commands: bool = False


@dataclass(eq=False)
class _SourceCapture:
    source: str
    selected: Selection = None
    ahead: Ahead = Ahead()
    state: _State = _State.WAITING
    wanted: bool = False
    had_company: bool = False
    alone: bool = False
    work: limits.Scope | None = None
    # Records, and last None or the error that it ended with.
    found: queue.SimpleQueue[ArtefactRecord | BaseException | None] = field(default_factory=queue.SimpleQueue)


class SideBySide:
    """Captures the sources of a run, a limited number at one time.

    Args:
        capture: captures one source, yielding its records.
        ahead: the sources of the run that are captured whole, in the order in which they begin.
        at_most: how many at one time.
        abandoned: called for a source whose thread does not end although its limit was reached.
    """

    def __init__(
        self,
        capture: Callable[[str, Selection], Iterator[ArtefactRecord]],
        ahead: Mapping[str, Ahead],
        at_most: int,
        abandoned: Callable[[str, BackupSystemError], None],
    ) -> None:
        self._capture = capture
        self._captures = {source: _SourceCapture(source, ahead=one) for source, one in ahead.items()}
        self._at_most = at_most
        self._abandoned = abandoned
        self._changed = threading.Condition()
        self._closed = False

    def records(self, source: str, selected: Selection = None) -> Iterator[ArtefactRecord]:
        """Yield the records of a source as they are complete; others are captured meanwhile.

        Args:
            source: the source's name; asked for a second time it is captured a second time.
            selected: keys to capture; all of the source by default.

        Raises:
            BackupSystemError: as its capture says.
        """
        with self._changed:
            capture = self._captures.get(source)
            if capture is None or capture.wanted or selected is not None:
                capture = self._captures[source] = _SourceCapture(source, selected, self._ahead_of(source))
            capture.wanted = True
            self._begin()
        with limits.watching_signals():
            while (found := self._next(capture)) is not None:
                if isinstance(found, BaseException):
                    raise found
                yield found

    def _ahead_of(self, source: str) -> Ahead:
        known = self._captures.get(source)
        return known.ahead if known is not None else Ahead()

    def _next(self, capture: _SourceCapture) -> ArtefactRecord | BaseException | None:
        overrun_at: float | None = None
        while True:
            with contextlib.suppress(queue.Empty):
                return capture.found.get(timeout=_CHECK_SECONDS)
            error = limits.error_within(capture.work) if capture.work is not None else None
            if error is None:
                continue
            overrun_at = overrun_at or time.monotonic()
            if time.monotonic() - overrun_at > _PATIENCE_SECONDS:
                self._abandoned(capture.source, error)
                self._change(capture, _State.FAILED)
                return error

    def _begin(self) -> None:
        """Begin what may begin, first what is waited for; the caller holds the lock."""
        waiting = [one for one in self._captures.values() if one.state is _State.WAITING]
        for capture in sorted(waiting, key=lambda one: not one.wanted):
            running = self._running()
            if not self._closed and len(running) < self._at_most and self._may_begin(capture, running):
                capture.state = _State.RUNNING
                for one in (capture, *running):
                    one.had_company = bool(running)
                start_thread(partial(self._run, capture), f"source {capture.source}")

    def _running(self) -> list[_SourceCapture]:
        return [one for one in self._captures.values() if one.state is _State.RUNNING]

    def _may_begin(self, capture: _SourceCapture, running: Sequence[_SourceCapture]) -> bool:
        if running and (capture.alone or any(one.alone for one in running)):
            return False
        if capture.ahead.commands and any(one.ahead.commands for one in running):
            return False
        # What is asked for has its turn: whoever asks knows the order.
        return capture.wanted or all(
            self._captures[source].state is _State.CAPTURED
            for source in capture.ahead.after
            if source in self._captures
        )

    def _run(self, capture: _SourceCapture) -> None:
        end: BaseException | None = None
        try:
            with limits.limited(f"The capture of {capture.source}", limits.UNLIMITED) as capture.work:
                for record in self._capture(capture.source, capture.selected):
                    capture.found.put(record)
        except BaseException as error:  # noqa: BLE001 - whoever asks for the source raises it
            end = error
        if isinstance(end, CrowdedError) and capture.had_company and not capture.alone:
            # Alone it takes no more connections than it would without the others.
            capture.alone = True
            self._change(capture, _State.WAITING)
            return
        # First the state: whoever hears of the end may close the run.
        self._change(capture, _State.CAPTURED if end is None else _State.FAILED)
        capture.found.put(end)

    def _change(self, capture: _SourceCapture, state: _State) -> None:
        with self._changed:
            capture.state = state
            self._begin()
            self._changed.notify_all()

    def close(self) -> bool:
        """End what is still captured, and begin nothing more; return whether anything was ended."""
        with self._changed:
            self._closed = True
            running = self._running()
            works = [one.work for one in running if one.work is not None]
        stopped = UnreachableError("The run has ended before the capture had.", remedy="Run it again.")
        limits.give_up(stopped, *works)
        with self._changed:
            self._changed.wait_for(lambda: not self._running(), _CLOSING_SECONDS)
        return bool(running)
