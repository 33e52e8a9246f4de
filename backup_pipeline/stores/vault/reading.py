"""Reading copies: chunks decrypted and checked in order, single files, whole sets."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path

from backup_pipeline.errors import RefusedError, StoreError, ValidationError
from backup_pipeline.model.manifest import MANIFEST_NAME
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.stores.objects.contract import Data, ObjectPlace
from backup_pipeline.stores.vault.copy_content import CopyContent
from backup_pipeline.stores.vault.copy_object import StoredCopy
from backup_pipeline.stores.vault.encryption import Opener
from backup_pipeline.stores.vault.stored_chunk import read_plain_chunk
from backup_pipeline.system import limits
from backup_pipeline.system.file_system import sync_file_system
from backup_pipeline.system.files import (
    PART_SUFFIX,
    give_mode,
    make_folders,
    sync_folder,
    translate_os_error,
    write_atomically,
    write_whole,
)
from backup_pipeline.system.threads import ContextThreadPool

WORKERS = 6
_AHEAD = 2
_SYNCED_EARLY = 32 << 20
_SYNCED_ONE_BY_ONE = 64
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
_ALONE = contextlib.nullcontext()
_REMEDY = "Use another copy, and copy the set again where it still is."


class CopyReader:
    """Reads what a copy holds.

    Args:
        place: the vault's place.
        copy: the copy.
        content: its decrypted account.
        opener: decrypts.
        id_key: checks that a chunk is the one that its id stands for.
    """

    def __init__(
        self,
        place: ObjectPlace,
        copy: StoredCopy,
        content: CopyContent,
        opener: Opener,
        id_key: bytes,
        *,
        workers: int = WORKERS,
    ) -> None:
        self._place = place
        self.copy = copy
        self.content = content
        self._opener = opener
        self._id_key = id_key
        self._workers = workers

    def chunk(self, index: int) -> Data:
        """Return the plain bytes of one chunk.

        Raises:
            ValidationError: it is missing, changed, or another chunk than its id says.
        """
        ref = self.copy.header.chunks[index]
        data = read_plain_chunk(self._place, ref, self._opener, self._id_key, self.content.plain_sizes[index])
        limits.progressed()
        return data

    def chunks(self, first: int = 0, end: int | None = None) -> Iterator[Data]:
        """Yield the plain chunks in order, some of them read ahead by threads."""
        end = len(self.copy.header.chunks) if end is None else end
        waiting: deque[Future[Data]] = deque()
        with ContextThreadPool(self._workers, "vault-read") as pool:
            try:
                for index in range(first, end):
                    waiting.append(pool.submit(self.chunk, index))
                    if len(waiting) >= self._workers * _AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def list_chunks(self) -> Iterator[Data]:
        """Yield the plain chunks of the copy's lists in order; none where they stand in its object."""
        for ref in self.copy.header.list_chunks:
            yield read_plain_chunk(self._place, ref, self._opener, self._id_key)

    def files(self, on_bytes: Callable[[int], None] = lambda _: None) -> Iterator[tuple[str, Iterator[memoryview]]]:
        """Yield each file's path and its bytes in pieces; each must be read to its end before the next.

        Raises:
            ValidationError: a file is not what the account says.
        """
        source = _Pieces(self.chunks())
        done = 0
        for file in self.content.files:
            digest = hashlib.sha256()

            def pieces(size: int = file.size, digest: hashlib._Hash = digest) -> Iterator[memoryview]:
                for piece in source.take(size):
                    digest.update(piece)
                    yield piece

            yield file.path, pieces()
            if digest.hexdigest() != file.sha256:
                raise ValidationError("The file is not what was copied.", where=file.path, remedy=_REMEDY)
            done += file.size
            on_bytes(done)

    def verify(self, progress: ProgressSink = no_progress) -> int:
        """Read and decrypt everything and compare it; returns the bytes read."""
        label, total = f"check {self.copy.name}", self.content.size
        done = 0
        for _, pieces in self.files():
            for piece in pieces:
                done += len(piece)
                progress(Progress(label, done, total))
        progress(Progress(label, done, total, finished=True))
        return done

    def fetch(
        self,
        parent: Path,
        progress: ProgressSink = no_progress,
        *,
        modes: tuple[int, int] = (0o600, 0o700),
        publishing: AbstractContextManager[object] = _ALONE,
    ) -> Path:
        """Bring the set into `parent` (a store's folder), equal to the byte; it appears whole, under its own name.

        Args:
            parent: the folder of the plan's sets.
            progress: who watches.
            modes: of files and of folders.
            publishing: held while the whole set gets its name: the store's lock.

        Raises:
            RefusedError: a set of that name is there.
            ValidationError: the copy is damaged; nothing appears.
            StoreError: the set cannot be written, as on a full disk; nothing appears.
        """
        target = parent / self.content.set_id
        if target.exists():
            raise RefusedError("A set of this name is there already.", where=str(target), remedy="Fetch it elsewhere.")
        part = parent / f".{self.content.set_id}{PART_SUFFIX}"
        shutil.rmtree(part, ignore_errors=True)
        make_folders(part, modes[1])
        label, total = f"fetch {self.content.plan}/{self.content.set_id}", self.content.size
        try:
            self._write_files(part, modes, lambda done: progress(Progress(label, done, total)))
            _make_durable(part, [file.path for file in self.content.files])
            # The manifest is the seal: last.
            write_atomically(part / MANIFEST_NAME, self.content.manifest.encode(), mode=modes[0])
            with publishing:
                try:
                    part.rename(target)
                except OSError as error:
                    raise RefusedError(
                        "A set of this name appeared meanwhile.", where=str(target), remedy="Fetch it elsewhere."
                    ) from error
                sync_folder(parent)
        except BaseException as error:
            shutil.rmtree(part, ignore_errors=True)
            if isinstance(error, OSError):
                raise translate_os_error(error, parent) from error
            raise
        progress(Progress(label, total, total, finished=True))
        return target

    def _write_files(self, part: Path, modes: tuple[int, int], on_bytes: Callable[[int], None]) -> None:
        done = 0
        made: set[str] = set()
        with ContextThreadPool(1, "vault-sync") as pool:
            for path, pieces in self.files():
                folder = path.rpartition("/")[0]
                if folder not in made:
                    make_folders(part / folder, modes[1])
                    made.add(folder)
                # Without Python's files and paths: there may be very many, and each is written once.
                descriptor = os.open(f"{part}/{path}", _NEW_FILE, modes[0])
                try:
                    if stat.S_IMODE(os.fstat(descriptor).st_mode) != modes[0]:  # the umask has narrowed it
                        give_mode(part / path, modes[0])
                    early = _EarlySync(pool, descriptor)
                    for piece in pieces:
                        write_whole(descriptor, piece)
                        early.add(len(piece))
                        done += len(piece)
                        on_bytes(done)
                    early.wait()
                finally:
                    os.close(descriptor)

    def read_file(self, path: str) -> bytes:
        """Return one file of the set, reading only the chunks that hold it.

        Raises:
            StoreError: the set has no such file.
        """
        if path == MANIFEST_NAME:
            return self.content.manifest.encode()
        start = 0
        for file in self.content.files:
            if file.path == path:
                return self._range(start, file.size)
            start += file.size
        raise StoreError("The set has no such file.", where=path, remedy="backup-pipeline show lists its files.")

    def _range(self, start: int, size: int) -> bytes:
        offset, first, end = 0, None, 0
        skipped = 0
        for index, length in enumerate(self.content.plain_sizes):
            if offset + length > start and offset < start + size:
                if first is None:
                    first, skipped = index, start - offset
                end = index + 1
            offset += length
        if first is None:
            return b""
        return b"".join(self.chunks(first, end))[skipped : skipped + size]


