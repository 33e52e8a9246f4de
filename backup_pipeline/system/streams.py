"""Compressing and hashing in one pass, as independent members that are cut by content. No formats of databases here.

A stream is cut by FastCDC (2020) over its plain bytes, and each piece becomes a gzip member (RFC 1952) or a Zstandard
frame (RFC 8878) of its own. Programs read their concatenation as one stream, while a change of the content changes only
the members around it: what cuts and stores the compressed bytes by content finds all others again. The same bytes make
the same file: no clock is written, and neither threads nor sizes of writes matter.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Literal, Protocol, TypeVar, cast

from isal import igzip, isal_zlib
from pyfastcdc import FastCDC

from backup_pipeline.errors import ValidationError
from backup_pipeline.system.threads import ContextThreadPool

Compression = Literal["gzip", "zstd"]

# What reading a damaged gzip stream may raise: ISA-L has an error of its own, which is none of zlib's.
GZIP_DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, cast(type[Exception], isal_zlib.error))
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
CHUNK = 1 << 20
_GZIP_LEVEL = 1
_GZIP_WRAPPER = 31
"""zlib's way to ask for a gzip header; its time is zero."""
_ZSTD_LEVEL = 3
_BATCH = 2 << 20
"""Plain bytes that are handed to a thread together, at least; a thread has up to two batches, of large pieces one."""


_ENDING = 64
"""Bytes at the end of a piece that say whether a frame ends with it."""


@dataclass(frozen=True)
class _Cutting:
    """How a stream is cut, in plain bytes. Zstandard finds less in small frames, gzip's window is 32 KiB anyway.

    With `together` a frame holds several pieces: at least so many bytes, then up to a piece whose last bytes say so, or
    to twice as many bytes. FastCDC itself cuts no larger pieces.
    """

    average: int
    smallest: int
    largest: int
    together: int = 0

    def cutter(self) -> FastCDC:
        return FastCDC(self.average, min_size=self.smallest, max_size=self.largest)


_CUTTING: dict[Compression, _Cutting] = {
    "gzip": _Cutting(64 << 10, 16 << 10, 256 << 10),
    # Its window at this level is 2 MiB: what each frame forgets is then no more than what threads of zstd forget.
    "zstd": _Cutting(2 << 20, 1 << 20, 8 << 20, together=5 << 20),
}


class Sink(Protocol):
    """What can be written to."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Write all of `data`."""


