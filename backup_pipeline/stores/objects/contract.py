"""The contract of places of objects: named bytes off the machine, created only if absent, locked where storage can.

A name is relative with forward slashes (`chunks/ab/abcd`); no part of it is empty, `.`, `..` or begins with a dot.
A prefix is the beginning of names as text, "" for all; a folder's prefix ends with "/".

Every call may raise PlaceRefusedError (credentials, permission, no such bucket or folder, read-only), PlaceFullError
and PlaceUnreachableError (the only transient one: no answer, broken off, throttled until the limit of time). Every call
tries again by itself inside that limit; none waits without one. Instances are used by several threads at once.
Every implementation passes the same tests (test_object_places).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

Data = bytes | bytearray
"""Bytes of an object. Whoever passes them on does not change them afterwards."""
DataView = Data | memoryview
"""Bytes of an object in memory that is used again once the call that got them has returned: no place keeps them."""


@dataclass(frozen=True)
class ObjectInfo:
    """An object as the place lists it.

    Args:
        name: relative to the place.
        size: in bytes.
        modified: when it was written by the place's clock, aware, UTC; None where the place does not say.
    """

    name: str
    size: int
    modified: datetime | None


@dataclass(frozen=True)
class LockState:
    """How the storage protects one object.

    Args:
        supported: False where the place cannot lock objects; the other two are None then.
        until: until when it forbids to delete the object (aware, UTC); None when the object is not locked.
        mode: `COMPLIANCE` (nobody can shorten it) or `GOVERNANCE` (people with a special right can).
    """

    supported: bool
    until: datetime | None
    mode: str | None


@dataclass(frozen=True)
class BucketLock:
    """What the storage promises for every new object of the place.

    Args:
        supported: False where the kind of place cannot lock objects at all.
        enabled: whether objects of this place can be locked.
        default_days: days for which each new object is locked by itself; None when it is not.
        mode: mode of that default, as in LockState.
        detail: one sentence for people: what was found, or why it could not be read.
        extendable: whether the lock of an object can be made longer (`extend_lock`); it is written anew otherwise.
    """

    supported: bool
    enabled: bool
    default_days: int | None
    mode: str | None
    detail: str
    extendable: bool = False


@dataclass(frozen=True)
class ObjectVersion:
    """One of the versions that a bucket with locks keeps below a name.

    Args:
        name: relative to the place.
        version: the storage's id of it.
        size: in bytes; 0 for a deletion marker.
        modified: when it was written, aware, UTC.
        latest: whether it is what a reader of the name gets.
        marker: whether it is no object, but hides those below it.
    """

    name: str
    version: str
    size: int
    modified: datetime
    latest: bool
    marker: bool


class ObjectPlace(Protocol):
    """Where objects live. Names are relative to it."""

    @property
    def label(self) -> str:
        """Where it is, for people; no secret (`s3://bucket/prefix`)."""

    @property
    def conditional_create(self) -> bool:
        """Whether `create` is atomic there: of several who create one name at once, exactly one gets True."""

    def create(self, name: str, data: DataView, *, lock_until: datetime | None = None) -> bool:
        """Write an object that is not there yet, complete or not at all.

        True when the object is there with these bytes by this call: when an answer is lost and the call is tried again,
        the object found then counts as this call's if its bytes are equal. So two writers of *equal* bytes may both get
        True; who takes a lease writes bytes that no other writes.

        Args:
            name: the object's name.
            data: its bytes.
            lock_until: until when the storage shall forbid deletion (aware); ignored where it cannot lock, and where a
                bucket's default locks for longer that default stands.

        Returns:
            False when an object of that name exists already; nothing was overwritten.
        """

    def put(self, name: str, data: DataView, *, lock_until: datetime | None = None) -> None:
        """Write an object, replacing one of that name at once for all readers; complete or not at all.

        Where the storage keeps versions, the replaced one stays below under its lock.

        Raises:
            ObjectLockedError: the storage forbids to replace it.
        """

    def get(self, name: str) -> bytes:
        """Return an object's bytes.

        Raises:
            ObjectNotFoundError: no object of that name.
        """

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Return `length` bytes from `start` on; fewer only where the object ends (b"" at and behind its end).

        Raises:
            ObjectNotFoundError: no object of that name.
        """

    def info(self, name: str) -> ObjectInfo | None:
        """Return an object's size and time; None when there is none of that name."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield every object whose name begins with `prefix`, sorted by name (by its UTF-8 bytes), all pages."""

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is no error.

        Raises:
            ObjectLockedError: the storage forbids it; the object is still there.
        """

    def lock_state(self, name: str) -> LockState:
        """Return how the storage protects an object, asked from the storage.

        Raises:
            ObjectNotFoundError: no object of that name (where the place can lock).
        """

    def extend_lock(self, name: str, until: datetime) -> None:
        """Have the storage forbid deletion until `until` (aware); never shortens a lock.

        Raises:
            ObjectNotFoundError: no object of that name.
            PlaceRefusedError: the place cannot lock objects, or does not let these credentials.
        """

    def bucket_lock(self) -> BucketLock:
        """Return what the storage promises for every new object, asked from the storage."""

    def versions(self, prefix: str) -> Iterator[ObjectVersion]:
        """Yield every version and deletion marker of names that begin with `prefix`, the newest of each name first.

        Nothing where the place keeps no versions under locks: what is gone or replaced there is lost.
        """

    def get_version(self, name: str, version: str) -> bytes:
        """Return the bytes of one version.

        Raises:
            ObjectNotFoundError: there is none.
        """

    def server_time(self) -> datetime | None:
        """Return the place's clock (aware, UTC; whole seconds may be all it says); None where it does not say."""

    def close(self) -> None:
        """End its connections; the place cannot be used afterwards."""
