"""Lock files that work on network mounts: created exclusively, with their holder, released with the process.

Not flock: it is silently local or absent on SMB and NFS. The file holds PID, host, the process's start and what for;
the holder refreshes its modification time, so that a lock left by a dead process on this host is taken over at once,
and one left by another host when it has not been refreshed for a long time.

On Linux a process's start is counted in the kernel's ticks since a boot that has an id: clocks are set, ticks are not.
A process of another PID namespace (a container with the same host name) cannot be read from here and is judged as one
of another host is. Where the boot is another one, a lock that was refreshed a moment ago is believed: it is another
machine of the same name.

A process that stood still (a suspended machine, a store that did not answer) may lose its lock to another host and not
know: it asks `require_held` before it writes, and a lock that is another's is neither refreshed nor removed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel

from backup_pipeline.errors import LockError
from backup_pipeline.system.files import read_ordinary, translate_os_error

HEARTBEAT_SECONDS = 10.0
FOREIGN_STALE_SECONDS = 90.0
"""Below two minutes, for which a killed process may block others; six of the refreshes of earlier releases."""
FRESH_SECONDS = 45.0
_LARGEST = 64 << 10


class Holder(BaseModel):
    """Who holds a lock.

    Attributes:
        process_started: seconds since the epoch, as the clock stood; compared only where there are no ticks.
        boot_id: of the running kernel; "" where there is none, and in locks of earlier releases.
        started_ticks: the process's start in ticks since that boot.
        pid_namespace: in which `pid` is a number.
        clock_offset: the clock minus the seconds since the boot, when the lock was taken: shows later steps.
    """

    pid: int
    host: str
    process_started: float
    since: str
    purpose: str = ""
    token: str = ""
    owner: str = ""
    boot_id: str = ""
    started_ticks: int = 0
    pid_namespace: str = ""
    clock_offset: float = 0.0

    def describe(self) -> str:
        """Return one phrase for an error message."""
        what = f" ({self.purpose})" if self.purpose else ""
        return f"process {self.pid} on {self.host} since {self.since}{what}"


def this_process(purpose: str, owner: str = "") -> Holder:
    """Return this process as the holder of a lock that it is about to take."""
    return Holder(
        pid=os.getpid(),
        host=socket.gethostname(),
        process_started=_started(os.getpid()),
        since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        purpose=purpose,
        token=uuid.uuid4().hex,
        owner=owner,
        boot_id=boot_id(),
        started_ticks=_ticks(os.getpid()) or 0,
        pid_namespace=_pid_namespace(),
        clock_offset=_clock_offset(),
    )


@functools.cache
def boot_id() -> str:
    """Return the id of the running kernel since it was booted; "" where there is none."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _pid_namespace() -> str:
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def _ticks(pid: int) -> int | None:
    """Return a process's start in the kernel's ticks; None where it cannot be read."""
    try:
        # The name before it, in parentheses, may hold anything.
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _clock_offset() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else 0.0


def read_holder(path: Path) -> Holder | None:
    """Return who holds the lock at `path`; None when nobody does or the file cannot be understood."""
    try:
        return Holder.model_validate_json(read_ordinary(path, at_most=_LARGEST))
    except (OSError, ValueError):
        return None


def is_dead(path: Path, holder: Holder | None) -> bool:
    """Return whether the holder of the lock at `path` is gone, as far as that can be known from here."""
    try:
        refreshed = path.stat().st_mtime
    except OSError:
        return False
    age = time.time() - refreshed
    if holder is None:
        # Being written right now, or torn by a crash: only its age shows it.
        return age > HEARTBEAT_SECONDS
    if holder.host != socket.gethostname():
        return _is_stale(path, refreshed, holder)
    if not holder.boot_id or not boot_id():
        return _is_gone_by_the_clock(holder)
    if holder.boot_id != boot_id():
        return abs(age) > FRESH_SECONDS and abs(_now_at(path) - refreshed) > FRESH_SECONDS
    if holder.pid_namespace != _pid_namespace():
        return _is_stale(path, refreshed, holder)
    return is_gone_here(holder)


def _is_stale(path: Path, refreshed: float, holder: Holder) -> bool:
    """Whether the lock of a process that cannot be observed from here has not been refreshed for long."""
    age = time.time() - refreshed
    if holder.boot_id and holder.boot_id == boot_id():
        # The same machine: by as much as the clock was set since, the lock may only seem to be old.
        age -= max(0.0, _clock_offset() - holder.clock_offset)
    return age > FOREIGN_STALE_SECONDS and _now_at(path) - refreshed > FOREIGN_STALE_SECONDS


