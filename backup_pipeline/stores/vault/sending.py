"""Sending the chunks of a copy: reliable ones are not sent again, announced ones stay (docs/formats-vault.md)."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from backup_pipeline.errors import StoreError
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.stores.objects.contract import DataView
from backup_pipeline.stores.objects.errors import ObjectLockedError, ObjectNotFoundError, PlaceRefusedError
from backup_pipeline.stores.vault.catalog import (
    FRESH,
    PENDING_TRUSTED,
    Clock,
    StoredChunk,
    VaultCatalog,
    utc_now,
    vault_time,
)
from backup_pipeline.stores.vault.encryption import Sealer
from backup_pipeline.stores.vault.names import (
    DESCRIPTION,
    RECOVERY_PROGRAM,
    RECOVERY_TEXT,
    another_name,
    chunk_id,
    chunk_object,
    keyed,
)
from backup_pipeline.stores.vault.signing import Signer
from backup_pipeline.stores.vault.stored_chunk import ChunkRef
from backup_pipeline.stores.vault.throttle import Throttle
from backup_pipeline.stores.vault.upload_notes import UploadNotes
from backup_pipeline.system import limits
from backup_pipeline.system.threads import ContextThreadPool

WORKERS = 8
"""Most of a chunk's time is waiting for a disk or a network."""
_WAITING = 4
"""Chunks on the way beyond one per worker: with the largest of 4 MiB, plain and sealed, some 100 MB at most."""
LISTS_APART_FROM = 64 << 10
"""Below this the lists of a copy (some 300 files) stand in its object: one request less to read it."""
_ROUNDS = 3
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class WriterOptions:
    """How a copy is made.

    Attributes:
        workers: threads.
        bytes_per_second: a limit; 0 for none.
        lock_until: end of the lock.
        lists_apart_from: from how many bytes on the lists of a copy are chunks of their own.
        clock: whose time counts.
        progress: who watches.
    """

    workers: int = WORKERS
    bytes_per_second: float = 0
    lock_until: datetime | None = None
    lists_apart_from: int = LISTS_APART_FROM
    clock: Clock = utc_now
    progress: ProgressSink = no_progress


@dataclass(frozen=True)
class WriterKeys:
    """What a machine that writes holds; nothing of it decrypts.

    Args:
        sealer: encrypts to the vault's recipients.
        signer: signs as the site.
        id_key: the key of the ids.
        notes: what this machine uploaded for copies that are not complete yet.
        bad_chunks: names of chunks that a check found bad; no copy relies on them.
    """

    sealer: Sealer
    signer: Signer
    id_key: bytes
    notes: UploadNotes
    bad_chunks: frozenset[str] = frozenset()


class SentChunk(NamedTuple):
    """A chunk that was sent before, and is not at hand any more: its id, and how many plain bytes it holds."""

    id: str
    size: int


Pieces = Iterable[DataView | SentChunk]
"""The plain chunks of a copy in order; of some only the id."""


