"""A place of objects in memory, whose clock the tests set and whose calls they can hold or break."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from backup_pipeline.stores.objects.contract import BucketLock, DataView, LockState, ObjectInfo, ObjectVersion
from backup_pipeline.stores.objects.errors import ObjectNotFoundError

START = datetime(2026, 11, 21, 4, tzinfo=UTC)


class MemoryPlace:
    """See contract.ObjectPlace. `before` is called before each call with its name and the object's."""

    label = "memory:"
    conditional_create = True

    def __init__(self, before: Callable[[str, str], None] | None = None) -> None:
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self.clock = [START]
        self.before = before or (lambda call, name: None)
        self.lock = threading.Lock()
        self.calls = 0

    @property
    def now(self) -> datetime:
        return self.clock[0]

    @now.setter
    def now(self, moment: datetime) -> None:
        self.clock[0] = moment

    def for_process(self, before: Callable[[str, str], None]) -> MemoryPlace:
        """Return the same place as one process has it: whatever thread of it calls, `before` is that process's."""
        own = copy.copy(self)
        own.before = before
        return own

    def _enter(self, call: str, name: str) -> None:
        self.calls += 1
        self.before(call, name)

    def create(self, name: str, data: DataView, *, lock_until: datetime | None = None) -> bool:
        self._enter("create", name)
        with self.lock:
            if name in self.objects:
                return self.objects[name][0] == data
            self.objects[name] = (bytes(data), self.now)
            return True

    def put(self, name: str, data: DataView, *, lock_until: datetime | None = None) -> None:
        self._enter("put", name)
        with self.lock:
            self.objects[name] = (bytes(data), self.now)

    def get(self, name: str) -> bytes:
        self._enter("get", name)
        with self.lock:
            if name not in self.objects:
                raise ObjectNotFoundError("No such object.", where=name)
            return self.objects[name][0]

    def get_range(self, name: str, start: int, length: int) -> bytes:
        return self.get(name)[start : start + length]

    def info(self, name: str) -> ObjectInfo | None:
        self._enter("info", name)
        with self.lock:
            found = self.objects.get(name)
        return ObjectInfo(name, len(found[0]), found[1]) if found else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._enter("list", prefix)
        with self.lock:
            found = [ObjectInfo(name, len(data), at) for name, (data, at) in self.objects.items()]
        return iter(sorted((one for one in found if one.name.startswith(prefix)), key=lambda one: one.name))

    def delete(self, name: str) -> None:
        self._enter("delete", name)
        with self.lock:
            self.objects.pop(name, None)

    def lock_state(self, name: str) -> LockState:
        return LockState(False, None, None)

    def extend_lock(self, name: str, until: datetime) -> None:
        raise NotImplementedError

    def bucket_lock(self) -> BucketLock:
        return BucketLock(False, False, None, None, "memory")

    def versions(self, prefix: str) -> Iterator[ObjectVersion]:
        """Yield nothing: nothing is kept."""
        return iter(())

    def get_version(self, name: str, version: str) -> bytes:
        """Refuse: there are no versions."""
        raise ObjectNotFoundError("No versions are kept here.", where=f"{self.label}/{name}")

    def server_time(self) -> datetime | None:
        return self.now

    def close(self) -> None:
        pass
