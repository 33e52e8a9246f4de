"""Copying a sealed set into a vault: cut, hashed, encrypted, sent by several threads; visible last, only whole."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime

from backup_pipeline import __version__
from backup_pipeline.errors import RefusedError, StoreError
from backup_pipeline.model.manifest import MANIFEST_NAME
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.model.set_id import SetId
from backup_pipeline.stores.contract import Store
from backup_pipeline.stores.objects.errors import ObjectLockedError
from backup_pipeline.stores.vault.catalog import (
    FRESH,
    PENDING_TRUSTED,
    Catalog,
    Clock,
    StoredChunk,
    utc_now,
    vault_time,
)
from backup_pipeline.stores.vault.copy_object import ChunkRef, CopiedFile, CopyContent, CopyHeader, encode_copy
from backup_pipeline.stores.vault.cutting import SetStream, cut, stream_names
from backup_pipeline.stores.vault.encryption import Sealer
from backup_pipeline.stores.vault.machine_keys import UploadNotes
from backup_pipeline.stores.vault.names import COPIES, another_name, chunk_id, chunk_object, copy_name, keyed
from backup_pipeline.stores.vault.signing import Signer
from backup_pipeline.stores.vault.throttle import Throttle
from backup_pipeline.system import limits

WORKERS = 3
_IN_FLIGHT = 4
"""Chunks per worker that are on the way: with the largest of 4 MiB, plain and sealed, some 100 MB at most."""
_ROUNDS = 3


@dataclass(frozen=True)
class CopyResult:
    """What a copy did.

    Attributes:
        copy: its name in the vault.
        already_there: the set had a copy; nothing was sent.
        size: bytes of the set.
        chunks: chunks of the set; `sent` of them were sent, `sent_bytes` as stored.
    """

    copy: str
    already_there: bool
    size: int
    chunks: int
    sent: int
    sent_bytes: int


@dataclass(frozen=True)
class WriterOptions:
    """How a copy is made: threads, a limit in bytes per second (0: none), days of lock, whose clock, who watches."""

    workers: int = WORKERS
    bytes_per_second: float = 0
    lock_until: datetime | None = None
    clock: Clock = utc_now
    progress: ProgressSink = no_progress


class VaultWriter:
    """Copies sets into a vault; holds nothing that could decrypt them.

    Args:
        catalog: the vault.
        sealer: encrypts to the vault's recipients.
        signer: signs as the site.
        id_key: the key of the ids.
        notes: what this machine uploaded for copies that are not complete yet.
        options: how.
    """

    def __init__(
        self, catalog: Catalog, sealer: Sealer, signer: Signer, id_key: bytes, notes: UploadNotes,
        options: WriterOptions | None = None,
    ) -> None:  # fmt: skip
        self._catalog = catalog
        self._sealer = sealer
        self._signer = signer
        self._id_key = id_key
        self._notes = notes
        self._options = options or WriterOptions()

    def copy(self, store: Store, plan: str, set_id: SetId, *, settings: str = "") -> CopyResult:
        """Copy a sealed set; one that is there already is left alone.

        Raises:
            RefusedError: the set is not sealed, or its copy is marked for removal or not ours.
            ValidationError: a file is not what the set's manifest says.
            StoreError: the vault cannot be written; what was sent is not sent again by the next try.
        """
        known = store.read(set_id)
        if known.manifest is None:
            raise RefusedError(
                f"The set is {known.state}; only sealed sets are copied.", where=f"{plan}/{set_id}",
                remedy="backup-pipeline list shows the sets.",
            )  # fmt: skip
        name = copy_name(self._id_key, plan, set_id)
        if name in self._catalog.marks():
            raise RefusedError(
                "The copy of this set is marked for removal.", where=f"{plan}/{set_id}",
                remedy="It can be copied again when `vault clean` has removed it, 72 hours after it was marked.",
            )  # fmt: skip
        if self._catalog.place.info(COPIES + name) is not None:
            return self._present(name, known.manifest.size)
        expected = {file.path: file.sha256 for record in known.manifest.artefacts for file in record.files}
        with store.open(set_id, MANIFEST_NAME) as file:
            manifest = file.read().decode()
        job = _CopyJob(self, store, set_id, expected, f"{plan}/{set_id}")
        files, refs, sizes = job.send_all()
        header = CopyHeader(
            vault=self._catalog.description.vault, copy_name=name, content_sha256="", chunks=tuple(refs),
            generation=self._catalog.description.generation, created_at=self._options.clock(),
        )  # fmt: skip
        content = CopyContent(
            plan=plan, set_id=set_id, manifest=manifest, files=tuple(files), plain_sizes=tuple(sizes),
            settings=settings, pipeline_version=__version__,
        )  # fmt: skip
        header, data = encode_copy(header, content, self._sealer, self._signer)
        job.require_recent_announcement()
        created = self._catalog.place.create(COPIES + name, data, lock_until=self._options.lock_until)
        job.withdraw()
        if not created:
            return self._present(name, content.size)
        self._notes.clear()
        return CopyResult(name, False, content.size, len(refs), job.sent, job.sent_bytes)

    def _present(self, name: str, size: int) -> CopyResult:
        found = self._catalog.copy(name)
        return CopyResult(name, True, size, len(found.header.chunks), 0, 0)

    def seal_and_id(self, data: bytes) -> str:
        """Return the id of plain bytes."""
        return keyed(self._id_key, data)


class _CopyJob:
    """One copy on its way."""

    def __init__(self, writer: VaultWriter, store: Store, set_id: SetId, expected: dict[str, str], where: str) -> None:
        self._writer = writer
        self._catalog = writer._catalog
        self._options = writer._options
        self._store = store
        self._set_id = set_id
        self._expected = expected
        self._where = where
        self._throttle = Throttle(self._options.bytes_per_second)
        self._lock = threading.Lock()
        self._known: dict[str, ChunkRef] = {}
        self._under_way: set[str] = set()
        self._named: set[str] = set()
        self._listed: Collection[str] = ()
        self._announced = ""
        self._announced_at: datetime | None = None
        self.sent = 0
        self.sent_bytes = 0

    def send_all(self) -> tuple[list[CopiedFile], list[ChunkRef], list[int]]:
        """Return the files, the stored chunks in order and their plain sizes, every chunk seen in the vault."""
        self._look()
        for _ in range(_ROUNDS):
            files, ids, sizes = self._pass()
            self._announce({self._known[one].name for one in ids})
            # What is there after the announcement stays, however long this takes: see docs/formats-vault.md.
            self._look()
            refs = [self._known.get(one) for one in ids]
            whole = [ref for ref in refs if ref is not None]
            if len(whole) == len(ids) and {ref.name for ref in whole} <= self._named:
                return files, whole, sizes
        raise StoreError(
            "Chunks that were sent are not there, time and again.", where=self._catalog.place.label,
            remedy="Who removes objects there? backup-pipeline vault check says what is missing.",
        )  # fmt: skip

    def _announce(self, names: set[str]) -> None:
        self.withdraw()
        self._announced_at, self._named = self._time(), names
        self._announced = self._catalog.announce(names)

    def withdraw(self) -> None:
        """Remove the announcement: the copy is visible, or another one is announced."""
        if self._announced:
            with contextlib.suppress(ObjectLockedError):
                self._catalog.place.delete(self._announced)
            self._announced = ""

    def require_recent_announcement(self) -> None:
        """Refuse to make a copy visible when its announcement may not count any more, and its chunks have gone."""
        if self._announced_at is None or self._time() - self._announced_at > PENDING_TRUSTED:
            raise StoreError(
                f"More than {PENDING_TRUSTED.days} days lie between the copy's announcement and its end.",
                where=self._where, remedy="Run it again; it goes on where it stopped.",
            )  # fmt: skip

    def _time(self) -> datetime:
        return vault_time(self._catalog.place, self._options.clock)

    def _look(self) -> None:
        """Find out which chunks can be relied on: listed with the right size now, and named by a copy or fresh."""
        now = self._time()
        generation = self._catalog.description.generation
        listed = self._catalog.chunks()
        known: dict[str, ChunkRef] = {}
        for header in self._catalog.usable_headers():
            if header.generation == generation:
                for chunk in header.chunks:
                    if _is_there(listed.get(chunk.name), chunk):
                        known[chunk_id(chunk.name)] = chunk
        for chunk in self._writer._notes.read(generation):
            found = listed.get(chunk.name)
            if _is_there(found, chunk) and found and found.modified and abs(now - found.modified) < FRESH:
                known.setdefault(chunk_id(chunk.name), chunk)
        self._known, self._listed = known, listed.keys()

    def _pass(self) -> tuple[list[CopiedFile], list[str], list[int]]:
        """Read the set once, sending what cannot be relied on."""
        names, total = stream_names(self._store, self._set_id)
        show = self._options.progress
        label = f"copy {self._where}"
        stream = SetStream(
            names, lambda path: self._store.open(self._set_id, path), self._expected,
            lambda done: show(Progress(label, done, total)), where=self._where,
        )  # fmt: skip
        description = self._catalog.description
        ids: list[Future[str]] = []
        sizes = []
        running: set[Future[str]] = set()
        try:
            with ThreadPoolExecutor(self._options.workers, "vault-copy") as pool:
                for data in cut(stream, description.cutting, self._writer._id_key):
                    sizes.append(len(data))
                    future = pool.submit(self._send, data)
                    ids.append(future)
                    running.add(future)
                    if len(running) >= self._options.workers * _IN_FLIGHT:
                        running = _some_done(running)
                while running:
                    running = _some_done(running)
        finally:
            stream.close()
            show(Progress(label, total, total, finished=True))
        return stream.files, [future.result() for future in ids], sizes

    def _send(self, data: bytes) -> str:
        """Make sure that one chunk is in the vault; returns its id."""
        name = self._writer.seal_and_id(data)
        with self._lock:
            if name in self._known or name in self._under_way:
                return name
            self._under_way.add(name)
        sealed = self._writer._sealer.seal(data)
        digest = hashlib.sha256(sealed).hexdigest()
        self._throttle.wait(len(sealed))
        # What has the plain name already cannot be relied on, and no object is written over: see docs/formats-vault.md.
        stored = another_name(name) if name in self._listed else name
        while not self._catalog.place.create(chunk_object(stored), sealed, lock_until=self._options.lock_until):
            stored = another_name(name)
        limits.progressed()
        chunk = ChunkRef(stored, len(sealed), digest)
        with self._lock:
            self._writer._notes.add(chunk, self._catalog.description.generation)
            self._known[name] = chunk
            self._under_way.discard(name)
            self.sent += 1
            self.sent_bytes += len(sealed)
        return name


def _is_there(found: StoredChunk | None, chunk: ChunkRef) -> bool:
    return found is not None and found.size == chunk.size


def _some_done(running: set[Future[str]]) -> set[Future[str]]:
    """Wait for one of them; returns the others. Raises what one has raised."""
    done, rest = wait(running, timeout=600, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return rest