def _now_at(path: Path) -> float:
    """Return the time as the file system of the lock has it (a network mount's is its server's)."""
    side = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        descriptor = os.open(side, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            return os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
            side.unlink()
    except OSError:
        return time.time()


def _exists(pid: int) -> bool:
    """Whether there is a process of that number, though nothing of it can be read (`hidepid`)."""
    if pid <= 0:
        return False  # a damaged file; the system takes such a number for a group of processes
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _is_gone_by_the_clock(holder: Holder) -> bool:
    import psutil

    try:
        started = _started(holder.pid)
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        # Gone, or no number that a process can have: the file was damaged.
        return True
    except psutil.AccessDenied:
        return False
    return abs(started - holder.process_started) > 2.0


def _started(pid: int) -> float:
    # Loaded when there is a lock to inspect: `list` and `show` mostly find none.
    import psutil

    return psutil.Process(pid).create_time()


def living_holder(path: Path) -> Holder | None:
    """Return who holds the lock at `path` now; None when nobody does or the holder is dead."""
    holder = read_holder(path)
    return None if holder is None or is_dead(path, holder) else holder


class HeartbeatLease:
    """Judges a holder dead when its process is gone, or when its heartbeat did not change for as long as a lease.

    The time is this process's own since it first observed that heartbeat: no clock of another machine is compared.
    Unlike the judgement by default, this one takes over from a process of this host that stands still.

    Args:
        seconds: length of the lease, several heartbeats; FOREIGN_STALE_SECONDS by default.
        clock: seconds that only grow.
    """

    def __init__(self, seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = FOREIGN_STALE_SECONDS if seconds is None else seconds
        self._clock = clock
        self._observed: dict[Path, tuple[object, float]] = {}

    def __call__(self, path: Path, holder: Holder | None) -> bool:
        """Return whether the holder of the lock at `path` is dead."""
        try:
            beat = (holder and holder.token, path.stat().st_mtime_ns)
        except OSError:
            return False
        if holder is not None and _is_here(holder) and is_dead(path, holder):
            return True
        now = self._clock()
        before, since = self._observed.get(path, (None, now))
        if before != beat:
            self._observed[path] = (beat, now)
            return False
        return now - since > self._seconds


def _is_here(holder: Holder) -> bool:
    """Whether the holder's process can be observed from this one."""
    here = socket.gethostname(), boot_id(), _pid_namespace()
    return bool(holder.boot_id) and (holder.host, holder.boot_id, holder.pid_namespace) == here


def is_gone_here(holder: Holder) -> bool:
    """Return whether a holder was a process that could be observed from this one, and is no more."""
    if not _is_here(holder):
        return False
    ticks = _ticks(holder.pid)
    return not _exists(holder.pid) if ticks is None else ticks != holder.started_ticks


_SIDE = re.compile(r"\.(stale-)?[0-9a-f]{32}")
_LEFT_BEHIND_SECONDS = 60


def _create(path: Path, holder: Holder) -> bool:
    """Create the lock complete with its content: a link either appears whole or not at all."""
    side = path.with_name(f"{path.name}.{holder.token}")
    data = json.dumps(holder.model_dump(), indent=1).encode()
    try:
        descriptor = os.open(side, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        try:
            os.link(side, path)
        except FileExistsError:
            return False
        except OSError:
            # No hard links here (SMB, FAT): exclusive creation instead, content a moment later.
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                return False
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
        return True
    except OSError as error:
        raise translate_os_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            side.unlink(missing_ok=True)


def _take_away(path: Path, dead: Holder | None) -> bool:
    """Remove a dead holder's lock; of several that try, only one moves it, and never a living one's.

    Returns:
        False when it could not be moved and may stand there for good.
    """
    side = path.with_name(f"{path.name}.stale-{uuid.uuid4().hex}")
    try:
        path.rename(side)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    moved = read_holder(side)
    if (moved.token if moved else None) != (dead.token if dead else None):
        # Somebody else was quicker and holds it now: put theirs back unless a new one stands there already.
        with contextlib.suppress(OSError):
            os.link(side, path)
    with contextlib.suppress(OSError):
        side.unlink()
    return True


def _sweep(path: Path) -> None:
    """Remove what processes left beside the lock that were killed in the instant of taking it."""
    with contextlib.suppress(OSError):
        # Compared with the lock just made: the clock of a network mount may be another.
        long_ago = path.stat().st_mtime - _LEFT_BEHIND_SECONDS
        beside = [each for each in path.parent.iterdir() if each.name.startswith(path.name)]
        for side in beside:
            if _SIDE.fullmatch(side.name[len(path.name) :]) and side.stat().st_mtime < long_ago:
                side.unlink()


@contextlib.contextmanager
def hold_lock(
    path: Path,
    *,
    purpose: str = "",
    owner: str = "",
    wait_seconds: float = 30.0,
    poll_seconds: float = 0.2,
    on_wait: Callable[[Holder], None] | None = None,
    judge: Callable[[Path, Holder | None], bool] | None = None,
) -> Iterator[Holder]:
    """Hold the lock file at `path` while the block runs.

    Args:
        path: the lock file; its folder must exist.
        purpose: shown to others who wait, as in "backup of nightly, run 1f3a".
        owner: the work that several processes share (a run whose steps have processes of their own). They hold the
            lock one after the other and wait for each other without an end.
        wait_seconds: how long to wait for another holder before giving up.
        poll_seconds: how often to check.
        on_wait: called once with the holder when waiting begins.
        judge: says whether a holder is dead, so that its lock is taken over; `is_dead` by default.

    Raises:
        LockError: still held after `wait_seconds`; names the holder.
        StoreError: the file cannot be created.
    """
    me = this_process(purpose, owner)
    judge = judge or is_dead
    deadline = time.monotonic() + wait_seconds
    reported = False
    while not _create(path, me):
        holder = read_holder(path)
        if judge(path, holder) and _take_away(path, holder):
            continue
        if on_wait and holder and not reported:
            on_wait(holder)
            reported = True
        if owner and holder is not None and holder.owner == owner:
            deadline = time.monotonic() + wait_seconds
        elif time.monotonic() >= deadline:
            who = holder.describe() if holder else "an unknown process"
            raise LockError(
                f"Held by {who}.",
                where=str(path),
                remedy="Wait until it has finished. If that process is gone for good, delete this file.",
            )
        time.sleep(poll_seconds)
    _sweep(path)
    _held[path.absolute()] = me
    with _refreshed(path, me):
        try:
            yield me
        finally:
            _held.pop(path.absolute(), None)
            holder = read_holder(path)
            if holder is not None and holder.token == me.token:
                with contextlib.suppress(OSError):
                    path.unlink()


_held: dict[Path, Holder] = {}


def require_held(path: Path) -> None:
    """Make sure that a lock that this process took is still its own: called before what the lock protects is changed.

    A lock that this process has not taken is none of its business: nothing is asked then.

    Raises:
        LockError: another process has taken it over, or somebody has removed it.
        StoreError: the lock file cannot be read, so that nobody knows.
    """
    mine = _held.get(path.absolute())
    if mine is None:
        return
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise translate_os_error(error, path) from error
    holder = read_holder(path)
    if holder is not None and holder.token == mine.token:
        return
    raise LockError(
        "This process has lost its lock: "
        + (f"it was taken over by {holder.describe()}." if holder else "the file was removed."),
        where=str(path),
        remedy=f"Nothing more was written. A process that stands still for more than {FOREIGN_STALE_SECONDS:.0f} s (a "
        "suspended machine, a store that does not answer) loses its lock to other machines: run it again.",
    )


def require_all_held(folder: Path) -> None:
    """Make sure of every lock in a folder, or right below it, that this process took, as `require_held` does."""
    folder = folder.absolute()
    for path in [path for path in list(_held) if folder in (path.parent, path.parent.parent)]:
        require_held(path)


def living_locks(folder: Path, ending: str, judge: Callable[[Path, Holder | None], bool]) -> dict[str, Holder | None]:
    """Return who holds the locks in a folder whose names have that ending, by name; those of the dead are removed.

    None stands for a holder that cannot be read, as while its lock is written.
    """
    living: dict[str, Holder | None] = {}
    for path in sorted(folder.glob(f"*{ending}")):
        holder = read_holder(path)
        if judge(path, holder):
            _take_away(path, holder)
        elif holder is not None or path.exists():
            living[path.name] = holder
    return living


@contextlib.contextmanager
def _refreshed(path: Path, mine: Holder) -> Iterator[None]:
    """Refresh a lock's modification time while the block runs and the lock is this process's."""
    stop = threading.Event()

    def refresh() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            holder = read_holder(path)
            if holder is not None and holder.token == mine.token:
                with contextlib.suppress(OSError):
                    os.utime(path)

    threading.Thread(target=refresh, name="lock-heartbeat", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


@contextlib.contextmanager
def hold_mark(folder: Path, name: str, *, purpose: str = "") -> Iterator[Holder]:
    """Say in `folder` that this process works with `name` while the block runs; any number may at once.

    Args:
        folder: where the marks are; must exist.
        name: what is worked with; no dot in it.
        purpose: shown to others, as in "drill of nightly/2026-11-21T020000Z".

    Raises:
        StoreError: the mark cannot be written.
    """
    me = this_process(purpose, "")
    path = folder / f"{name}.{me.token}"
    _create(path, me)
    try:
        with _refreshed(path, me):
            yield me
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def living_marks(folder: Path, name: str) -> list[Holder]:
    """Return who works with `name` now; marks of dead processes are removed."""
    living = []
    for path in _marks_of(folder, name):
        holder = read_holder(path)
        if is_dead(path, holder):
            _take_away(path, holder)
        elif holder is not None and path.name.count(".") == 1:  # with more it is being written
            living.append(holder)
    return living


def _marks_of(folder: Path, name: str) -> list[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        found = os.listdir(folder)  # noqa: PTH208 - asked for each of thousands of sets
        return sorted(folder / each for each in found if each.startswith(f"{name}."))
    return []