class ChunkSender:
    """The chunks of one copy on their way.

    Args:
        catalog: the vault.
        keys: what encrypts and names.
        options: how.
        read: gives the chunks of the copy in order; called again when chunks have to be sent again.
        where: plan and set, for errors.
        read_back: whether each chunk counts as sent only when its stored bytes were read again and are what was sent.
    """

    def __init__(
        self,
        catalog: VaultCatalog,
        keys: WriterKeys,
        options: WriterOptions,
        read: Callable[[], Pieces],
        where: str,
        *,
        read_back: bool = False,
    ) -> None:
        self._catalog = catalog
        self._keys = keys
        self._options = options
        self._read = read
        self._where = where
        self._read_back = read_back
        self._throttle = Throttle(options.bytes_per_second)
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._checked_once = False
        self._known: dict[str, ChunkRef] = {}
        self._sent: dict[str, ChunkRef] = {}
        self._lock_ends: dict[str, datetime] = {}
        self._bucket = catalog.place.bucket_lock() if options.lock_until else None
        self._under_way: set[str] = set()
        self._named: set[str] = set()
        self._listed: Mapping[str, StoredChunk] = {}
        self._announced = ""
        self._announced_at: datetime | None = None
        self.sent = 0
        self.sent_bytes = 0

    def send_all(self) -> tuple[list[ChunkRef], list[int]]:
        """Return the stored chunks in order and their plain sizes, every chunk found in the vault."""
        self._check_present(self._time())
        for _ in range(_ROUNDS):
            ids, sizes = self._pass(self._read())
            announced_at = self._announce({self._known[one].name for one in ids})
            # What is there after the announcement stays, however long this takes: see docs/formats-vault.md.
            self._check_present(announced_at)
            refs = [self._known.get(one) for one in ids]
            whole = [ref for ref in refs if ref is not None]
            if len(whole) == len(ids) and {ref.name for ref in whole} <= self._named:
                return whole, sizes
        raise StoreError(
            "Chunks that were sent are not there, time and again.",
            where=self._catalog.place.label,
            remedy="Who removes objects there? backup-pipeline vault check says what is missing.",
        )

    def send(self, pieces: Iterable[DataView]) -> list[SentChunk]:
        """Send chunks of a copy that is not whole yet; several threads may call this at once."""
        with self._looking:
            if not self._checked_once:
                self._check_present(self._time())
                self._checked_once = True
        return [SentChunk(*one) for one in zip(*self._pass(pieces), strict=True)]

    def is_known(self, data: DataView) -> bool:
        """Return whether the vault had a chunk of these bytes when it was listed last."""
        return bool(self._listed) and keyed(self._keys.id_key, data) in self._listed

    def _announce(self, names: set[str]) -> datetime:
        self.withdraw()
        self._announced_at, self._named = self._time(), names
        self._announced = self._catalog.announce(names)
        return self._announced_at

    def withdraw(self) -> None:
        """Remove the announcement: the copy is visible, or another one is announced."""
        if self._announced:
            with contextlib.suppress(ObjectLockedError):
                self._catalog.place.delete(self._announced)
            self._announced = ""

    def lock_what_opens_it(self) -> None:
        """Lock what a copy cannot be read without, beside its chunks: the vault's description, the way back."""
        until = self.locked_until
        if until is None or self._bucket is None or not self._bucket.extendable:
            return
        for name in (DESCRIPTION, RECOVERY_TEXT, RECOVERY_PROGRAM):
            # What may not be locked longer, or is gone, is what `vault check` finds.
            with contextlib.suppress(PlaceRefusedError, ObjectNotFoundError):
                self._catalog.place.extend_lock(name, until)

    def require_recent_announcement(self) -> None:
        """Refuse to make a copy visible when its announcement may not count any more, and its chunks have gone."""
        if self._announced_at is None or self._time() - self._announced_at > PENDING_TRUSTED:
            raise StoreError(
                f"More than {PENDING_TRUSTED.days} days lie between the copy's announcement and its end.",
                where=self._where,
                remedy="Run it again; it goes on where it stopped.",
            )

    @property
    def locked_until(self) -> datetime | None:
        """Until when every chunk is locked; None where the place locks none."""
        return self._options.lock_until if self._bucket is not None and self._bucket.enabled else None

    def _time(self) -> datetime:
        return vault_time(self._catalog.place, self._options.clock)

    def _check_present(self, now: datetime) -> None:
        """Find out which chunks can be relied on: listed with the right size now, and named by a copy or fresh."""
        generation = self._catalog.description.generation
        listed = self._catalog.chunks()
        known: dict[str, ChunkRef] = {}
        announced: dict[str, ChunkRef] = {}
        for header in self._catalog.usable_headers():
            if header.generation == generation:
                for chunk in header.needed:
                    if self._is_good(listed, chunk):
                        known[chunk_id(chunk.name)] = chunk
                        self._note_lock(chunk, header.locked_until)
                        if chunk.name in self._named:
                            announced[chunk_id(chunk.name)] = chunk
        # What this copy has sent is not asked of the notes: another copy that is complete has cleared them.
        for chunk in (*self._keys.notes.read(generation), *self._sent.values()):
            found = listed.get(chunk.name)
            if self._is_good(listed, chunk) and found and found.modified and abs(now - found.modified) < FRESH:
                known.setdefault(chunk_id(chunk.name), chunk)
                if chunk.name in self._named:
                    announced[chunk_id(chunk.name)] = chunk
        # What was announced stays, whatever another copy that became visible meanwhile has in its place.
        known |= announced
        for name, chunk in self._sent.items():
            # Rather this one: what it stands for may be under a lock that ends too early.
            if name in known and self._is_good(listed, chunk):
                known[name] = chunk
        self._known, self._listed = known, listed

    def _is_good(self, listed: Mapping[str, StoredChunk], chunk: ChunkRef) -> bool:
        return is_listed(listed, chunk) and chunk.name not in self._keys.bad_chunks

    def _note_lock(self, chunk: ChunkRef, until: datetime | None) -> None:
        if until is not None and until > self._lock_ends.get(chunk.name, until - timedelta(1)):
            self._lock_ends[chunk.name] = until

    def _stays_locked(self, chunk: ChunkRef) -> bool:
        """Make sure that a chunk which is there is locked as long as the copy; False when it has to be sent again."""
        until = self.locked_until
        if until is None or self._lock_ends.get(chunk.name, _NEVER) >= until:
            return True
        place, found = self._catalog.place, self._listed.get(chunk.name)
        assert self._bucket is not None
        if self._bucket.extendable:
            try:
                place.extend_lock(chunk_object(chunk.name), until)
            except (PlaceRefusedError, ObjectNotFoundError):
                return False
        else:
            days = self._bucket.default_days or 0
            if found is None or found.modified is None or found.modified + timedelta(days=days) < until:
                return False
        self._lock_ends[chunk.name] = until
        return True

    def _pass(self, pieces: Pieces) -> tuple[list[str], list[int]]:
        """Read the copy's bytes once, sending what cannot be relied on."""
        ids: list[Future[str]] = []
        sizes = []
        ended = threading.Event()
        room = threading.Semaphore(self._options.workers + _WAITING)

        def send(data: DataView) -> str:
            try:
                # What has failed is raised; a place that does not answer is not waited for once more.
                return "" if ended.is_set() else self._send(data)
            except BaseException:
                ended.set()
                raise
            finally:
                room.release()

        with ContextThreadPool(self._options.workers, "vault-copy") as pool:
            try:
                for data in pieces:
                    if isinstance(data, SentChunk):
                        sizes.append(data.size)
                        ids.append(self._sent_before(data.id))
                        continue
                    room.acquire()
                    if ended.is_set():
                        break
                    sizes.append(len(data))
                    ids.append(pool.submit(send, data))
                found = [future.result() for future in ids]
            finally:
                ended.set()
        return found, sizes

    def _sent_before(self, name: str) -> Future[str]:
        known = self._known.get(name)
        remedy = "Make a new backup; what is in the vault still is not sent again."
        if known is None:
            hours = FRESH.total_seconds() / 3600
            raise StoreError(
                f"A chunk that was sent is not in the vault any more, or was sent more than {hours:.0f} hours ago: "
                "cleaning may take it.",
                where=self._where,
                remedy=remedy,
            )
        if not self._stays_locked(known):
            raise StoreError(
                "A chunk that was sent is locked for less time than the set, and its lock cannot be made longer.",
                where=self._where,
                remedy=remedy,
            )
        done: Future[str] = Future()
        done.set_result(name)
        return done

    def _send(self, data: DataView) -> str:
        """Make sure that one chunk is in the vault; returns its id."""
        name = keyed(self._keys.id_key, data)
        with self._lock:
            known = self._known.get(name)
            if name in self._under_way:
                return name
            self._under_way.add(name)
        if known is not None and self._stays_locked(known):
            with self._lock:
                self._under_way.discard(name)
            return name
        with self._keys.sealer.sealed(data) as sealed:
            digest = hashlib.sha256(sealed).hexdigest()
            self._throttle.wait(len(sealed))
            chunk = ChunkRef(self._store(name, sealed, digest), len(sealed), digest)
        limits.progressed()
        with self._lock:
            self._keys.notes.add(chunk, self._catalog.description.generation)
            self._known[name] = self._sent[name] = chunk
            if self._options.lock_until:
                self._lock_ends[chunk.name] = self._options.lock_until
            self._under_way.discard(name)
            self.sent += 1
            self.sent_bytes += chunk.size
        return name

    def _store(self, name: str, sealed: DataView, digest: str) -> str:
        """Store a chunk under a name that nothing has yet; returns the name."""
        # What has the plain name already cannot be relied on, and no object is written over: see docs/formats-vault.md.
        stored = another_name(name) if name in self._listed else name
        for _ in range(_ROUNDS):
            while not self._catalog.place.create(chunk_object(stored), sealed, lock_until=self._options.lock_until):
                stored = another_name(name)
            if not self._read_back or self._reads_as(stored, digest):
                return stored
            stored = another_name(name)
        raise StoreError(
            f"A chunk that was sent is not what is read back, {_ROUNDS} times.",
            where=f"{self._catalog.place.label}/{chunk_object(stored)}",
            remedy="Check the storage and the network before it; then run the backup again.",
        )

    def _reads_as(self, stored: str, digest: str) -> bool:
        try:
            return hashlib.sha256(self._catalog.place.get(chunk_object(stored))).hexdigest() == digest
        except ObjectNotFoundError:
            return False


def is_listed(listed: Mapping[str, StoredChunk], chunk: ChunkRef) -> bool:
    """Return whether the place lists a chunk with the size that its copy says."""
    found = listed.get(chunk.name)
    return found is not None and found.size == chunk.size
