"""Files of a copy, opened one by one: seekable, reading only the chunks that they need."""

from __future__ import annotations

import contextlib
import io
import shutil
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, cast

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.stores.objects.contract import Data
from backup_pipeline.stores.objects.errors import PlaceFullError, PlaceRefusedError, PlaceUnreachableError
from backup_pipeline.stores.vault.reading import WORKERS, CopyReader
from backup_pipeline.system.threads import ContextThreadPool

_IN_MEMORY = 24
"""Chunks that are held decrypted: some 24 MiB as chunks are cut, 96 MiB at most."""
_AHEAD = 4
_LEFT_FREE = 1 << 30
PLACE_TROUBLE = (PlaceRefusedError, PlaceFullError, PlaceUnreachableError)
"""What may go wrong with a vault's place while a copy in it is whole."""
_BUFFER = 256 << 10


class ChunkCache:
    """Decrypted chunks of one copy, each brought down once where there is room to keep it.

    Args:
        reader: the copy.
        folder: private scratch space in which chunks are kept while this lives; None keeps the latest few in memory.
        keep_bytes: at most so many bytes are kept in the folder, and none while less than 1 GiB is free there.
        on_trouble: called with an error of the vault's place, which says nothing against the copy.
    """

    def __init__(
        self,
        reader: CopyReader,
        folder: Path | None = None,
        keep_bytes: int | None = None,
        on_trouble: Callable[[BackupSystemError], None] = lambda _: None,
    ) -> None:
        self._on_trouble = on_trouble
        self._reader = reader
        self._folder = folder
        self._room = keep_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[int, Future[Data]] = OrderedDict()
        self._pool: ContextThreadPool | None = None

    def get(self, index: int, ahead: Iterable[int] = ()) -> Data:
        """Return a chunk's plain bytes; those of `ahead` are brought down meanwhile.

        Raises:
            ValidationError: it is missing or changed; it is named.
        """
        wanted = self._future(index)
        for other in ahead:
            self._future(other)
        try:
            return wanted.result()
        except BaseException:
            with self._lock:
                self._held.pop(index, None)
            raise

    def _future(self, index: int) -> Future[Data]:
        with self._lock:
            if (known := self._held.get(index)) is not None:
                self._held.move_to_end(index)
                return known
            if self._pool is None:
                self._pool = ContextThreadPool(WORKERS, "vault-file")
            made = self._pool.submit(self._load, index)
            self._held[index] = made
            while len(self._held) > _IN_MEMORY:
                self._held.popitem(last=False)
            return made

    def _load(self, index: int) -> Data:
        place = self._folder / f"chunk-{index}" if self._folder else None
        if place is not None:
            with contextlib.suppress(FileNotFoundError):
                return place.read_bytes()
        try:
            data = self._reader.chunk(index)
        except PLACE_TROUBLE as error:
            self._on_trouble(error)
            raise
        if place is not None and self._may_keep(len(data)):
            part = place.with_suffix(".part")
            try:
                part.write_bytes(data)
                part.rename(place)
            except OSError:  # no room: it is brought down again when it is needed again
                part.unlink(missing_ok=True)
        return data

    def _may_keep(self, size: int) -> bool:
        assert self._folder is not None
        with self._lock:
            if self._room is not None:
                if self._room < size:
                    return False
                self._room -= size
        return shutil.disk_usage(self._folder).free - size > _LEFT_FREE

    def close(self) -> None:
        """Stop what is being brought down; files that are open can be read no longer."""
        with self._lock:
            pool, self._pool = self._pool, None
            self._held.clear()
        if pool is not None:
            pool.shutdown(cancel_futures=True)


class CopyFiles:
    """Opens the files of a copy.

    Args:
        reader: the copy.
        cache: its chunks.
    """

    def __init__(self, reader: CopyReader, cache: ChunkCache) -> None:
        content = reader.content
        self._cache = cache
        self._chunks = (0, *accumulate(content.plain_sizes))
        starts = (0, *accumulate(file.size for file in content.files))
        self._places = {file.path: (start, file.size) for start, file in zip(starts, content.files, strict=False)}

    def __contains__(self, path: str) -> bool:
        return path in self._places

    def open(self, path: str) -> BinaryIO:
        """Open one of them; KeyError where there is none of that path."""
        start, size = self._places[path]
        raw = _CopyFile(self._cache, self._chunks, start, size)
        return cast(BinaryIO, io.BufferedReader(raw, _BUFFER))


class _CopyFile(io.RawIOBase):
    """A range of the stream of chunks."""

    def __init__(self, cache: ChunkCache, chunks: tuple[int, ...], start: int, size: int) -> None:
        self._cache = cache
        self._chunks = chunks
        self._start = start
        self._size = size
        self._position = 0
        self._last = -2

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("a position before the file's beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        at = self._start + self._position
        index = bisect_right(self._chunks, at) - 1
        data = self._cache.get(index, self._ahead(index))
        offset = at - self._chunks[index]
        piece = data[offset : offset + wanted]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _ahead(self, index: int) -> range:
        """Return the chunks to bring down too: those that follow, once one has followed another."""
        follows, self._last = index in (self._last, self._last + 1) and self._last >= 0, index
        last = bisect_right(self._chunks, self._start + self._size - 1) - 1
        return range(index + 1, min(index + _AHEAD, last) + 1) if follows else range(0)
