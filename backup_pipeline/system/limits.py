"""Limits of time for work, and the end of everything that work has begun: programs, connections, waiting threads.

What can wait on somebody else is registered here for as long as it is open (`ends_with`), and says when it has moved on
(`progressed`). A piece of work runs inside `limited`: when it takes too long in all, or makes no progress for too long,
everything that was registered in it is ended, which wakes whoever waits, and the work ends with a TimeLimitError. An
interrupt (Ctrl-C, SIGTERM) ends everything in the same way (`watching_signals`). How a program or a connection is ended
is known where it is opened, not here.

Pieces of work are nested or side by side, each in a thread of its own. To which one something belongs is in the context
of the thread that does it; threads that work starts take it along (`system.threads`).
"""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

from backup_pipeline.errors import BackupSystemError, TimeLimitError

# After this many seconds work that was ended and goes on is interrupted where it stands.
_GRACE_SECONDS = 6.0
# Programs and connections are ended at the same time, and none is waited for longer.
_ENDING_SECONDS = 4.0
_CHECK_SECONDS = 0.5
# A process that has used so much of a processor while nothing moved was at work itself.
_COMPUTING_SHARE = 0.25
_END = b"\0"


@dataclass(frozen=True, slots=True)
class Limit:
    """How long work may take: seconds in all, seconds without progress, and the setting that says each."""

    total: float
    total_setting: str
    stall: float
    stall_setting: str


# Of work that is only ended with what it belongs to.
UNLIMITED = Limit(math.inf, "", math.inf, "")


@dataclass(eq=False)
class Scope:
    """A piece of work with a limit, within other work or by itself."""

    what: str
    where: str
    limit: Limit
    parent: Scope | None = None
    began: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)
    error: BackupSystemError | None = None
    probes: dict[Hashable, Callable[[], bool]] = field(default_factory=dict)
    closed: threading.Event = field(default_factory=threading.Event)
    thread: int = field(default_factory=threading.get_ident)
    clocks: set[int] = field(default_factory=set)
    _before: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def chain(self) -> Iterator[Scope]:
        """The work and all that it is part of, innermost first."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def overrun(self) -> BackupSystemError | None:
        """Return the error of a limit that is reached now; None otherwise. To be asked often while the work goes on."""
        now = time.monotonic()
        if now - self.began >= self.limit.total:
            return TimeLimitError(
                f"{self.what} did not end within {seconds_text(self.limit.total)} (`{self.limit.total_setting}`).",
                where=self.where,
                remedy=f"Find out what takes so long; raise `{self.limit.total_setting}` where the time is needed.",
            )
        if self._before[0] != self.moved:
            self._before = self.moved, time.process_time(), self._own_processor_seconds()
        if now - self.moved >= self.limit.stall and not self._still_working():
            return TimeLimitError(
                f"{self.what} made no progress for {seconds_text(self.limit.stall)} (`{self.limit.stall_setting}`).",
                where=self.where,
                remedy="Check the server and the network between; run it again. "
                f"Raise `{self.limit.stall_setting}` where such a pause is right.",
            )
        return None

    def _still_working(self) -> bool:
        # A check of a large file inside SQLite, say: one call that computes for an hour.
        if self._used_of_a_processor() >= _COMPUTING_SHARE * self.limit.stall or any(
            probe() for probe in list(self.probes.values())
        ):
            self.moved = time.monotonic()
            return True
        return False

    def _used_of_a_processor(self) -> float:
        """Return the processor seconds since it last moved: of the process, unless other work goes on beside this."""
        _, process, own = self._before
        alone = all(each in self.chain or self in each.chain for each in tuple(_SCOPES))
        return time.process_time() - process if alone or not self.clocks else self._own_processor_seconds() - own

    def _own_processor_seconds(self) -> float:
        used = 0.0
        for clock in tuple(self.clocks):
            try:
                used += time.clock_gettime(clock)
            except OSError:  # the thread has ended
                self.clocks.discard(clock)
        return used


_GUARD = threading.Lock()
_SCOPES: list[Scope] = []
_CURRENT: ContextVar[Scope | None] = ContextVar("limited work", default=None)
_NO_WORK = Scope("Nothing", "", UNLIMITED)
_NUMBERS = itertools.count()
_OPEN: dict[int, tuple[Scope | None, Callable[[], None]]] = {}
_INTERRUPTED: list[int] = []


def seconds_text(seconds: float) -> str:
    """Return a length of time as people and the settings write it: 90s, 30m, 24h."""
    for size, unit in ((3600, "h"), (60, "m")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"


def _work_of_this_thread() -> Iterator[Scope]:
    """Return the work that this thread does, innermost first; none for a thread that no work has started."""
    scope = _CURRENT.get()
    return scope.chain if scope is not None else iter(())


def takes_part() -> None:
    """Say that this thread works for the work in its context: what it uses of a processor is that work's."""
    if hasattr(time, "pthread_getcpuclockid"):
        clock = time.pthread_getcpuclockid(threading.get_ident())
        for scope in _work_of_this_thread():
            scope.clocks.add(clock)


