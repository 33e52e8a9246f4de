"""The plain SQL of a custom-format archive: statements as pg_restore writes them, rows unpacked here.

pg_restore takes twice the processor time for unpacking rows, and as much again to hand them on. So it is asked for
everything but rows that COPY loads, once for what stands before them and once for what follows. Nothing is executed.
The layout is that of `pg_backup_archiver.c`; of an archive that is not known here all is left to pg_restore.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.errors import ToolError, ValidationError
from backup_pipeline.postgres.server.clients import PostgresClient
from backup_pipeline.system import processes
from backup_pipeline.system.files import CHUNK
from backup_pipeline.system.streams import GZIP_DAMAGE
from backup_pipeline.system.threads import start_thread

CUSTOM_MAGIC = b"PGDMP"
# Versions of the layout, major and minor: PostgreSQL 9.0 to 18.
_OLDEST, _NEWEST = (1, 12), (1, 16)
_CUSTOM_FORMAT = 1
_NONE, _GZIP = 0, 1
_ROWS, _LARGE_OBJECTS = 1, 3
_DATA_SECTION = 3
# pg_restore keeps rights for last, so that an owner who took them from himself can still load.
_RIGHTS = ("ACL", "ACL LANGUAGE", "DEFAULT ACL")
# As above the rows of each table in any dump; who reads the text knows them by it.
_HEADING = b"--\n-- Data\n--\n\n"
_LARGEST_TEXT = 1 << 30


@dataclass
class _Contents:
    """A table of contents: how rows are packed, entry → COPY statement, and the other entries around them."""

    packed: int
    copies: dict[int, bytes] = field(default_factory=dict)
    before: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)


def archive_text(file: BinaryIO, client: PostgresClient) -> Generator[bytes]:
    """Yield the plain SQL of a custom-format archive in pieces.

    Args:
        file: the archive, at its beginning, seekable.
        client: programs whose pg_restore reads it; never older than what wrote it.

    Raises:
        ToolError: pg_restore cannot read it. ValidationError: rows are damaged or missing.
    """
    archive = _Archive(file)
    contents = archive.contents()
    if contents is None:
        file.seek(0)
        yield from _by_pg_restore(file, client)
        return
    rows_begin = archive.position
    file.seek(0)
    yield from _by_pg_restore(file, client, contents.before)
    file.seek(rows_begin)
    yield from _Archive(file, archive.int_size).rows(contents)
    file.seek(0)
    yield from _by_pg_restore(file, client, contents.after)


class _Archive:
    """Reads an archive from where its file stands; `position` is what has been taken of it."""

    def __init__(self, file: BinaryIO, int_size: int = 4) -> None:
        self._file = file
        self.int_size = int_size
        self.position = 0
        self._buffer = b""
        self._at = 0

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._buffer):
            parts = [self._buffer[self._at :]]
            have = len(parts[0])
            while have < size:
                # Not all at once: a damaged length may be larger than any file.
                data = self._file.read(CHUNK)
                if not data:
                    raise _damaged("it is cut short")
                parts.append(data)
                have += len(data)
            self._buffer, self._at, end = b"".join(parts), 0, size
        taken = self._buffer[self._at : end]
        self._at = end
        self.position += size
        return taken

    def _byte(self) -> int:
        return self._take(1)[0]

    def _int(self) -> int:
        data = self._take(1 + self.int_size)
        value = int.from_bytes(data[1:], "little")
        return -value if data[0] else value

    def _text(self) -> bytes | None:
        size = self._int()
        if size > _LARGEST_TEXT:
            raise _damaged("a text of its contents is larger than 1 GB")
        return self._take(size) if size >= 0 else None

    def contents(self) -> _Contents | None:
        """Read the table of contents; None where it has another layout, or rows are packed in another way."""
        magic, *version, _, self.int_size, offset_size, form = struct.unpack("5s6B", self._take(11))
        if magic != CUSTOM_MAGIC or not _OLDEST <= tuple(version) <= _NEWEST or form != _CUSTOM_FORMAT:
            return None
        minor = version[1]
        packed = self._byte() if minor >= 15 else (_GZIP if self._int() else _NONE)
        if packed not in (_NONE, _GZIP):
            return None
        for _ in range(7):  # when it was written
            self._int()
        for _ in range(3):  # the database's name, and the versions of server and pg_dump
            self._text()
        found = _Contents(packed)
        data_begun = False
        for _ in range(self._int()):
            number, kind, section, copy = self._entry(minor, offset_size)
            data_begun = data_begun or section >= _DATA_SECTION
            if kind == "TABLE DATA" and copy:
                found.copies[number] = copy
            else:
                (found.after if data_begun or kind in _RIGHTS else found.before).append(number)
        return found

    def _entry(self, minor: int, offset_size: int) -> tuple[int, str, int, bytes]:
        number = self._int()
        self._int()
        self._text(), self._text(), self._text()
        kind = (self._text() or b"").decode("utf-8", "replace")
        section = self._int()
        self._text(), self._text()
        copy = self._text() or b""
        self._text(), self._text()
        if minor >= 14:
            self._text()
        if minor >= 16:
            self._int()
        self._text(), self._text()
        while self._text() is not None:  # what it depends on
            pass
        # Where its rows stand, which an archive that was written into a pipe does not know.
        self._take(1 + offset_size)
        return number, kind, section, copy

    def rows(self, contents: _Contents) -> Iterator[bytes]:
        """Yield the COPY blocks, in the order in which their rows stand."""
        missing = dict(contents.copies)
        while missing:
            kind, number = self._byte(), self._int()
            if kind == _ROWS and (copy := missing.pop(number, None)) is not None:
                yield _HEADING + copy
                yield from _unpacked(self, contents.packed)
            elif kind == _ROWS:
                for _ in self.block():
                    pass
            elif kind == _LARGE_OBJECTS:
                while self._int():
                    for _ in self.block():
                        pass
            else:
                raise _damaged(f"a block of the kind {kind}")

    def block(self) -> Iterator[bytes]:
        """Yield the bytes of one block as they stand, in pieces of some hundred kilobytes."""
        parts: list[bytes] = []
        size = 0
        while length := self._int():
            if not 0 < length <= _LARGEST_TEXT:
                raise _damaged("a block of an impossible length")
            # Older ones write pieces of 4 KB.
            parts.append(self._take(length))
            size += length
            if size >= CHUNK // 4:
                yield b"".join(parts)
                parts, size = [], 0
        if parts:
            yield b"".join(parts)


def _unpacked(archive: _Archive, packed: int) -> Iterator[bytes]:
    """Yield the rows of a block in pieces of a megabyte at most, up to their end marker."""
    if packed == _NONE:
        yield from archive.block()
        return
    from isal import isal_zlib

    unpack = isal_zlib.decompressobj()
    try:
        for piece in archive.block():
            while piece:
                yield unpack.decompress(piece, CHUNK)
                piece = unpack.unconsumed_tail
    except GZIP_DAMAGE as error:
        raise _damaged(str(error)) from error
    if not unpack.eof:
        raise _damaged("the rows of a table are cut short")


def _by_pg_restore(file: BinaryIO, client: PostgresClient, entries: list[int] | None = None) -> Iterator[bytes]:
    """Yield what pg_restore makes of an archive, or of these entries of it."""
    with contextlib.ExitStack() as stack:
        command: list[str | Path] = [client.program("pg_restore"), "--file=-"]
        if entries is not None:
            listed = stack.enter_context(tempfile.NamedTemporaryFile("w", prefix="archive-entries-"))
            listed.writelines(f"{number};\n" for number in entries)
            listed.flush()
            command.append(f"--use-list={listed.name}")
        program = stack.enter_context(processes.running(command, with_stdin=True))

        def feed() -> None:
            # It stops reading where it has what it was asked for.
            with contextlib.suppress(OSError, ValueError):
                while data := file.read(CHUNK):
                    view = memoryview(data)
                    while view:
                        view = view[program.stdin.write(view) :]
            with contextlib.suppress(OSError, ValueError):
                program.stdin.close()

        feeder = start_thread(feed, "pg_restore input")
        while data := program.stdout.read(CHUNK):
            yield data
        code, messages = program.finish()
        if code != 0:
            raise ToolError(
                f"Exit code {code}: {processes.last_lines(messages)}",
                where="pg_restore",
                remedy="Verify the set; restore from another one if this archive is damaged.",
            )
        feeder.join()  # The file is read on from here.


def _damaged(why: str) -> ValidationError:
    return ValidationError(
        f"The archive is damaged: {why}.", where="dump", remedy="Verify the set and restore from another one."
    )