def _make_durable(folder: Path, paths: Sequence[str]) -> None:
    """Sync files below a folder: a few one by one, many together, which would take most of the time otherwise."""
    if len(paths) > _SYNCED_ONE_BY_ONE:
        with _opened(folder) as descriptor:
            if not sync_file_system(descriptor):
                os.sync()
        return
    files = [folder / path for path in paths]
    for file in files:
        with _opened(file) as descriptor:
            os.fsync(descriptor)
    for parent in {above for file in files for above in file.parents if above.is_relative_to(folder)} | {folder}:
        sync_folder(parent)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class _EarlySync:
    """Lets a large file go to the disk while the rest of it is still on its way."""

    def __init__(self, pool: ContextThreadPool, descriptor: int) -> None:
        self._pool = pool
        self._descriptor = descriptor
        self._written = 0
        self._running: Future[None] | None = None

    def add(self, size: int) -> None:
        """Take note of bytes written; raises OSError as the disk does."""
        self._written += size
        if self._written >= _SYNCED_EARLY:
            self.wait()
            self._written = 0
            self._running = self._pool.submit(os.fsync, self._descriptor)

    def wait(self) -> None:
        """Wait for what runs, so that the file may be closed."""
        if self._running is not None:
            self._running.result()


class _Pieces:
    """Chunks cut anew at the borders of files."""

    def __init__(self, chunks: Iterator[Data]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def take(self, size: int) -> Iterator[memoryview]:
        while size:
            if not self._rest:
                self._rest = memoryview(next(self._chunks))
            piece, self._rest = self._rest[:size], self._rest[size:]
            size -= len(piece)
            yield piece
