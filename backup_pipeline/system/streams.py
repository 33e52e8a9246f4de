"""Compressing and hashing in one pass: gzip through ISA-L, on a thread of its own. No formats of databases here."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol, cast

from isal import igzip, igzip_threaded, isal_zlib

from backup_pipeline.errors import ValidationError

# What reading a damaged gzip stream may raise: ISA-L has an error of its own, which is none of zlib's.
GZIP_DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, cast(type[Exception], isal_zlib.error))
_LEVEL = 1
_BLOCK = 1 << 20
CHUNK = 1 << 20


class Sink(Protocol):
    """What can be written to."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Write all of `data`."""


class GzipSink:
    """Writes gzip to a file; compression runs on threads beside the caller.

    Args:
        file: where the compressed bytes go; it stays open.
        threads: compressing threads.
        hashed: whether to keep SHA-256 of the uncompressed content too.

    Attributes:
        size: bytes that were written, uncompressed.
    """

    def __init__(self, file: Sink, *, threads: int = 1, hashed: bool = True) -> None:
        opener: Any = igzip_threaded.open
        self._gzip = opener(file, "wb", compresslevel=_LEVEL, threads=threads, block_size=_BLOCK)
        self._digest = hashlib.sha256() if hashed else None
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Write all of `data`."""
        if self._digest is not None:
            self._digest.update(data)
        self._gzip.write(data)
        self.size += len(data)
        return len(data)

    @property
    def content_sha256(self) -> str | None:
        """SHA-256 in hex of the content, when it is hashed."""
        return self._digest.hexdigest() if self._digest is not None else None

    def close(self) -> None:
        """Finish the gzip stream."""
        self._gzip.close()


@contextlib.contextmanager
def gzip_sink(file: Sink, *, threads: int = 1, hashed: bool = True) -> Iterator[GzipSink]:
    """Write gzip to `file` for the block; the stream is finished when the block ends well."""
    sink = GzipSink(file, threads=threads, hashed=hashed)
    try:
        yield sink
    except BaseException:
        # Its threads must end; what they still write goes to a file that is thrown away.
        with contextlib.suppress(Exception):
            sink.close()
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
        raise ValidationError(
            f"The gzip stream is damaged or cut off ({error}).", where=name, remedy="Use another set."
        ) from error