def counts_for_nothing() -> None:
    """Say that what this thread does is no progress of any work."""
    _CURRENT.set(_NO_WORK)


def moved() -> None:
    """Say that the work has moved on: bytes came or went, a statement ended."""
    now = time.monotonic()
    # What a thread does that nobody's work has started (another package's, say) may be anybody's.
    for scope in _work_of_this_thread() if _CURRENT.get() is not None else tuple(_SCOPES):
        scope.moved = now


def progressed() -> None:
    """Say that the work has moved on; raises the limit's error where the work was ended meanwhile."""
    moved()
    check()


def ending() -> bool:
    """Return whether the work was ended or interrupted: only cleaning up is left, for which nobody waits long."""
    return bool(_INTERRUPTED) or any(scope.error is not None for scope in _work_of_this_thread())


def check() -> None:
    """Raise the error of a limit that was reached; for use before something new is begun."""
    for scope in _work_of_this_thread():
        if scope.error is not None:
            raise scope.error


def add_probe(key: Hashable, probe: Callable[[], bool]) -> None:
    """Have `probe` asked, before work is ended for want of progress, whether something is at work all the same.

    Args:
        key: what is asked; of several probes of one key the first is kept, until the work has ended.
        probe: returns True for progress that could not be observed from here; must end by itself.
    """
    for scope in _work_of_this_thread():
        scope.probes.setdefault(key, probe)


def register(end: Callable[[], None]) -> Callable[[], None]:
    """Have `end` called, from another thread, when a limit is reached or the process is interrupted.

    Args:
        end: ends what waits; called at most once, must not wait long.

    Returns:
        A function that takes it back, to be called when what it would end has ended.
    """
    number = next(_NUMBERS)
    with _GUARD:
        _OPEN[number] = (_CURRENT.get(), end)

    def forget() -> None:
        with _GUARD:
            _OPEN.pop(number, None)

    return forget


@contextlib.contextmanager
def ends_with(end: Callable[[], None]) -> Iterator[None]:
    """Have `end` called when a limit is reached, or an interrupt comes, during the block; see `register`."""
    forget = register(end)
    try:
        yield
    finally:
        forget()


def end_all(*within: Scope) -> None:
    """End everything that is open: all of the process's, or what was begun within pieces of work. Never raises."""
    with _GUARD:
        selection = [
            number
            for number, (scope, _) in _OPEN.items()
            if not within or (scope is not None and any(each in within for each in scope.chain))
        ]
        ends = [_OPEN.pop(number)[1] for number in selection]
    threads = [threading.Thread(target=_ended, args=(end,), name="ending", daemon=True) for end in ends]
    for thread in threads:
        thread.start()
    until = time.monotonic() + _ENDING_SECONDS
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


def give_up(error: BackupSystemError, *works: Scope) -> None:
    """End pieces of work, as if each had reached a limit: it and all that goes on within it ends with `error`."""
    for scope in works:
        scope.error = scope.error or error
    if works:
        end_all(*works)


def error_within(work: Scope) -> BackupSystemError | None:
    """Return the error of a limit that was reached within a piece of work that has not ended yet; None otherwise."""
    return next((each.error for each in tuple(_SCOPES) if each.error is not None and work in each.chain), None)


def _ended(end: Callable[[], None]) -> None:
    with contextlib.suppress(Exception):
        end()


