"""A lock file that works on network mounts too: created exclusively, says who holds it, outlives no process.

Not flock: it is silently local or absent on SMB and NFS. The file holds PID, host, the process's start time and what
for; the holder refreshes its modification time, so that a lock left by a dead process on this host is taken over at
once, and one left by another host when it has not been refreshed for a long time.
"""

from __future__ import annotations

import contextlib
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

from backup_pipeline.errors import LockError, StoreError
from backup_pipeline.tools.files import translate_os_error

HEARTBEAT_SECONDS = 15.0
FOREIGN_STALE_SECONDS = 600.0


class Holder(BaseModel):
    """Who holds a lock."""

    pid: int
    host: str
    process_started: float
    since: str
    purpose: str = ""
    token: str = ""
    owner: str = ""

    def describe(self) -> str:
        """Return one phrase for an error message."""
        what = f" ({self.purpose})" if self.purpose else ""
        return f"process {self.pid} on {self.host} since {self.since}{what}"


def _myself(purpose: str, owner: str) -> Holder:
    return Holder(
        pid=os.getpid(),
        host=socket.gethostname(),
        process_started=_started(os.getpid()),
        since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        purpose=purpose,
        token=uuid.uuid4().hex,
        owner=owner,
    )


def read_holder(path: Path) -> Holder | None:
    """Return who holds the lock at `path`; None when nobody does or the file cannot be understood."""
    try:
        return Holder.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def _is_dead(path: Path, holder: Holder | None) -> bool:
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        return False
    if holder is None:
        # Being written right now, or torn by a crash: only age tells.
        return age > HEARTBEAT_SECONDS
    if holder.host != socket.gethostname():
        return age > FOREIGN_STALE_SECONDS
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
    # Loaded when there is a lock to look at: `list` and `show` mostly find none.
    import psutil

    return psutil.Process(pid).create_time()


def living_holder(path: Path) -> Holder | None:
    """Return who holds the lock at `path` now; None when nobody does or the holder is dead."""
    holder = read_holder(path)
    return None if holder is None or _is_dead(path, holder) else holder


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
) -> Iterator[Holder]:
    """Hold the lock file at `path` while the block runs.

    Args:
        path: the lock file; its folder must exist.
        purpose: told to others who wait, as in "backup of nightly, run 1f3a".
        owner: the work that several processes share (a run whose steps have processes of their own). They hold the
            lock one after the other and wait for each other without an end.
        wait_seconds: how long to wait for another holder before giving up.
        poll_seconds: how often to look.
        on_wait: called once with the holder when waiting begins.

    Raises:
        LockError: still held after `wait_seconds`; names the holder.
        StoreError: the file cannot be created.
    """
    me = _myself(purpose, owner)
    deadline = time.monotonic() + wait_seconds
    told = False
    while not _create(path, me):
        holder = read_holder(path)
        if _is_dead(path, holder) and _take_away(path, holder):
            continue
        if on_wait and holder and not told:
            on_wait(holder)
            told = True
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
    with _refreshed(path):
        try:
            yield me
        finally:
            holder = read_holder(path)
            if holder is not None and holder.token == me.token:
                with contextlib.suppress(OSError):
                    path.unlink()


@contextlib.contextmanager
def _refreshed(path: Path) -> Iterator[None]:
    """Refresh a lock's modification time while the block runs."""
    stop = threading.Event()

    def refresh() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
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
        purpose: told to others, as in "drill of nightly/2026-11-21T020000Z".

    Raises:
        StoreError: the mark cannot be written.
    """
    me = _myself(purpose, "")
    path = folder / f"{name}.{me.token}"
    _create(path, me)
    try:
        with _refreshed(path):
            yield me
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def living_marks(folder: Path, name: str) -> list[Holder]:
    """Return who works with `name` now; marks of dead processes are removed."""
    living = []
    for path in sorted(folder.glob(f"{name}.*")):
        holder = read_holder(path)
        if _is_dead(path, holder):
            _take_away(path, holder)
        elif holder is not None and path.name.count(".") == 1:  # with more it is being written
            living.append(holder)
    return living


def check_lockable(folder: Path) -> None:
    """Raise StoreError when a lock could not be created in `folder`."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StoreError("Not writable.", where=str(folder), remedy="Give this user the right to write there.")
