"""A dump in any of its forms (plain, gzip, Zstandard, custom archive) as one stream of plain SQL, which is not
understood here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from backup_pipeline.errors import ValidationError
from backup_pipeline.postgres.load.archive_text import CUSTOM_MAGIC, archive_text
from backup_pipeline.postgres.server.clients import PostgresClient
from backup_pipeline.system.streams import GZIP_DAMAGE, GZIP_MAGIC, ZSTD_MAGIC, unzstd


class Readable(Protocol):
    """Anything that gives bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes; empty at the end."""


@contextlib.contextmanager
def plain_sql(file: BinaryIO, client: PostgresClient) -> Iterator[Readable]:
    """Give the plain SQL of a dump in any of its forms (plain, gzip, Zstandard, custom), as a stream.

    Args:
        file: the dump, at its beginning, seekable.
        client: programs whose pg_restore reads a custom archive; never older than what wrote it.

    Raises:
        ToolError: pg_restore failed. ValidationError: the compressed stream is damaged or cut short.
    """
    magic = file.read(5)
    file.seek(0)
    if magic.startswith(GZIP_MAGIC):
        from isal import igzip_threaded

        with igzip_threaded.open(file, "rb", threads=1) as reader:  # type: ignore[no-untyped-call]
            yield _Damaged(reader)
    elif magic.startswith(ZSTD_MAGIC):
        yield ReadablePieces(unzstd(file, name=str(getattr(file, "name", "dump"))))
    elif magic == CUSTOM_MAGIC:
        with contextlib.closing(archive_text(file, client)) as pieces:
            yield ReadablePieces(pieces)
    else:
        yield file


class Observed:
    """A stream whose pieces are also given to somebody else, as they are read."""

    def __init__(self, reader: Readable, take: Callable[[bytes], object]) -> None:
        self._reader, self._take = reader, take

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes; empty at the end."""
        data = self._reader.read(size)
        self._take(data)
        return data


class _Damaged:
    """Translates the errors of a damaged gzip stream."""

    def __init__(self, reader: Readable) -> None:
        self._reader = reader

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._reader.read(size)
        except GZIP_DAMAGE as error:
            raise ValidationError(
                f"The gzip stream of the dump is damaged or cut short ({error}).",
                where=str(getattr(self._reader, "name", "dump")),
                remedy="Verify the set and restore from another one.",
            ) from error


class ReadablePieces:
    """Gives what an iterator yields, as a file does; a read is as long as a piece at most."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes; empty at the end."""
        if size < 0:
            return self._rest + b"".join(self._pieces)
        if not self._rest:
            self._rest = next(self._pieces, b"")
        data, self._rest = self._rest[:size], self._rest[size:]
        return data