@contextlib.contextmanager
def limited(what: str, limit: Limit, *, where: str = "") -> Iterator[Scope]:
    """Limit the time of the block and of everything that is begun in it, in whatever thread that it starts.

    Blocks are nested within a thread; those of several threads are side by side, and each has its own limit.

    Args:
        what: the work, as the beginning of a sentence ("The capture of shop").
        limit: of the work; a block inside it may have a shorter one of its own.
        where: what the work concerns, for the error; no secret.

    Raises:
        TimeLimitError: the limit was reached; names the setting and its value.
    """
    check()
    parent = _CURRENT.get()
    scope = Scope(what, where, limit, parent)
    with _GUARD:
        _SCOPES.append(scope)
    _CURRENT.set(scope)
    takes_part()
    if limit is not UNLIMITED:
        threading.Thread(target=_watch, args=(scope,), name="limit", daemon=True).start()
    try:
        with watching_signals(), _interruptible(scope):
            yield scope
    except Exception as error:
        if scope.error is not None and error is not scope.error:
            raise scope.error from error
        raise
    finally:
        scope.closed.set()
        with _GUARD:
            _SCOPES.remove(scope)
        # Not by a token: a generator that is abandoned within the block is closed in whatever context.
        if _CURRENT.get() is scope:
            _CURRENT.set(parent)
    if scope.error is not None:
        raise scope.error


def _watch(scope: Scope) -> None:
    shortest = min(scope.limit.total, scope.limit.stall)
    pause = min(_CHECK_SECONDS, max(0.05, shortest / 10))
    while not scope.closed.wait(pause):
        error = scope.overrun()
        if error is not None:
            scope.error = error
            end_all(scope)
            break
    # Whoever waited for what was ended goes on by itself and cleans up; what is left is interrupted where it stands.
    pause = _GRACE_SECONDS
    while not scope.closed.wait(pause):
        end_all(scope)
        _interrupt(scope)
        pause *= 2


def _interrupt(scope: Scope) -> None:
    if scope.thread == threading.main_thread().ident and hasattr(signal, "pthread_kill"):
        if signal.getsignal(signal.SIGALRM) is _on_alarm:
            signal.pthread_kill(scope.thread, signal.SIGALRM)
        return
    import ctypes

    # Raised where the thread next runs Python; a wait in the system cannot be broken off.
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(scope.thread), ctypes.py_object(TimeLimitError))


def _on_alarm(number: int, frame: object) -> None:
    check()


@contextlib.contextmanager
def _interruptible(scope: Scope) -> Iterator[None]:
    """Let `_interrupt` reach the main thread in whatever it waits for."""
    alarm = getattr(signal, "SIGALRM", None)
    if alarm is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(alarm, _on_alarm)
    try:
        yield
    finally:
        signal.signal(alarm, before if before is not None else signal.SIG_DFL)


def received_signal() -> int:
    """Return the number of the first interrupting signal that this process received while watched; 0 for none."""
    return _INTERRUPTED[0] if _INTERRUPTED else 0


@contextlib.contextmanager
def watching_signals() -> Iterator[None]:
    """End everything as soon as SIGINT or SIGTERM arrives, whatever the main thread waits for and whoever handles it.

    Signals are handled as before besides. Only in the main thread, and only where nobody else (an event loop) is
    notified of signals in this way; elsewhere nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, reported = socket.socketpair()
    reported.setblocking(False)
    before = signal.set_wakeup_fd(reported.fileno(), warn_on_full_buffer=False)
    if before != -1:
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        ours.close()
        reported.close()
        yield
        return
    observer = threading.Thread(target=_hear, args=(ours,), name="signals", daemon=True)
    observer.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        reported.send(_END)
        observer.join()
        ours.close()
        reported.close()


def _hear(ours: socket.socket) -> None:
    interrupting = {signal.SIGINT, signal.SIGTERM}
    heard = b""
    # The end may come in one piece with a signal before it, which has interrupted the main thread.
    while _END not in heard and (heard := ours.recv(64)):
        numbers = [number for number in heard if number in interrupting]
        if numbers:
            _INTERRUPTED.extend(numbers)
            # Beside this thread, so that it can be left at once.
            threading.Thread(target=end_all, name="interrupt", daemon=True).start()