class CompressedSink:
    """Writes a compressed stream to a file; compression runs on threads beside the caller.

    Args:
        file: where the compressed bytes go; it stays open.
        compression: gzip (ISA-L, level 1) or zstd (level 3).
        threads: compressing threads; by default one per processor, two to four.
        hashed: whether to keep SHA-256 of the uncompressed content too.

    Attributes:
        size: bytes that were written, uncompressed.
    """

    def __init__(self, file: Sink, *, compression: Compression = "gzip", threads: int = 0, hashed: bool = True) -> None:
        self._file = file
        self._cutting = _CUTTING[compression]
        self._cutter = self._cutting.cutter()
        self._compress = compressor(compression)
        self._threads = threads or min(4, max(2, os.cpu_count() or 1))
        self._pool: ContextThreadPool | None = None
        self._running: deque[Future[bytes]] = deque()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._batch = max(_BATCH, self._cutting.largest)
        # Of large pieces fewer wait, so that memory stays the same.
        self._ahead = self._threads if self._cutting.together else 2 * self._threads
        self._frame: list[memoryview] = []
        self._frame_bytes = 0
        self._empty = True
        self._digest = hashlib.sha256() if hashed else None
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Write all of `data`."""
        if self._digest is not None:
            self._digest.update(data)
        size = len(data)
        # What can change after this call, as a buffer that is used again, is copied.
        self._waiting.append(data if isinstance(data, bytes) else bytes(data))
        self._waiting_bytes += size
        self.size += size
        if self._waiting_bytes >= self._batch:
            self._cut()
        return size

    @property
    def content_sha256(self) -> str | None:
        """SHA-256 in hex of the content, when it is hashed."""
        return self._digest.hexdigest() if self._digest is not None else None

    def close(self) -> None:
        """Finish the stream; an empty one is one empty member."""
        try:
            rest = self._pieces(final=True)
            if self._pool is None:
                # So little that a thread would cost more.
                self._write(self._compressed(rest))
            else:
                self._submit(rest)
            while self._running:
                self._write_next()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """End the threads; what is not written yet never will be."""
        self._running.clear()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _cut(self) -> None:
        if self._pool is None:
            self._pool = ContextThreadPool(self._threads, "compress")
        self._submit(self._pieces())
        while self._running and (len(self._running) > self._ahead or self._running[0].done()):
            self._write_next()

    def _write_next(self) -> None:
        self._write(self._running.popleft().result())

    def _pieces(self, *, final: bool = False) -> list[memoryview]:
        """Cut what waits; the last piece may go on and waits further, unless the content has ended."""
        pieces = [chunk.data for chunk in self._cutter.cut_buf(b"".join(self._waiting))]
        self._waiting = [] if final or not pieces else [bytes(pieces.pop())]
        self._waiting_bytes = sum(map(len, self._waiting))
        return self._framed(pieces, final=final) if self._cutting.together else pieces

    def _framed(self, pieces: list[memoryview], *, final: bool) -> list[memoryview]:
        """Put pieces together into frames; where a frame ends is said by its content alone."""
        frames = []
        least = self._cutting.together
        for piece in pieces:
            self._frame.append(piece)
            self._frame_bytes += len(piece)
            ends_here = zlib.crc32(piece[-_ENDING:]) & 1
            if self._frame_bytes >= (least if ends_here else 2 * least):
                frames.append(self._whole_frame())
        if final and self._frame:
            frames.append(self._whole_frame())
        return frames

    def _whole_frame(self) -> memoryview:
        whole = memoryview(b"".join(self._frame))
        self._frame, self._frame_bytes = [], 0
        return whole

    def _submit(self, pieces: list[memoryview]) -> None:
        assert self._pool is not None
        if self._cutting.together:
            self._running += [self._pool.submit(self._compressed, [piece]) for piece in pieces]
        elif pieces:
            self._running.append(self._pool.submit(self._compressed, pieces))

    def _compressed(self, pieces: list[memoryview]) -> bytes:
        return b"".join([self._compress(piece) for piece in pieces])

    def _write(self, data: bytes) -> None:
        data = data if data or not self._empty else self._compress(b"")
        self._empty = False
        if data:
            self._file.write(data)


def compressor(compression: Compression) -> Callable[[Any], bytes]:
    """Return what makes a gzip member or a Zstandard frame of a piece."""
    if compression == "gzip":
        return partial(isal_zlib.compress, level=_GZIP_LEVEL, wbits=_GZIP_WRAPPER)
    # Arrow's binding of libzstd; imported here, because it takes a moment and gzip is the rule.
    import pyarrow as pa

    return partial(pa.Codec("zstd", _ZSTD_LEVEL).compress, asbytes=True)


AnySink = TypeVar("AnySink", bound=CompressedSink)


@contextlib.contextmanager
def compressed_sink(
    file: Sink, *, compression: Compression = "gzip", threads: int = 0, hashed: bool = True
) -> Iterator[CompressedSink]:
    """Write a compressed stream to `file` for the block; it is finished when the block ends well."""
    with finished(CompressedSink(file, compression=compression, threads=threads, hashed=hashed)) as sink:
        yield sink


@contextlib.contextmanager
def finished(sink: AnySink) -> Iterator[AnySink]:
    """Write to a compressed stream for the block; it is finished when the block ends well."""
    try:
        yield sink
    except BaseException:
        # Its threads must end; the file is thrown away.
        sink.abandon()
        raise
    sink.close()


def gunzip(file: BinaryIO, *, name: str, size: int = CHUNK) -> Iterator[bytes]:
    """Yield the content of a gzip stream in pieces; reads it to its checksum.

    Raises:
        ValidationError: damaged or cut off; names `name`.
    """
    try:
        reader: Any = igzip.IGzipFile
        with reader(fileobj=file, mode="rb") as stream:
            while piece := stream.read(size):
                yield piece
    except GZIP_DAMAGE as error:
        raise _damaged("gzip", error, name) from error


def unzstd(file: BinaryIO, *, name: str, size: int = CHUNK) -> Iterator[bytes]:
    """Yield the content of a Zstandard stream of any number of frames in pieces; reads it to its end.

    Raises:
        ValidationError: damaged or cut off; names `name`.
    """
    import pyarrow as pa

    try:
        stream = pa.CompressedInputStream(file, "zstd")
        while piece := stream.read(size):
            yield piece
    except (OSError, ValueError) as error:
        raise _damaged("Zstandard", error, name) from error


def _damaged(form: str, error: Exception, name: str) -> ValidationError:
    return ValidationError(
        f"The {form} stream is damaged or cut off ({error}).", where=name, remedy="Use another backup."
    )
