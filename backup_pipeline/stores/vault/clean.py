"""Removing copies: marked first, removed after a grace time, their chunks with them unless another copy names them.

Why no copy ever lacks a chunk, whatever runs beside this: docs/formats-vault.md, and a model test.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from backup_pipeline.errors import LockError, RefusedError
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.stores.objects.contract import ObjectPlace
from backup_pipeline.stores.objects.errors import ObjectLockedError, ObjectNotFoundError
from backup_pipeline.stores.vault.catalog import GRACE, Clock, StoredChunk, VaultCatalog, utc_now, vault_time
from backup_pipeline.stores.vault.names import COPIES, LEASES, MARKS, PROOFS, chunk_object
from backup_pipeline.stores.vault.proofs import proof_names
from backup_pipeline.system import limits

_LEASE_LENGTH = timedelta(hours=6)
# From then on nothing is removed any more: half an hour is left for a request that is on its way.
_REMOVING_LENGTH = _LEASE_LENGTH - timedelta(minutes=30)


@dataclass(frozen=True)
class Locked:
    """An object that the storage itself keeps: its name, and what the storage says of it."""

    name: str
    why: str


@dataclass
class CleanResult:
    """What cleaning did, or would do.

    Attributes:
        waiting: copies that are marked, by the end of their grace time.
        removed_copies: names of copies.
        removed_chunks: chunks that no copy named, of `removed_bytes` as stored.
        locked: what the storage forbids to remove.
    """

    waiting: dict[str, datetime] = field(default_factory=dict)
    removed_copies: list[str] = field(default_factory=list)
    removed_chunks: int = 0
    removed_bytes: int = 0
    locked: list[Locked] = field(default_factory=list)


def mark(catalog: VaultCatalog, names: Iterable[str], reason: str = "") -> None:
    """Mark copies for removal. They stay readable, and their chunks stay, for the grace time; no writer relies on them.

    Raises:
        RefusedError: there is no such copy.
    """
    there = set(catalog.copy_names())
    for name in names:
        if name not in there:
            raise RefusedError(
                "There is no such copy.",
                where=f"{catalog.place.label}/{COPIES}{name}",
                remedy="backup-pipeline vault list shows the copies.",
            )
        note = json.dumps({"reason": reason, "nonce": secrets.token_hex(8)}).encode()
        catalog.place.create(MARKS + name, note)


def clean(
    catalog: VaultCatalog,
    clock: Clock = utc_now,
    progress: ProgressSink = no_progress,
    *,
    dry_run: bool = False,
    owner: str = "",
) -> CleanResult:
    """Remove copies that were marked long enough ago, and chunks that no copy names and that are old enough.

    Args:
        catalog: the vault.
        clock: this machine's; the place's own counts where it says.
        progress: who watches.
        dry_run: remove nothing and take no lease; the result says what would be done. Locks are asked for one by one.
        owner: who cleans, when no other process of that name can: a lease that one of them left is taken over at once.

    Raises:
        LockError: another cleaner works here, or this one took so long (a machine that slept) that another may have
            begun.
        RefusedError: a copy cannot be read: what it needs is not known, so nothing is removed.
    """
    if dry_run:
        return _clean(catalog, clock, progress, _Trial(catalog.place, clock, clock()))
    begun = clock()
    with _lease(catalog.place, clock, owner):
        return _clean(catalog, clock, progress, _Removal(catalog.place, clock, begun))


class _Removal:
    """Removes objects while the lease lasts; returns why the storage does not let one go, "" when it is gone.

    A process that was suspended, with its machine for example, would go on with a list of days ago: what it removes
    then may have been removed by another cleaner and sent anew by a copy that is complete by now.
    """

    def __init__(self, place: ObjectPlace, clock: Clock, begun: datetime) -> None:
        self.place = place
        self._clock, self._begun = clock, begun

    def remove(self, name: str) -> str:
        if not timedelta(0) <= self._clock() - self._begun < _REMOVING_LENGTH:
            raise LockError(
                "This cleaning was interrupted, or took so long, that another may have begun; it removes nothing more.",
                where=self.place.label,
                remedy="Run vault clean again: it goes on where this one stopped.",
            )
        try:
            self.place.delete(name)
        except ObjectLockedError as error:
            return error.what
        return ""


class _Trial(_Removal):
    """Says what a removal would meet."""

    def __init__(self, place: ObjectPlace, clock: Clock, begun: datetime) -> None:
        super().__init__(place, clock, begun)
        self._locks = place.bucket_lock().enabled

    def remove(self, name: str) -> str:
        if not self._locks:
            return ""
        try:
            until = self.place.lock_state(name).until
        except ObjectNotFoundError:
            return ""
        now = self.place.server_time() or utc_now()
        return f"The storage forbids to delete it until {until.isoformat()}." if until and until > now else ""


def _clean(catalog: VaultCatalog, clock: Clock, progress: ProgressSink, removal: _Removal) -> CleanResult:
    now = vault_time(catalog.place, clock)
    # Chunks first, then announcements, then copies: a copy that becomes visible in between is among one or the other,
    # and one that is announced later relies on nothing that was old and that no copy named when chunks were listed.
    chunks = catalog.chunks()
    announced, old_announcements = catalog.announced(now)
    marks = catalog.marks()
    copies, damaged = catalog.copies()
    doomed = {name for name, since in marks.items() if since is not None and now - since >= GRACE}
    unreadable = [copy for copy in damaged if copy.name not in doomed]
    if unreadable:
        raise RefusedError(
            f"{len(unreadable)} copies cannot be read, and what they need is not known: {unreadable[0].error.what}",
            where=f"{catalog.place.label}/{COPIES}{unreadable[0].name}",
            remedy="backup-pipeline vault check names them. Mark a copy for removal that is of no use any more.",
        )
    result = CleanResult(waiting={name: (marks[name] or now) + GRACE for name in sorted(set(marks) - doomed)})
    needed = announced | {chunk.name for copy in copies if copy.name not in doomed for chunk in copy.header.needed}
    there = {copy.name for copy in copies} | {copy.name for copy in damaged}
    for name in sorted(doomed):
        if name in there and not _removed(removal, COPIES + name, result):
            # Its lock outlives its mark: it stays whole until a later cleaning.
            needed |= {chunk.name for copy in copies if copy.name == name for chunk in copy.header.needed}
            continue
        if name in there:
            result.removed_copies.append(name)
        # A bucket that locks everything locks marks and proofs too; one without its copy does no harm.
        for proof in proof_names(catalog.place, name):
            removal.remove(PROOFS + proof)
        removal.remove(MARKS + name)
    _remove_chunks(removal, _old(chunks, needed, now), result, progress)
    for name in old_announcements:
        _removed(removal, name, result)
    return result


def _old(chunks: dict[str, StoredChunk], needed: Collection[str], now: datetime) -> dict[str, int]:
    return {
        name: chunk.size
        for name, chunk in chunks.items()
        if name not in needed and chunk.modified is not None and now - chunk.modified >= GRACE
    }


def _remove_chunks(removal: _Removal, old: dict[str, int], result: CleanResult, progress: ProgressSink) -> None:
    for number, (name, size) in enumerate(old.items(), 1):
        if _removed(removal, chunk_object(name), result):
            result.removed_chunks += 1
            result.removed_bytes += size
        limits.progressed()
        progress(Progress("clean", number, len(old), unit="chunks", finished=number == len(old)))


def _removed(removal: _Removal, name: str, result: CleanResult) -> bool:
    if why := removal.remove(name):
        result.locked.append(Locked(name, why))
    return not why


@contextlib.contextmanager
def _lease(place: ObjectPlace, clock: Clock, owner: str = "") -> Iterator[None]:
    """Be the only cleaner. Leases are numbered, and the highest number is never removed: only one can take the next.

    Raises:
        LockError: another holds it.
    """
    names = sorted(info.name for info in place.list(LEASES))
    last = names[-1] if names else ""
    now = vault_time(place, clock)
    holder = _holder(place, last) if last else None
    dead = holder is not None and owner != "" and holder["owner"] == owner
    if holder is not None and not dead and now < datetime.fromisoformat(holder["until"]):
        raise LockError(
            f"Another cleaner works here, since {holder['since']}.",
            where=place.label,
            remedy=f"Wait for it; after {holder['until']} it counts as dead.",
        )
    number = int(last.rpartition("-")[2]) + 1 if last else 1
    name = f"{LEASES}clean-{number:012d}"
    note = {
        "owner": owner,
        "since": now.isoformat(),
        "until": (now + _LEASE_LENGTH).isoformat(),
        "nonce": secrets.token_hex(8),
    }
    if not place.create(name, json.dumps(note).encode()):
        raise LockError("Another cleaner began in this moment.", where=place.label, remedy="Wait for it.")
    try:
        for old in names:
            with contextlib.suppress(ObjectLockedError):
                place.delete(old)
        yield
    finally:
        released = json.dumps(note | {"until": now.isoformat()}).encode()
        try:
            place.put(name, released)
        except ObjectLockedError:
            # A bucket's retention policy keeps what was written a moment ago: the next number says it.
            place.create(f"{LEASES}clean-{number + 1:012d}", released)


def _holder(place: ObjectPlace, name: str) -> dict[str, str] | None:
    try:
        document = json.loads(place.get(name))
        datetime.fromisoformat(document["until"])
        return {name: str(document.get(name, "")) for name in ("since", "owner", "until")}
    except (ObjectNotFoundError, ValueError, KeyError, TypeError):
        return None
