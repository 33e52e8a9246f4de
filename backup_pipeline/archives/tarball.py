"""Tarballs as streams, written with a listing of their members and read member by member.

The tarball is POSIX.1-2001 (PAX) inside gzip, in members that are cut by content: any `tar` reads it, and unchanged
files become the same bytes again. The listing is JSON lines inside gzip, one line per member *in the tarball's order*,
so that both can be read side by side in constant memory, with 100,000s of files. Reading is
`archives.tarball_reader`'s and unpacking `unpack`'s work; which folders are captured, and what a changed file means, is
decided in `artefacts`.

A line of the listing: `{"path", "kind", "size", "mtime_ns", "mode", "uid", "gid", "sha256", "state"}`, and where they
are needed `"attributes"` (keyword of the PAX record → value in Base64, see `archives.file_attributes`) and `"sparse":
true` (the file had holes). `path` uses forward slashes; bytes that are not UTF-8 stand in it as Python's surrogate
escapes (`\\udc80` … `\\udcff`).
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import stat
import tarfile
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from backup_pipeline.archives.file_attributes import Attributes, read_attributes
from backup_pipeline.system.streams import compressed_sink

BLOCK = 512
CHUNK = 1 << 20
SMALL = 4 << 20
"""Files up to this many bytes are read whole before their header is written, so that a changed one is read again."""
ATTEMPTS = 3
PAUSE_SECONDS = 0.05


_LINE = b'{"path":%s,"kind":"%s","size":%d,"mtime_ns":%d,"mode":%d,"uid":%d,"gid":%d,"sha256":"%s","state":"%s"%s}\n'
_ENCODE = json.JSONEncoder().encode


class EntryKind(StrEnum):
    """What a line of the listing is; only files and folders are in the tarball."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    SPECIAL = "special"
    VANISHED = "vanished"


class State(StrEnum):
    """How a file came in: whole, different each time it was read, or replaced by a later member of that path."""

    WHOLE = ""
    CHANGED = "changed"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Member:
    """One line of a listing: a file or folder in the tarball, or what was skipped in it."""

    path: str
    kind: EntryKind
    size: int = 0
    mtime_ns: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    sha256: str = ""
    state: State = State.WHOLE
    attributes: Attributes = ()
    sparse: bool = False

    @property
    def stored(self) -> bool:
        """Whether the tarball has it."""
        return self.kind in (EntryKind.FILE, EntryKind.FOLDER)

    def line(self) -> bytes:
        """Return it as a line of a listing."""
        return _LINE % (
            _ENCODE(self.path).encode(),
            self.kind.encode(),
            self.size,
            self.mtime_ns,
            self.mode,
            self.uid,
            self.gid,
            self.sha256.encode(),
            self.state.encode(),
            self._rarely(),
        )

    def _rarely(self) -> bytes:
        more = b',"sparse":true' if self.sparse else b""
        if self.attributes:
            values = {keyword: base64.b64encode(value).decode() for keyword, value in self.attributes}
            more += b',"attributes":' + _ENCODE(values).encode()
        return more


def shown(path: str) -> str:
    """Return a path fit for messages: newlines and bytes that are not UTF-8 escaped."""
    return path.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n").replace("\r", "\\r")


_USTAR = b"%s\0%07o\0%07o\0%07o\0%011o\0%011o\0        %s" + bytes(100) + b"ustar\00000" + bytes(64)
_USTAR += b"0000000\0000000000\0" + bytes(155 + 12)


def _ustar(path: bytes, member: Member, size: int, seconds: int, kind: bytes) -> bytes:
    block = bytearray(_USTAR % (path.ljust(100, b"\0")[:99], member.mode, member.uid, member.gid, size, seconds, kind))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def header(member: Member) -> bytes:
    """Return the blocks before a member's content: a PAX header with its time and attributes, then its own.

    The usual case is written here, ten times as fast as by the library, which is what 10,000s of small files cost;
    whatever does not fit (long or odd names, huge files, large ids) is the library's.
    """
    path = member.path + "/" if member.kind is EntryKind.FOLDER else member.path
    seconds, nanoseconds = divmod(member.mtime_ns, 1_000_000_000)
    try:
        raw = path.encode("ascii")
    except UnicodeEncodeError:
        raw = b""
    if member.attributes:
        return _header_with_attributes(member, path)
    easy = 0 < len(raw) < 100 and b"\n" not in raw and b"\0" not in raw
    if not (easy and 0 <= seconds < 1 << 33 and member.size < 1 << 33 and max(member.uid, member.gid) < 1 << 21):
        return _library_header(member)
    own = _ustar(raw, member, member.size, seconds, b"5" if member.kind is EntryKind.FOLDER else b"0")
    if not nanoseconds:
        return own
    body = b"mtime=%d.%09d\n" % (seconds, nanoseconds)
    body = b"%d %s" % (len(body) + 3, body)
    return _pax_header(len(body)) + body.ljust(BLOCK, b"\0") + own


