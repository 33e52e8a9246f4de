"""What places answer that cannot lock objects, or whose locks are not read: the base of folders, SFTP and others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import datetime
from typing import ClassVar

from backup_pipeline.stores.objects.contract import BucketLock, LockState, ObjectVersion
from backup_pipeline.stores.objects.errors import ObjectNotFoundError, PlaceRefusedError


class UnlockedPlace(ABC):
    """The part of `ObjectPlace` that speaks of locks and versions, where there are none.

    Attributes:
        no_lock: why an object cannot be locked, and the remedy.
        no_bucket_lock: what the storage promises for new objects, as one sentence.
    """

    no_lock: ClassVar[tuple[str, str]]
    no_bucket_lock: ClassVar[str]

    @property
    @abstractmethod
    def label(self) -> str:
        """Where it is, for people."""

    def lock_state(self, name: str) -> LockState:
        """Return that no lock is known."""
        return LockState(supported=False, until=None, mode=None)

    def extend_lock(self, name: str, until: datetime) -> None:
        """Refuse with PlaceRefusedError."""
        what, remedy = self.no_lock
        raise PlaceRefusedError(what, where=self.label, remedy=remedy)

    def bucket_lock(self) -> BucketLock:
        """Return that nothing is promised, or that the promise is not read."""
        return BucketLock(False, False, None, None, self.no_bucket_lock)

    def versions(self, prefix: str) -> Iterator[ObjectVersion]:
        """Yield nothing: no versions are kept, or they are not read."""
        return iter(())

    def get_version(self, name: str, version: str) -> bytes:
        """Refuse with ObjectNotFoundError."""
        raise ObjectNotFoundError("No versions are kept here.", where=f"{self.label}/{name}")
