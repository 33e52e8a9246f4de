"""Coordination of processes that use one store: locks, marks and small notes by name, here as files beside the sets.

A name is relative with forward slashes (`.backup.lock`, `.claims/<set>.<source>.claim`). What the names mean is known
by those who choose them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from backup_pipeline.system.files import give_mode, make_folder_in, read_ordinary, write_atomically
from backup_pipeline.system.locks import (
    HeartbeatLease,
    Holder,
    hold_lock,
    hold_mark,
    is_dead,
    living_locks,
    living_marks,
    require_all_held,
)


class Coordination(Protocol):
    """See the module. Errors: LockError as said; StoreError or SourceError where nothing can be asked or written."""

    def hold(
        self,
        name: str,
        *,
        purpose: str,
        owner: str = "",
        wait_seconds: float = 30.0,
        on_wait: Callable[[Holder], None] | None = None,
        leased: bool = False,
    ) -> AbstractContextManager[Holder]:
        """Hold a lock while the block runs.

        Args:
            name: of the lock.
            purpose: shown to others who wait.
            owner: the work that several processes share; they wait for each other without an end.
            wait_seconds: how long to wait for others before LockError.
            on_wait: called once with the holder when waiting begins.
            leased: take over from a holder of the same owner whose heartbeat stands still, wherever its process is.
        """

    def mark(self, name: str, *, purpose: str) -> AbstractContextManager[Holder]:
        """Say that this process works with `name` while the block runs; any number may at once."""

    def marks(self, name: str) -> list[Holder]:
        """Return the living processes that work with `name`."""

    def living(self, prefix: str, ending: str, *, owner: str = "") -> list[Holder | None]:
        """Return who holds the locks of these names, None for one that cannot be read; those of the dead are removed.

        Args:
            prefix: a folder's, with its slash, or "".
            ending: of the names.
            owner: whose holders are judged by their heartbeats, as by `leased`.
        """

    def require(self) -> None:
        """Make sure that every lock that this process took here is still its own; LockError otherwise."""

    def read(self, name: str) -> bytes | None:
        """Return a note; None where there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Write a note, replacing it; LockError where this process has lost a lock."""

    def remove(self, name: str) -> bool:
        """Remove a note; return whether there was one."""

    def names(self, prefix: str) -> list[str]:
        """Return the names of locks and notes with that beginning (a folder's, with its slash)."""


class FolderCoordination:
    """See Coordination; files in a folder, which may be mounted by several machines.

    Args:
        folder: beside the sets; must exist when something is written.
        file_mode: of files.
        folder_mode: of folders.
    """

    def __init__(self, folder: Path, file_mode: int, folder_mode: int) -> None:
        self._folder = folder
        self._file_mode = file_mode
        self._folder_mode = folder_mode
        self._lease = HeartbeatLease()

    def _judge(self, owner: str) -> Callable[[Path, Holder | None], bool]:
        def judge(path: Path, holder: Holder | None) -> bool:
            return (self._lease if owner and holder and holder.owner == owner else is_dead)(path, holder)

        return judge

    def _made(self, name: str) -> Path:
        path = self._folder / name
        if path.parent != self._folder and not path.parent.is_dir():
            make_folder_in(self._folder, path.parent.name, self._folder_mode)
        return path

    @contextmanager
    def hold(
        self,
        name: str,
        *,
        purpose: str,
        owner: str = "",
        wait_seconds: float = 30.0,
        on_wait: Callable[[Holder], None] | None = None,
        leased: bool = False,
    ) -> Iterator[Holder]:
        """Hold a lock file while the block runs."""
        path = self._made(name)
        judge = self._judge(owner) if leased else is_dead
        with hold_lock(
            path, purpose=purpose, owner=owner, wait_seconds=wait_seconds, on_wait=on_wait, judge=judge
        ) as holder:
            give_mode(path, self._file_mode)
            yield holder

    @contextmanager
    def mark(self, name: str, *, purpose: str) -> Iterator[Holder]:
        """Put a file that says so beside the others' while the block runs."""
        path = self._made(name)
        with hold_mark(path.parent, path.name, purpose=purpose) as holder:
            give_mode(path.with_name(f"{path.name}.{holder.token}"), self._file_mode)
            yield holder

    def marks(self, name: str) -> list[Holder]:
        """Return the living processes that work with `name`."""
        path = self._folder / name
        return living_marks(path.parent, path.name)

    def living(self, prefix: str, ending: str, *, owner: str = "") -> list[Holder | None]:
        """Return who holds the lock files of these names."""
        folder = self._folder / prefix
        return list(living_locks(folder, ending, self._judge(owner)).values()) if folder.is_dir() else []

    def require(self) -> None:
        """Make sure of every lock file that this process took in the folder, or in one right below."""
        require_all_held(self._folder)

    def read(self, name: str) -> bytes | None:
        """Return a note."""
        try:
            return read_ordinary(self._folder / name)
        except OSError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a note."""
        write_atomically(self._made(name), data, mode=self._file_mode, allowed=self.require)

    def remove(self, name: str) -> bool:
        """Remove a note."""
        try:
            (self._folder / name).unlink()
        except OSError:
            return False
        return True

    def names(self, prefix: str) -> list[str]:
        """Return the names of what is in a folder."""
        found: list[str] = []
        with suppress(OSError):
            found = [f"{prefix}{path.name}" for path in (self._folder / prefix).iterdir()]
        return found
