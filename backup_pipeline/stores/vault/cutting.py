"""A set's files as one stream in path order, cut by content (FastCDC), so that many small files share chunks.

A large file shares no chunk with its neighbours, and is cut finer near its two ends: a dump differs there each time
(the key of `\\restrict`, the time in an archive's head), and as little as possible of the rest is to differ with it.
Records differ in every set, and share no chunk with other files either.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import BinaryIO, NamedTuple, Protocol

from pyfastcdc import FastCDC

from backup_pipeline.errors import ValidationError
from backup_pipeline.model.manifest import MANIFEST_NAME, RECORDS_FOLDER
from backup_pipeline.model.proof import PROOFS_FOLDER
from backup_pipeline.model.set_id import SetId
from backup_pipeline.stores.contract import Store
from backup_pipeline.stores.vault.copy_content import CopiedFile
from backup_pipeline.stores.vault.description import Cutting
from backup_pipeline.system import limits
from backup_pipeline.system.files import read_beginning
from backup_pipeline.system.threads import ContextThreadPool

_LARGE = 16
"""From so many average chunks on a file is large."""
_FINER = 8
_FINEST = 64
_OF_RECORDS = 4
_AT_ENDS = 6
"""By how much finer many small files are cut where they end."""
_LISTS_FINER = 2
_SMALL = 1 << 20
"""Bytes of a file that is read at once."""
_BLOCK = 4
"""Largest chunks that a block of memory has room for: what is not cut yet at its end is moved to the next one."""
_BLOCKS = 3
"""Blocks of memory that are read into before hashing is waited for; more where chunks are sent more slowly."""


class SetStream:
    """Reads the files of a sealed set one after the other, hashing each and comparing it with the manifest.

    Args:
        listed: paths in the order of the stream, with the sizes that they should have.
        open_file: opens one of them.
        expected: SHA-256 in hex by path, for the files that the manifest lists.
        on_bytes: called with the number of bytes read so far.
        where: the set, for errors.
        folder: where the files are on this machine; "" where they are only opened.
    """

    def __init__(
        self,
        listed: Mapping[str, int],
        open_file: Callable[[str], BinaryIO],
        expected: Mapping[str, str],
        on_bytes: Callable[[int], None],
        *,
        where: str,
        folder: str = "",
    ) -> None:
        self.listed = listed
        self._folder = folder
        self._names = iter(listed)
        self._open = open_file
        self._expected = expected
        self._on_bytes = on_bytes
        self._where = where
        self._file: BinaryIO | None = None
        self._name = ""
        self._size = 0
        self._digest = hashlib.sha256()
        self._pool: ContextThreadPool | None = None
        self.hashing: Future[None] | None = None
        self._read = 0
        self.files: list[CopiedFile] = []

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` as far as the stream goes; 0 only at its end.

        A large file is hashed by a thread of its own meanwhile, which is done with the buffer when `hashing`, as this
        call has left it, is done.

        Raises:
            ValidationError: a file is not what the manifest says.
        """
        filled = 0
        while filled < len(buffer):
            if self._file is None:
                name = next(self._names, None)
                if name is None:
                    break
                if (size := self._read_whole(name, buffer[filled:])) >= 0:
                    filled += size
                    continue
                self._begin(name)
            count = self._file.readinto(buffer[filled:])  # type: ignore[union-attr]
            if not count:
                self._finish()
                continue
            self._hash(buffer[filled : filled + count])
            self._size += count
            filled += count
        if filled:
            self._read += filled
            limits.progressed()
            self._on_bytes(self._read)
        return filled

    def _read_whole(self, name: str, room: memoryview) -> int:
        """Read a small file at once; -1 where it has to be opened: it is large, not there, not of the listed size."""
        size = self.listed[name]
        if not self._folder or size > _SMALL or size >= len(room):
            return -1
        try:
            if read_beginning(f"{self._folder}/{name}", room[: size + 1]) != size:
                return -1
        except OSError:
            return -1  # Opening it says what is wrong.
        self._add(name, size, hashlib.sha256(room[:size]).hexdigest())
        return size

    def _hash(self, data: memoryview) -> None:
        if len(data) < _SMALL:
            _wait_for(self.hashing)  # The digest takes its pieces in their order.
            self._digest.update(data)
            return
        self._pool = self._pool or ContextThreadPool(1, "vault-hash")
        self.hashing = self._pool.submit(self._digest.update, data)

    def _begin(self, name: str) -> None:
        self._name, self._size, self._digest = name, 0, hashlib.sha256()
        self._file = self._open(name)

    def _finish(self) -> None:
        self._close_file()
        _wait_for(self.hashing)
        self._add(self._name, self._size, self._digest.hexdigest())

    def _add(self, name: str, size: int, found: str) -> None:
        if self._expected.get(name, found) != found:
            raise ValidationError(
                "The file is not what the manifest says; such a set is not copied.",
                where=f"{self._where}: {name}",
                remedy="backup-pipeline verify names what is damaged; copy another set.",
            )
        self.files.append(CopiedFile(path=name, size=size, sha256=found))

    def close(self) -> None:
        """Close the file that is being read, and end the thread that hashes."""
        self._close_file()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def stream_files(store: Store, set_id: SetId, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the files of a set's stream in order, with their sizes: all but the manifest and what was added later.

    Those of `sizes` are taken as they are: a file of another size is found out when it is read.
    """
    return dict(
        sorted(
            (path, size)
            for path, size in store.files(set_id, sizes)
            if path != MANIFEST_NAME and not path.startswith(f"{PROOFS_FOLDER}/")
        )
    )


def cut(
    stream: SetStream, cutting: Cutting, id_key: bytes, is_known: Callable[[memoryview], bool] = lambda piece: False
) -> Iterator[memoryview]:
    """Yield the chunks of a stream, which stay as they are as long as they are referred to.

    The cuts depend on the id key, so that sizes reveal nothing of what is there.

    Args:
        stream: the files.
        cutting: the vault's.
        id_key: the key of the ids.
        is_known: whether the vault has a chunk of these bytes. Only where files were added to very many small ones it
            decides anything: the end of what was there before was cut finer, and is taken as it is.
    """
    coarse, fine, finest = (_cutter(cutting, id_key, finer=finer) for finer in (1, _FINER, _FINEST))
    of_records, at_ends = (_cutter(cutting, id_key, finer=finer) for finer in (_OF_RECORDS, _AT_ENDS))
    buffer = _ReadAhead(stream, _BLOCK * cutting.largest, lambda: stream.hashing)
    for part in _parts(stream.listed, cutting.average):
        position, tail = 0, part.size - part.ends
        while position < part.size and (
            view := buffer.view(min((tail if position < tail else part.size) - position, cutting.largest))
        ):
            cutter, at_end = coarse if part.coarse_from <= position <= part.coarse_until else fine, at_ends
            if part.ends:
                cutter, at_end = of_records if part.ends <= position < tail else finest, fine
            length = _first(cutter, view)
            if part.grows and cutter is not finest:
                short = _first(at_end, view)
                if position + length >= tail or is_known(view[:short]):
                    length = short
            data = buffer.take(length)
            position += len(data)
            yield data
    # A file that is longer than it was listed: its hash decides whether that is right.
    while view := buffer.view(cutting.largest):
        yield buffer.take(_first(coarse, view))


def cut_lists(texts: Iterable[bytes], cutting: Cutting, id_key: bytes) -> Iterator[bytes]:
    """Yield the pieces of a copy's lists: long ones, but short ones where lists differ each time.

    Args:
        texts: the lists; of each the first or last lines differ (those of records, sizes of chunks, times).
        cutting: the vault's.
        id_key: the key of the ids.
    """
    coarse, fine = (_cutter(cutting, id_key, finer=finer) for finer in (_LISTS_FINER, _FINEST))
    end = cutting.average // _FINEST
    for text in itertools.chain.from_iterable((text[:-end], text[-end:]) for text in texts):
        position = 0
        while position < len(text):
            cutter = fine if position < end else coarse
            view = memoryview(text)[position : position + cutting.largest]
            length = _first(cutter, view)
            yield text[position : position + length]
            position += length


def large_from(cutting: Cutting) -> int:
    """Return from how many bytes on a file is cut on its own."""
    return _LARGE * cutting.average


def cut_growing(stream: ChunkSource, cutting: Cutting, id_key: bytes) -> Iterator[memoryview]:
    """Yield the chunks of one large file that is still being written: the same as `cut` finds when its size is known.

    Where the finer cuts at its end begin is known in time, because more than they take up is read ahead.
    """
    coarse, fine = (_cutter(cutting, id_key, finer=finer) for finer in (1, _FINER))
    end = 2 * cutting.average
    ahead = max(cutting.largest, end)
    buffer = _ReadAhead(stream, 2 * ahead)
    position = 0
    while view := buffer.view(ahead):
        cutter = coarse if position >= cutting.average and len(view) >= end else fine
        data = buffer.take(_first(cutter, view[: cutting.largest]))
        position += len(data)
        yield data


class ChunkSource(Protocol):
    """What chunks are cut from."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` as far as the stream goes; 0 only at its end."""


class _Part(NamedTuple):
    """What is cut on its own: its bytes, and from where to where chunks of the usual size begin in it.

    Of records of many files `ends` bytes at either end are cut finest, the last of them from a border of their own.
    What `grows`, as more files are added behind those that were there, is cut finer where it ends.
    """

    size: int
    coarse_from: int
    coarse_until: int
    ends: int = 0
    grows: bool = False


def _parts(listed: Mapping[str, int], average: int) -> Iterator[_Part]:
    """Yield each large file, and what stands between: records, which differ in every set, and other small files."""
    for (large, records), files in itertools.groupby(
        listed.items(),
        lambda file: (file[0] if file[1] >= _LARGE * average else "", file[0].startswith(RECORDS_FOLDER)),
    ):
        size = sum(size for _, size in files)
        if large:
            yield _Part(size, average, size - 2 * average)
        elif records and size < _LARGE * average:
            # A record of very many files differs in its head and in its last lines.
            yield _Part(size, size, size, average // _FINEST if size >= average // _FINER else 0, size >= average)
        else:
            yield _Part(size, 0, size, grows=size >= _LARGE * average)


def _first(cutter: FastCDC, view: memoryview) -> int:
    """Return the length of the first chunk."""
    return int(next(iter(cutter.cut_buf(view))).length)


def _wait_for(running: Future[None] | None) -> None:
    """Wait for what may be running; raises what it has raised."""
    if running is not None:
        running.result()


class _ReadAhead:
    """Reads ahead in a stream, into blocks of memory that are filled again when nothing of them is in use any more.

    New memory costs about as much as to cut or to encrypt what is read into it.

    Args:
        stream: the stream.
        size: bytes of a block.
        hashing: what is being done with the blocks so far, beside those who got their pieces.
    """

    def __init__(
        self, stream: ChunkSource, size: int, hashing: Callable[[], Future[None] | None] = lambda: None
    ) -> None:
        self._stream = stream
        self._size = size
        self._hashing = hashing
        self._blocks: list[bytearray] = []
        self._unread = memoryview(b"")
        self._ended = False

    def view(self, most: int) -> memoryview:
        """Return up to `most` of the next bytes; fewer only at the end of the stream."""
        if len(self._unread) < most and not self._ended:
            rest = len(self._unread)
            block = memoryview(self._free_block())
            block[:rest] = self._unread
            self._unread = block[: rest + self._stream.readinto(block[rest:])]
            self._ended = len(self._unread) < len(block)
        return self._unread[:most]

    def take(self, count: int) -> memoryview:
        """Return the next bytes, and go on behind them."""
        taken, self._unread = self._unread[:count], self._unread[count:]
        return taken

    def _free_block(self) -> bytearray:
        if (free := self._found_free()) is None and len(self._blocks) >= _BLOCKS:
            _wait_for(self._hashing())
            free = self._found_free()
        if free is None:
            free = bytearray(self._size)
            self._blocks.append(free)
        return free

    def _found_free(self) -> bytearray | None:
        return next((block for block in self._blocks if not _has_views(block)), None)


def _has_views(block: bytearray) -> bool:
    """Return whether a memoryview of it is left: Python resizes none of which there is one."""
    try:
        block.pop()  # Before it is made longer, which could take other memory.
    except BufferError:
        return True
    block.append(0)
    return False


def _cutter(cutting: Cutting, id_key: bytes, *, finer: int) -> FastCDC:
    return FastCDC(
        max(256, cutting.average // finer),
        min_size=max(64, cutting.smallest // finer),
        max_size=max(1024, cutting.largest // finer),
        normalized_chunking=cutting.normalization,
        seed=_seed(id_key),
    )


def _seed(id_key: bytes) -> int:
    """Return 63 bits that only holders of the id key know."""
    return int.from_bytes(hmac.digest(id_key, b"cut", "sha256")[:8], "big") >> 1