def _header_with_attributes(member: Member, path: str) -> bytes:
    """Everything stands in the PAX header here: the library cannot write values that are not text as GNU tar does."""
    raw = path.encode("utf-8", "surrogateescape")
    records = [("path", raw), ("mtime", _decimal_seconds(member.mtime_ns).encode())]
    if member.size >= 1 << 33:
        records.append(("size", b"%d" % member.size))
    for name, number in (("uid", member.uid), ("gid", member.gid)):
        if number >= 1 << 21:
            records.append((name, b"%d" % number))
    try:
        raw.decode()
    except UnicodeDecodeError:
        records.insert(0, ("hdrcharset", b"BINARY"))
    body = b"".join(_pax_record(keyword, value) for keyword, value in (*records, *member.attributes))
    small = replace(member, uid=member.uid % (1 << 21), gid=member.gid % (1 << 21))
    kind = b"5" if member.kind is EntryKind.FOLDER else b"0"
    seconds = min(max(member.mtime_ns // 1_000_000_000, 0), (1 << 33) - 1)
    own = _ustar(raw.replace(b"\0", b"")[:99], small, member.size % (1 << 33), seconds, kind)
    return _pax_header(len(body)) + body + bytes(-len(body) % BLOCK) + own


def _pax_record(keyword: str, value: bytes) -> bytes:
    """Return one record: its own length in decimal digits, which count too, a space, keyword=value, a newline."""
    rest = b" %s=%s\n" % (keyword.encode("utf-8", "surrogateescape"), value)
    length = len(rest)
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


@functools.lru_cache(maxsize=8)
def _pax_header(size: int) -> bytes:
    return _ustar(b"././@PaxHeader", Member("", EntryKind.FILE), size, 0, b"x")


def _library_header(member: Member) -> bytes:
    info = tarfile.TarInfo(member.path)
    info.type = tarfile.DIRTYPE if member.kind is EntryKind.FOLDER else tarfile.REGTYPE
    info.size, info.mode, info.uid, info.gid = member.size, member.mode, member.uid, member.gid
    seconds, nanoseconds = divmod(member.mtime_ns, 1_000_000_000)
    info.mtime = max(seconds, 0)
    if nanoseconds or seconds < 0:
        # Written by ourselves: a float would lose the last digits.
        info.pax_headers = {"mtime": _decimal_seconds(member.mtime_ns)}
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


class TarballWriter:
    """Writes members to a tarball inside gzip; use as a context manager around `sink` (which stays open).

    Attributes:
        lost: path and name of each attribute that cannot be kept, to be taken out by the caller.
        allocated: bytes that the files take on the disk that they come from, holes not counted.
    """

    def __init__(self, sink: Any, *, threads: int = 0) -> None:
        self.lost: list[tuple[str, str]] = []
        self.allocated = 0
        self._gzip = compressed_sink(sink, threads=threads, hashed=False)
        self._buffer = bytearray(CHUNK)

    def __enter__(self) -> TarballWriter:
        self._out = self._gzip.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        if raised[0] is None:
            self._out.write(bytes(2 * BLOCK))
        self._gzip.__exit__(*raised)

    def _header(self, member: Member) -> None:
        self._out.write(header(member))

    def _attributes(self, path: str, place: int | Path | str) -> Attributes:
        found, lost = read_attributes(place)
        self.lost += [(path, name) for name in lost]
        return found

    def add_folder(self, path: str, status: os.stat_result, place: Path | str) -> Member:
        """Add the folder at `place` and return its line."""
        member = replace(_member(path, EntryKind.FOLDER, status, 0), attributes=self._attributes(path, place))
        self._header(member)
        return member

    def add_file(self, path: str, place: Path | str) -> Member:
        """Add the file at `place` as `path` and return its line.

        A small file that changes while it is read is read again, up to three times. A large one is in the stream
        already: its state is CHANGED and the caller may add it again. OSError when it cannot be opened or read; then
        nothing has been written, unless reading failed in the middle of a large file.
        """
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(place, flags)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return _member(path, EntryKind.SPECIAL, status, 0)
            attributes = self._attributes(path, descriptor)
            self.allocated += min(status.st_size, _on_disk(status))
            if status.st_size <= SMALL:
                return self._add_small(path, descriptor, status, attributes)
            return self._add_large(path, descriptor, status, attributes)
        finally:
            os.close(descriptor)

    @staticmethod
    def large(member: Member) -> bool:
        """Return whether a file of that size is streamed, so that it could not be read again before it was written."""
        return member.size > SMALL

    def _add_small(self, path: str, descriptor: int, status: os.stat_result, attributes: Attributes) -> Member:
        for attempt in range(1, ATTEMPTS + 1):
            data = _read_whole(descriptor, status.st_size)
            after = os.fstat(descriptor)
            whole = len(data) == status.st_size and _same(status, after)
            if whole or after.st_size > SMALL:
                break
            if attempt < ATTEMPTS:
                time.sleep(PAUSE_SECONDS * attempt)
                status = os.fstat(descriptor)
                os.lseek(descriptor, 0, os.SEEK_SET)
        member = replace(
            _member(path, EntryKind.FILE, status, len(data)),
            sha256=hashlib.sha256(data).hexdigest(),
            state=State.WHOLE if whole else State.CHANGED,
            attributes=attributes,
        )
        self._header(member)
        self._out.write(data)
        self._pad(len(data))
        return member

    def _add_large(self, path: str, descriptor: int, status: os.stat_result, attributes: Attributes) -> Member:
        size = status.st_size
        member = replace(_member(path, EntryKind.FILE, status, size), attributes=attributes)
        self._header(member)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        digest = hashlib.sha256()
        view = memoryview(self._buffer)
        left = size
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            while left and (count := file.readinto(view[: min(left, CHUNK)])):
                self._take(view[:count], digest)
                left -= count
        whole = left == 0 and _same(status, os.fstat(descriptor))
        while left:
            # It was cut short after its header said so many bytes; the rest is zeros and the line says "changed".
            piece = memoryview(bytes(min(left, CHUNK)))
            self._take(piece, digest)
            left -= len(piece)
        self._pad(size)
        state = State.WHOLE if whole else State.CHANGED
        return replace(member, sha256=digest.hexdigest(), state=state)

    def _take(self, piece: memoryview, digest: Any) -> None:
        digest.update(piece)
        self._out.write(piece)

    def _pad(self, size: int) -> None:
        if rest := size % BLOCK:
            self._out.write(bytes(BLOCK - rest))


def _decimal_seconds(nanoseconds: int) -> str:
    sign = "-" if nanoseconds < 0 else ""
    seconds, rest = divmod(abs(nanoseconds), 1_000_000_000)
    return f"{sign}{seconds}.{rest:09d}"


def _member(path: str, kind: EntryKind, status: os.stat_result, size: int) -> Member:
    mode = stat.S_IMODE(status.st_mode)
    sparse = kind is EntryKind.FILE and size > SMALL and _on_disk(status) < size
    return Member(path, kind, size, status.st_mtime_ns, mode, status.st_uid, status.st_gid, sparse=sparse)


def _on_disk(status: os.stat_result) -> int:
    """Return the bytes that a file takes on its disk; its size where the platform does not say."""
    return status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    return before.st_size == after.st_size and before.st_mtime_ns == after.st_mtime_ns


def _read_whole(descriptor: int, size: int) -> bytes:
    data = os.read(descriptor, size + 1)
    if len(data) in (size, 0):
        return data
    pieces = [data]
    while piece := os.read(descriptor, CHUNK):
        pieces.append(piece)
        if sum(map(len, pieces)) > SMALL + CHUNK:
            break
    return b"".join(pieces)
