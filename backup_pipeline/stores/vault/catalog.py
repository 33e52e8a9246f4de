"""What stands in a vault: its copies with their headers, its chunks, what is marked for removal."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from backup_pipeline.errors import BackupSystemError, RefusedError
from backup_pipeline.stores.objects.contract import ObjectPlace, ObjectVersion
from backup_pipeline.stores.objects.errors import ObjectNotFoundError, PlaceFullError, PlaceRefusedError
from backup_pipeline.stores.vault.copy_object import CopyHeader, StoredCopy
from backup_pipeline.stores.vault.description import Description
from backup_pipeline.stores.vault.locks import earlier_versions, hidden_objects
from backup_pipeline.stores.vault.names import CHUNKS, COPIES, MARKS, PENDING, is_chunk_name, is_copy_name

GRACE = timedelta(hours=72)
"""How long a marked copy and its chunks, and chunks that no copy names, stay at least."""
FRESH = timedelta(hours=24)
"""How young a chunk that no copy names must be for a writer to rely on it.

Twice this is less than GRACE, and the rest of it covers lists that are stale and clocks that are wrong.
"""

PENDING_KEPT = timedelta(days=90)
"""How long cleaning keeps the chunks that an announced copy names, whatever became of its writer."""
PENDING_TRUSTED = timedelta(days=30)
"""How soon after its announcement a copy must become visible; far less than PENDING_KEPT, for clocks that are wrong."""

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return this machine's time."""
    return datetime.now(UTC)


def vault_time(place: ObjectPlace, clock: Clock) -> datetime:
    """Return the place's time, which the times of its objects are of; this machine's where it does not say."""
    return place.server_time() or clock()


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk as the place lists it: size in bytes, when it was written."""

    size: int
    modified: datetime | None


@dataclass(frozen=True)
class DamagedCopy:
    """A copy whose header cannot be trusted, and why."""

    name: str
    error: BackupSystemError


class VaultCatalog:
    """Reads what stands in a vault. Headers are kept: copies never change but by `reencrypt`, which changes their size.

    Args:
        place: the vault's place.
        description: the vault's.
        trusted: public keys whose copies count.
    """

    def __init__(self, place: ObjectPlace, description: Description, trusted: Collection[str] = ()) -> None:
        self.place = place
        self.description = description
        self.trusted = trusted
        self._known: dict[str, tuple[object, StoredCopy]] = {}

    def chunks(self) -> dict[str, StoredChunk]:
        """Return every chunk by name."""
        found = {}
        for info in self.place.list(CHUNKS):
            name = info.name.rpartition("/")[2]
            if is_chunk_name(name):
                found[name] = StoredChunk(info.size, info.modified)
        return found

    def copy_names(self) -> list[str]:
        """Return the names of all copies, oldest first."""
        return sorted(self._listed())

    def _listed(self) -> dict[str, object]:
        listed = ((info.name.removeprefix(COPIES), info) for info in self.place.list(COPIES))
        found: dict[str, object] = {name: (info.size, info.modified) for name, info in listed if is_copy_name(name)}
        for name, version in self._hidden_copies():
            found.setdefault(name, version)
        return found

    def _hidden_copies(self) -> Iterator[tuple[str, ObjectVersion]]:
        """Yield copies that somebody deleted although the storage keeps them under their lock."""
        try:
            hidden = hidden_objects(self.place, COPIES, replaced=False)
        except PlaceRefusedError:
            return  # These credentials may not list versions.
        for name, version in hidden.items():
            if is_copy_name(name.removeprefix(COPIES)):
                yield name.removeprefix(COPIES), version

    def marks(self) -> dict[str, datetime | None]:
        """Return when each copy was marked for removal."""
        listed = ((info.name.removeprefix(MARKS), info.modified) for info in self.place.list(MARKS))
        return {name: modified for name, modified in listed if is_copy_name(name)}

    def announce(self, chunks: Collection[str]) -> str:
        """Name the chunks of a copy that is about to become visible; returns the announcement's name."""
        name = PENDING + secrets.token_hex(16)
        self.place.create(name, json.dumps(sorted(chunks)).encode())
        return name

    def announced(self, now: datetime) -> tuple[set[str], list[str]]:
        """Return the chunks that announced copies name, and the announcements that are too old to count.

        Raises:
            RefusedError: one cannot be read: what it needs is not known.
        """
        chunks: set[str] = set()
        old = []
        for info in self.place.list(PENDING):
            if info.modified is not None and now - info.modified >= PENDING_KEPT:
                old.append(info.name)
                continue
            try:
                found = json.loads(self.place.get(info.name))
                chunks |= {str(one) for one in found}
            except ObjectNotFoundError:
                continue
            except (ValueError, TypeError, RecursionError) as error:
                raise RefusedError(
                    "An announced copy cannot be read, and what it needs is not known.",
                    where=f"{self.place.label}/{info.name}",
                    remedy=f"Find out who writes there; {PENDING_KEPT.days} days after it was made it is removed.",
                ) from error
        return chunks, old

    def copies(self) -> tuple[list[StoredCopy], list[DamagedCopy]]:
        """Return the copies whose headers are right, and the others, oldest first."""
        good, bad = [], []
        listed = self._listed()
        for name in sorted(listed):
            known = self._known.get(name)
            if known is not None and known[0] == listed[name]:
                good.append(known[1])
                continue
            try:
                copy = self.copy(name)
            except ObjectNotFoundError:
                continue
            except BackupSystemError as error:
                if not error.permanent:
                    raise
                bad.append(DamagedCopy(name, error))
                continue
            self._known[name] = (listed[name], copy)
            good.append(copy)
        return good, bad

    def copy(self, name: str) -> StoredCopy:
        """Return one copy; as StoredCopy raises.

        Where somebody deleted or replaced it, it is read from the version below that its lock keeps.
        """
        try:
            return StoredCopy(self.place, self.description, name, self.trusted)
        except (PlaceRefusedError, PlaceFullError):
            raise
        except BackupSystemError as error:
            if not error.permanent:
                raise
            for _, data in earlier_versions(self.place, COPIES + name):
                with contextlib.suppress(BackupSystemError):
                    read = partial(_part, data)
                    return StoredCopy(self.place, self.description, name, self.trusted, read=read)
            raise

    def usable_headers(self) -> Iterator[CopyHeader]:
        """Yield the headers of copies that are not marked: a writer relies on their chunks."""
        marks = self.marks()
        for copy in self.copies()[0]:
            if copy.name not in marks:
                yield copy.header


def _part(data: bytes, start: int, length: int) -> bytes:
    return data[start : start + length]
