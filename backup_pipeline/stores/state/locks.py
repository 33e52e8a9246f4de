"""Coordination by a database: the locks, marks and notes of a plan for workers that share no disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from backup_pipeline.errors import BackupSystemError, LockError
from backup_pipeline.stores.state.database import POLL_SECONDS, StateDatabase
from backup_pipeline.system import limits
from backup_pipeline.system.locks import HEARTBEAT_SECONDS, Holder, is_gone_here, this_process
from backup_pipeline.system.threads import start_thread

LOG = logging.getLogger("backup")
_FIRST_PAUSE_SECONDS = 0.05


class DatabaseCoordination:
    """See `stores.coordination.Coordination`. Every lock is a lease here, judged by the database's clock.

    Args:
        database: where.
        scope: of the locks.
    """

    def __init__(self, database: StateDatabase, scope: str) -> None:
        self._database = database
        self.scope = scope
        self._held: dict[str, str] = {}
        self._asked = -HEARTBEAT_SECONDS

    @property
    def held(self) -> dict[str, str]:
        """Names and tokens of the locks that were taken by this object."""
        return dict(self._held)

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
        """Hold a lock while the block runs."""
        me = this_process(purpose, owner)
        deadline = time.monotonic() + wait_seconds
        pause = _FIRST_PAUSE_SECONDS
        while (holder := self._database.take(self.scope, name, me)) is not None:
            if is_gone_here(holder):
                # Its lease would last for a minute and a half, and nobody else can know that its process is gone.
                self._database.release(self.scope, name, holder.token)
                continue
            if on_wait:
                on_wait(holder)
                on_wait = None
            if owner and holder.owner == owner:
                deadline = time.monotonic() + wait_seconds
            elif time.monotonic() >= deadline:
                raise LockError(
                    f"Held by {holder.describe()}.",
                    where=f"{self.scope}: {name}",
                    remedy="Wait until it has finished; a process that is gone holds it for two minutes at most.",
                )
            time.sleep(pause)
            # Most locks are held for a moment, some for hours.
            pause = min(pause * 1.5, POLL_SECONDS)
        self._held[name] = me.token
        with self._beating(name, me.token):
            try:
                yield me
            finally:
                self._held.pop(name, None)
        self._give_back(name, me.token)

    @contextmanager
    def _beating(self, name: str, token: str) -> Iterator[None]:
        stop = threading.Event()

        def beat() -> None:
            # That the database hears from us is no progress of the work: it would never be found standing still.
            limits.counts_for_nothing()
            while not stop.wait(HEARTBEAT_SECONDS):
                try:
                    self._database.beat(self.scope, {name: token})
                except LockError:
                    return
                except BackupSystemError as error:
                    LOG.warning("the lock %s: %s could not be refreshed: %s", self.scope, name, error.what)

        start_thread(beat, "lock-heartbeat")
        try:
            yield
        except BaseException:
            self._give_back(name, token)
            raise
        finally:
            stop.set()

    def _give_back(self, name: str, token: str) -> None:
        try:
            self._database.release(self.scope, name, token)
        except BackupSystemError as error:
            LOG.warning("the lock %s: %s could not be given back, and ends by itself: %s", self.scope, name, error.what)

    @contextmanager
    def mark(self, name: str, *, purpose: str) -> Iterator[Holder]:
        """Have a lock of a name that nobody else uses while the block runs."""
        with self.hold(f"{name}.{this_process('').token}", purpose=purpose) as holder:
            yield holder

    def marks(self, name: str) -> list[Holder]:
        """Return the living processes that work with `name`."""
        return self._database.holders(self.scope, f"{name}.", "")

    def living(self, prefix: str, ending: str, *, owner: str = "") -> list[Holder | None]:
        """Return who holds the locks of these names."""
        found = self._database.named_holders(self.scope, prefix, ending)
        for name, holder in found.items():
            if is_gone_here(holder):
                self._database.release(self.scope, name, holder.token)
        return [holder for holder in found.values() if not is_gone_here(holder)]

    def require(self) -> None:
        """Make sure of every lock that was taken here, and refresh it; believed for as long as a heartbeat."""
        if (held := self.held) and time.monotonic() - self._asked >= HEARTBEAT_SECONDS:
            self._database.beat(self.scope, held)
            self._asked = time.monotonic()

    def read(self, name: str) -> bytes | None:
        """Return a note."""
        found = self._database.read(self.scope, [name]).get(name)
        return found[1] if found else None

    def write(self, name: str, data: bytes) -> None:
        """Write a note."""
        self._database.write(self.scope, {name: data}, held_in=self.scope, held=self.held)

    def remove(self, name: str) -> bool:
        """Remove a note."""
        there = self.read(name) is not None
        self._database.write(self.scope, {name: None})
        return there

    def names(self, prefix: str) -> list[str]:
        """Return the names of notes with a beginning."""
        return [name for name in self._database.versions(self.scope) if name.startswith(prefix)]
