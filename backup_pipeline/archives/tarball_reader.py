"""Reading tarballs and their listings as streams, and comparing the one with the other. Writes nothing to disk.

Nothing here trusts the file: sizes of extended headers are capped, and members other than plain files and folders come
without content.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, cast

from isal import igzip, igzip_threaded

from backup_pipeline.archives.file_attributes import PREFIXES, Attributes
from backup_pipeline.archives.tarball import BLOCK, CHUNK, EntryKind, Member, State, header, shown
from backup_pipeline.errors import ValidationError
from backup_pipeline.system import limits
from backup_pipeline.system.streams import GZIP_DAMAGE

MAXIMUM_HEADER = 1 << 20
"""An extended header larger than this (bytes) is taken for an attack on memory."""
MAXIMUM_LINE = 1 << 20
"""The same for a line of a listing."""
DAMAGE: tuple[type[Exception], ...] = (tarfile.TarError, OverflowError, *GZIP_DAMAGE)
"""What reading a damaged gzip or tar stream raises; numbers in extended headers, as ValueError or OverflowError."""
_DECODE = json.JSONDecoder().decode
_KINDS = {kind.value: kind for kind in EntryKind}
_STATES = {state.value: state for state in State}
_LINE_DAMAGE: tuple[type[Exception], ...] = (TypeError, KeyError, AttributeError, *DAMAGE)


@contextlib.contextmanager
def gzip_reader(file: BinaryIO) -> Iterator[IO[bytes]]:
    """Give a stream of what `file` holds, decompressed in a thread beside."""
    stream = igzip_threaded.open(file, "rb", block_size=CHUNK)  # type: ignore[no-untyped-call]
    try:
        # Its own buffer is 8 kB and is filled by Python code.
        yield cast(IO[bytes], io.BufferedReader(stream, CHUNK))
    finally:
        stream.close()


def read_listing(file: BinaryIO, name: str = "listing") -> Iterator[Member]:
    """Yield the members of a gzipped listing; ValidationError naming `name` where it is damaged."""
    number = 0
    try:
        # Without a thread of its own: it is small, and read beside the tarball, whose thread needs the processor.
        with igzip.IGzipFile(fileobj=file, mode="rb") as stream:  # type: ignore[no-untyped-call]
            lines = io.BufferedReader(stream, CHUNK)
            while line := lines.readline(MAXIMUM_LINE):
                fields = _DECODE(line.decode("ascii"))
                fields["kind"], fields["state"] = _KINDS[fields["kind"]], _STATES[fields["state"]]
                if "attributes" in fields:
                    fields["attributes"] = _attributes(fields["attributes"])
                yield Member(**fields)
                number += 1
    except _LINE_DAMAGE as error:
        text = str(error) or type(error).__name__
        raise ValidationError(f"Damaged after line {number}: {text}.", where=name, remedy="Use another set.") from error


def _attributes(listed: dict[str, str]) -> Attributes:
    found = [(keyword, base64.b64decode(value, validate=True)) for keyword, value in listed.items()]
    if not all(keyword.startswith(PREFIXES) for keyword, _ in found):
        raise ValueError("an unknown attribute")
    return tuple(sorted(found))


class _CappedInfo(tarfile.TarInfo):
    """A header whose extensions cannot fill the memory: the library reads them whole, whatever size they claim."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        extended = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        if self.type in (*extended, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK) and self.size > MAXIMUM_HEADER:
            raise tarfile.ReadError(f"an extended header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


class TarContent:
    """The content of one member. Damage is a ValidationError."""

    def __init__(self, content: IO[bytes], name: str, path: str) -> None:
        self._content = content
        self._name = name
        self._path = path

    def read(self, size: int = CHUNK) -> bytes:
        """Return up to `size` bytes, nothing at the end."""
        limits.progressed()
        try:
            return self._content.read(size)
        except DAMAGE as error:
            raise _damaged(error, self._name, f"the beginning of {shown(self._path)}") from error


def read_members(archive: BinaryIO, name: str) -> Iterator[tuple[Member, TarContent | None]]:
    """Yield every member of a tarball and, for a file, its content, to be read before the next one is asked for.

    Links, devices and sparse files come as kind LINK or SPECIAL without content. After the last member the stream is
    read to its end, so that gzip's own checksum is compared.

    Raises:
        ValidationError: the gzip or tar structure is damaged; names `name` and the last member that was whole.
    """
    last = "its beginning"
    options: dict[str, Any] = {"tarinfo": _CappedInfo, "encoding": "utf-8", "errors": "surrogateescape"}
    try:
        with gzip_reader(archive) as stream:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK, **options) as tar:
                while (info := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # or every header stays in memory
                    member = _from_header(info)
                    content = tar.extractfile(info) if member.kind is EntryKind.FILE else None
                    yield member, TarContent(content, name, member.path) if content else None
                    last = shown(member.path)
            while stream.read(CHUNK):
                pass
    except DAMAGE as error:
        raise _damaged(error, name, last) from error


def _damaged(error: Exception, name: str, last: str) -> ValidationError:
    text = str(error) or type(error).__name__
    return ValidationError(f"Damaged after {last}: {text}.", where=name, remedy="Use another set.")


def _from_header(info: tarfile.TarInfo) -> Member:
    kind = EntryKind.SPECIAL
    if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not info.issparse():
        kind = EntryKind.FILE
    elif info.isdir():
        kind = EntryKind.FOLDER
    elif info.issym() or info.islnk():
        kind = EntryKind.LINK
    size = info.size if kind is EntryKind.FILE else 0
    attributes = tuple(
        sorted(
            (keyword, value.encode("utf-8", "surrogateescape"))
            for keyword, value in info.pax_headers.items()
            if keyword.startswith(PREFIXES)
        )
    )
    mode, time = stat.S_IMODE(info.mode), _nanoseconds(info)
    return Member(info.name, kind, size, time, mode, info.uid, info.gid, attributes=attributes)


def _nanoseconds(info: tarfile.TarInfo) -> int:
    text = info.pax_headers.get("mtime")
    if text is None:
        return int(info.mtime) * 1_000_000_000
    sign = -1 if text.startswith("-") else 1
    seconds, _, fraction = text.lstrip("-").partition(".")
    return sign * (int(seconds) * 1_000_000_000 + int((fraction + "000000000")[:9]))


@dataclass(frozen=True, slots=True)
class Compared:
    """One member of a tarball or listing, and what is wrong with it ("" when nothing is)."""

    path: str
    wrong: str = ""


def compare_members(archive: BinaryIO, name: str, listing: Iterable[Member]) -> Iterator[Compared]:
    """Read a tarball to its end beside its listing and yield every member with what differs.

    Tarballs of this release hold exactly the header that a listing's line gives, so the header is made again and
    compared as bytes, which costs a quarter of parsing it. Where it is another one, the slow way says what differs.

    Raises:
        ValidationError: the tarball or the listing is damaged.
    """
    expected = (member for member in listing if member.stored)
    done, pending = 0, None
    try:
        with gzip_reader(archive) as stream:
            for pending in expected:
                wrong = _compare_quickly(stream, pending)
                if wrong is None:
                    break
                yield Compared(pending.path, wrong)
                done += 1
            else:
                if _only_zeros(stream):
                    return
                pending = None
    except DAMAGE as error:
        raise _damaged(error, name, shown(pending.path) if pending else "its beginning") from error
    archive.seek(0)
    yield from _compare_slowly(archive, name, done, pending, expected)


OTHER_CONTENT = "the content is not what the listing says"


def _only_zeros(stream: IO[bytes]) -> bool:
    while piece := stream.read(CHUNK):
        if piece.strip(b"\0"):
            return False
    return True


def _compare_quickly(stream: IO[bytes], member: Member) -> str | None:
    """Return "" or what differs; None when the header is not the expected one."""
    expected = header(member)
    begin, end = len(expected), len(expected) + member.size
    padding = -member.size % BLOCK
    if member.size > CHUNK:
        return _compare_content(stream, member, padding) if stream.read(begin) == expected else None
    piece = stream.read(end + padding)
    if not piece.startswith(expected):
        return None
    if len(piece) < end + padding:
        raise EOFError("the archive ends in the middle of a file")
    if member.kind is EntryKind.FOLDER or hashlib.sha256(memoryview(piece)[begin:end]).hexdigest() == member.sha256:
        return ""
    return OTHER_CONTENT


def _compare_content(stream: IO[bytes] | TarContent, member: Member, padding: int = 0) -> str:
    digest = hashlib.sha256()
    left = member.size
    while left and (piece := stream.read(min(left, CHUNK))):
        digest.update(piece)
        left -= len(piece)
    if left or len(stream.read(padding)) != padding:
        raise EOFError("the archive ends in the middle of a file")
    return "" if digest.hexdigest() == member.sha256 else OTHER_CONTENT


def _compare_slowly(
    archive: BinaryIO, name: str, done: int, pending: Member | None, expected: Iterator[Member]
) -> Iterator[Compared]:
    for number, (actual, content) in enumerate(read_members(archive, name)):
        if number < done:
            continue
        wanted = pending or next(expected, None)
        pending = None
        if wanted is None:
            yield Compared(actual.path, "is in the tarball and not in the listing")
        elif wrong := difference(actual, wanted):
            yield Compared(wanted.path, wrong)
        elif content is not None:
            yield Compared(wanted.path, _compare_content(content, wanted))
        else:
            yield Compared(wanted.path)
    for wanted in [pending] if pending else []:
        yield Compared(wanted.path, "is in the listing and not in the tarball")
    for wanted in expected:
        yield Compared(wanted.path, "is in the listing and not in the tarball")


def difference(actual: Member, wanted: Member) -> str:
    """Return what differs between a member of a tarball, its content aside, and its line; "" when nothing does."""
    for field in ("path", "kind", "size", "mtime_ns", "mode"):
        have, want = getattr(actual, field), getattr(wanted, field)
        if have != want:
            return f"{field} is {shown(str(have))} where the listing says {shown(str(want))}"
    if actual.attributes != wanted.attributes:
        names = sorted({keyword for keyword, _ in set(actual.attributes) ^ set(wanted.attributes)})
        return f"attributes differ from the listing's: {shown(', '.join(names))}"
    return ""
