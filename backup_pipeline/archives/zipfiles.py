"""ZIP archives of a commit's files: written from a stream of contents, read back and compared. No git here.

Modes stand in each entry's external attributes (as git and Info-ZIP write them); a symbolic link is an entry of type
link whose content is its target. The archive's comment is the commit. An entry's time is its file's own, not the
commit's, so that what is unchanged becomes the same bytes again.
"""

from __future__ import annotations

import hashlib
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import IO, Any, BinaryIO

from backup_pipeline.errors import ValidationError

CHUNK = 1 << 20
_FIRST, _LAST = (1980, 1, 1, 0, 0, 0), (2107, 12, 31, 23, 59, 58)
DAMAGE: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)
"""What reading a damaged ZIP raises."""


class ZipWriter:
    """Writes files to a ZIP on a sink that cannot seek; use as a context manager."""

    def __init__(self, sink: Any, *, comment: str) -> None:
        self._zip = zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, allowZip64=True)
        self._zip.comment = comment.encode()

    def __enter__(self) -> ZipWriter:
        return self

    def __exit__(self, *raised: Any) -> None:
        self._zip.close()

    def add(self, path: str, mode: int, size: int, pieces: Iterable[bytes], *, changed: datetime | None) -> bytes:
        """Add a file; `mode` with its file type. Returns the first bytes of its content (up to 200).

        Where nobody knows when it was changed (`changed` is None), the entry has the first time that a ZIP can hold.
        """
        # DOS times run from 1980 to 2107 and have no zone: UTC is meant.
        time = changed.astimezone(UTC).timetuple()[:6] if changed else _FIRST
        info = zipfile.ZipInfo(zip_name(path), min(max(time, _FIRST), _LAST))
        info.compress_type = zipfile.ZIP_DEFLATED
        info.create_system = 3
        info.external_attr = mode << 16
        info.file_size = size
        start = b""
        with self._zip.open(info, "w", force_zip64=size >= 1 << 31) as out:
            for piece in pieces:
                start = start or piece[:200]
                out.write(piece)
        return start


def zip_name(path: str) -> str:
    """Return the name under which a path stands in a ZIP, whose names are UTF-8: other bytes as `\\xff`."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class ZipContent:
    """The content of one entry; its CRC is compared when it is read to its end. Damage is a ValidationError."""

    def __init__(self, content: IO[bytes], name: str, entry: str) -> None:
        self._content = content
        self._name = name
        self._entry = entry

    def read(self, size: int = CHUNK) -> bytes:
        """Return up to `size` bytes, nothing at the end."""
        try:
            return self._content.read(size)
        except DAMAGE as error:
            raise _damaged(error, self._name, self._entry) from error


def _damaged(error: Exception, name: str, entry: str) -> ValidationError:
    return ValidationError(f"Damaged at {entry}: {error}.", where=name, remedy="Use another set.")


def zip_directory(archive: BinaryIO, name: str) -> list[zipfile.ZipInfo]:
    """Return a ZIP's entries without reading their content; ValidationError when it is no ZIP."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.infolist()
    except DAMAGE as error:
        raise _damaged(error, name, "its directory") from error


def read_entries(archive: BinaryIO, name: str, only: str = "") -> Iterator[tuple[zipfile.ZipInfo, ZipContent]]:
    """Yield every entry with its content; `only` the one of that name.

    Raises:
        ValidationError: the ZIP is damaged; names `name` and the entry.
    """
    entry = "its directory"
    try:
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                entry = info.filename
                if only and entry != only:
                    continue
                with opened.open(info) as content:
                    yield info, ZipContent(content, name, entry)
    except DAMAGE as error:
        raise _damaged(error, name, entry) from error


def archive_comment(archive: BinaryIO, name: str) -> str:
    """Return a ZIP's comment; ValidationError when it is no ZIP."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.comment.decode("utf-8", "replace")
    except DAMAGE as error:
        raise ValidationError(f"Not a readable ZIP: {error}.", where=name, remedy="Use another set.") from error


def entry_mode(info: zipfile.ZipInfo) -> int:
    """Return the mode with file type of an entry; a plain file's where it has none."""
    return info.external_attr >> 16 or stat.S_IFREG | 0o644


def git_blob_id(content: ZipContent, size: int, *, algorithm: str = "sha1") -> str:
    """Return the object id that git gives a file's content (its header and content hashed).

    Source: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects.
    """
    digest = hashlib.new(algorithm, b"blob %d\0" % size, usedforsecurity=False)
    while piece := content.read(CHUNK):
        digest.update(piece)
    return digest.hexdigest()
