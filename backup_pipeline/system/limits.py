"""Limits of time for work, and the end of everything that work has begun: programs, connections, waiting threads.

What can wait on somebody else is registered here for as long as it is open (`ends_with`), and says when it has moved on
(`progressed`). A piece of work runs inside `limited`: when it takes too long in all, or makes no progress for too long,
everything that was registered in it is ended, which wakes whoever waits, and the work ends with a TimeLimitError. An
interrupt (Ctrl-C, SIGTERM) ends everything in the same way (`watching_signals`). How a program or a connection is ended
is known where it is opened, not here.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import socket
import threading
import time
from collections.abc import Callable, Hashable, Iterator
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


@dataclass(eq=False)
class Scope:
    """A piece of work with a limit."""

    what: str
    where: str
    limit: Limit
    began: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)
    computed: float = field(default_factory=time.process_time)
    error: BackupSystemError | None = None
    probes: dict[Hashable, Callable[[], bool]] = field(default_factory=dict)
    closed: threading.Event = field(default_factory=threading.Event)
    thread: int = field(default_factory=threading.get_ident)

    def overrun(self) -> BackupSystemError | None:
        """Return the error of a limit that is reached now; None otherwise."""
        now = time.monotonic()
        if now - self.began >= self.limit.total:
            return TimeLimitError(
                f"{self.what} did not end within {seconds_text(self.limit.total)} (`{self.limit.total_setting}`).",
                where=self.where,
                remedy=f"Find out what takes so long; raise `{self.limit.total_setting}` where the time is needed.",
            )
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
        computing = time.process_time() - self.computed >= _COMPUTING_SHARE * self.limit.stall
        if computing or any(probe() for probe in list(self.probes.values())):
            self.moved, self.computed = time.monotonic(), time.process_time()
            return True
        return False


_GUARD = threading.Lock()
_SCOPES: list[Scope] = []
_NUMBERS = itertools.count()
_OPEN: dict[int, tuple[Scope | None, Callable[[], None]]] = {}
_INTERRUPTED: list[int] = []


def seconds_text(seconds: float) -> str:
    """Return a length of time as people and the settings write it: 90s, 30m, 24h."""
    for size, unit in ((3600, "h"), (60, "m")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"


def moved() -> None:
    """Say that the work has moved on: bytes came or went, a statement ended."""
    now, computed = time.monotonic(), time.process_time()
    for scope in tuple(_SCOPES):
        scope.moved, scope.computed = now, computed


def progressed() -> None:
    """Say that the work has moved on; raises the limit's error where the work was ended meanwhile."""
    moved()
    check()


def ending() -> bool:
    """Return whether the work was ended or interrupted: only cleaning up is left, for which nobody waits long."""
    return bool(_INTERRUPTED) or any(scope.error is not None for scope in tuple(_SCOPES))


def check() -> None:
    """Raise the error of a limit that was reached; for use before something new is begun."""
    for scope in tuple(_SCOPES):
        if scope.error is not None:
            raise scope.error


def add_probe(key: Hashable, probe: Callable[[], bool]) -> None:
    """Have `probe` asked, before work is ended for want of progress, whether something is at work all the same.

    Args:
        key: what is asked; of several probes of one key the first is kept, until the work has ended.
        probe: returns True for progress that could not be observed from here; must end by itself.
    """
    for scope in tuple(_SCOPES):
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
        _OPEN[number] = (_SCOPES[-1] if _SCOPES else None, end)

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


def end_all(within: Scope | None = None) -> None:
    """End everything that is open: all of the process's, or what was begun within a piece of work. Never raises."""
    with _GUARD:
        inner = set(map(id, _SCOPES[_SCOPES.index(within) :])) if within in _SCOPES else set()
        selection = [
            n for n, (scope, _) in _OPEN.items() if within is None or (scope is not None and id(scope) in inner)
        ]
        ends = [_OPEN.pop(number)[1] for number in selection]
    threads = [threading.Thread(target=_ended, args=(end,), name="ending", daemon=True) for end in ends]
    for thread in threads:
        thread.start()
    until = time.monotonic() + _ENDING_SECONDS
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


def _ended(end: Callable[[], None]) -> None:
    with contextlib.suppress(Exception):
        end()


@contextlib.contextmanager
def limited(what: str, limit: Limit, *, where: str = "") -> Iterator[Scope]:
    """Limit the time of the block and of everything that is begun in it, in whatever thread.

    One piece of work runs in a process at a time; blocks are nested, not side by side.

    Args:
        what: the work, as the beginning of a sentence ("The capture of shop").
        limit: of the work; a block inside it may have a shorter one of its own.
        where: what the work concerns, for the error; no secret.

    Raises:
        TimeLimitError: the limit was reached; names the setting and its value.
    """
    check()
    scope = Scope(what, where, limit)
    with _GUARD:
        _SCOPES.append(scope)
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
    while (heard := ours.recv(64)) and _END not in heard:
        numbers = [number for number in heard if number in interrupting]
        if numbers:
            _INTERRUPTED.extend(numbers)
            # Beside this thread, so that it can be left at once.
            threading.Thread(target=end_all, name="interrupt", daemon=True).start()
