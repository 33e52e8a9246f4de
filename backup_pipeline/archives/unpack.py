"""Unpacking tarballs and ZIPs into a fresh folder, trusting nothing that stands in them.

Only plain files and folders come out: no links, no devices, no path that is absolute or has `..`, no file twice,
nothing beyond the given limits; set-user-id and set-group-id bits of a file only together with the owner and group that
they were meant for. What this user or the file system cannot set is reported by name, not an error. Each file is made
exclusively, in a folder of mode 0700 that did not exist before, so that no name can lead out of it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.archives.file_attributes import clear_acls, write_attributes
from backup_pipeline.archives.tarball import CHUNK, EntryKind, Member, State, shown
from backup_pipeline.archives.tarball_reader import TarContent, read_members
from backup_pipeline.archives.zipfiles import DAMAGE, entry_mode
from backup_pipeline.errors import ValidationError
from backup_pipeline.system.files import translate_os_error, write_whole

_MODE_BITS = 0o7777
_HOLE = 64 << 10
"""Zeros of a file that had holes become holes again in pieces of this size."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What may come out of an archive at most; `only` these paths, all when it is None."""

    members: int
    bytes: int
    only: frozenset[str] | None = None


@dataclass(slots=True)
class Unpacked:
    """What came out. `links` are symbolic links of a ZIP, written as files that hold their target, as git does.

    Attributes:
        lost: what could not be set → paths: "owner", "mode", or an attribute's name.
    """

    files: int = 0
    bytes: int = 0
    links: list[str] = field(default_factory=list)
    lost: dict[str, list[str]] = field(default_factory=dict)

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each thing that could not be set, with up to three of the paths."""
        names = {"owner": "owner or group", "mode": "mode"}
        return tuple(
            f"{names.get(what, what)} of {len(paths)} files or folders could not be set: "
            + ", ".join(map(shown, paths[:3]))
            + (", …" if len(paths) > 3 else "")
            for what, paths in sorted(self.lost.items())
        )


def _refuse(name: str, path: str, why: str) -> ValidationError:
    return ValidationError(f"{shown(path)} {why}; nothing was put in place.", where=name, remedy="Use another set.")


def safe_parts(path: str, name: str) -> tuple[str, ...]:
    """Return the components of a path in an archive; ValidationError when it could lead out of the folder."""
    parts = tuple(path.split("/"))
    if path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise _refuse(name, path, "is not a plain relative path")
    if os.name == "nt" and ("\\" in path or ":" in path):
        raise _refuse(name, path, "is not a plain relative path")
    return parts


class _Folder:
    """A fresh folder that files are made in."""

    def __init__(self, place: Path, name: str) -> None:
        self._place = place
        self._name = name
        self._finish: list[tuple[Path, Member]] = []
        place.mkdir(mode=0o700, parents=False, exist_ok=False)
        clear_acls(place)

    def path(self, parts: tuple[str, ...]) -> Path:
        return self._place.joinpath(*parts)

    def make_folder(self, parts: tuple[str, ...], member: Member | None = None) -> None:
        for depth in range(1, len(parts) + 1):
            with contextlib.suppress(FileExistsError):
                self.path(parts[:depth]).mkdir(mode=0o700)
        if not stat.S_ISDIR(self.path(parts).lstat().st_mode):
            raise _refuse(self._name, "/".join(parts), "is a file and a folder")
        if member is not None:
            self._finish.append((self.path(parts), member))

    @contextlib.contextmanager
    def make_file(self, parts: tuple[str, ...]) -> Iterator[int]:
        place = self.path(parts)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            try:
                descriptor = os.open(place, flags, 0o600)
            except FileNotFoundError:
                self.make_folder(parts[:-1])
                descriptor = os.open(place, flags, 0o600)
        except FileExistsError as error:
            raise _refuse(self._name, "/".join(parts), "occurs twice (or differs only in case)") from error
        except NotADirectoryError as error:
            raise _refuse(self._name, "/".join(parts), "lies in a file") from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def finish(self, done: Unpacked, *, owners: bool) -> None:
        """Give the folders their modes and times, the deepest first."""
        for place, member in reversed(self._finish):
            _take_attributes(place, member, done, owners=owners)
            os.utime(place, ns=(member.mtime_ns, member.mtime_ns))


def _take_attributes(place: int | Path, member: Member, done: Unpacked, *, owners: bool) -> None:
    """Set owner, mode and attributes as far as this user and the file system can; note in `done` what cannot be set."""

    def lost(what: str) -> None:
        done.lost.setdefault(what, []).append(member.path)

    if os.name != "posix":
        return
    for user, group in ((member.uid, -1), (-1, member.gid)) if owners else ():
        with contextlib.suppress(PermissionError):
            os.chown(place, user, group)
    status = _status(place)
    same_user, same_group = status.st_uid == member.uid, status.st_gid == member.gid
    if not (same_user and same_group):
        lost("owner")
    mode = member.mode & _MODE_BITS
    if member.kind is EntryKind.FILE:
        # With another owner it would lend the rights of somebody who has never said so.
        mode &= ~((0 if same_user else stat.S_ISUID) | (0 if same_group else stat.S_ISGID))
    with contextlib.suppress(PermissionError):
        os.chmod(place, mode)  # noqa: PTH101 - an open file too
    for name in write_attributes(place, member.attributes):
        lost(name)
    if stat.S_IMODE(_status(place).st_mode) != member.mode & _MODE_BITS:
        lost("mode")


def _status(place: int | Path) -> os.stat_result:
    return os.fstat(place) if isinstance(place, int) else place.lstat()


def unpack_tarball(
    archive: BinaryIO,
    name: str,
    listing: Iterable[Member],
    into: Path,
    limits: Limits,
    *,
    owners: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Unpacked:
    """Unpack a tarball beside its listing into `into`, which must not exist yet.

    Every member must be the listing's next one and have its content; sizes, times, modes and attributes are set, and
    holes are holes again. Copies that a later one supersedes are skipped.

    Args:
        archive: the tarball.
        name: its name, for errors.
        listing: its listing.
        into: the new folder.
        limits: what may come out at most.
        owners: also set owner and group (root may, others their own groups).
        progress: receives the bytes so far.

    Raises:
        ValidationError: a member is not what the listing says, is unsafe, or goes beyond the limits.
        StoreError: the disk refused.
    """
    done = Unpacked()
    expected = (member for member in listing if member.stored)
    count = 0
    try:
        folder = _Folder(into, name)
        for actual, content in read_members(archive, name):
            count += 1
            wanted = next(expected, None)
            _check_member(actual, wanted, name)
            assert wanted is not None
            if count > limits.members or done.bytes + wanted.size > limits.bytes:
                raise _refuse(name, wanted.path, "goes beyond what the record says")
            parts = safe_parts(wanted.path, name)
            if limits.only is not None and wanted.path not in limits.only:
                continue
            if wanted.kind is EntryKind.FOLDER:
                folder.make_folder(parts, wanted)
            elif wanted.state is not State.SUPERSEDED and content is not None:
                _write_member(folder, parts, wanted, content, name, done, owners=owners)
                done.files += 1
                done.bytes += wanted.size
                progress(done.bytes)
        if (missing := next(expected, None)) is not None:
            raise _refuse(name, missing.path, "is in the listing and not in the tarball")
        folder.finish(done, owners=owners)
    except OSError as error:
        raise translate_os_error(error, into) from error
    return done


def _check_member(actual: Member, wanted: Member | None, name: str) -> None:
    if actual.kind not in (EntryKind.FILE, EntryKind.FOLDER):
        raise _refuse(name, actual.path, "is a link or a device")
    safe_parts(actual.path, name)
    if wanted is None or (actual.path, actual.kind, actual.size) != (wanted.path, wanted.kind, wanted.size):
        raise _refuse(name, actual.path, "is not what the listing says")


def _write_member(
    folder: _Folder,
    parts: tuple[str, ...],
    member: Member,
    content: TarContent,
    name: str,
    done: Unpacked,
    *,
    owners: bool,
) -> None:
    digest = hashlib.sha256()
    write = _write_with_holes if member.sparse else write_whole
    with folder.make_file(parts) as descriptor:
        while piece := content.read(CHUNK):
            digest.update(piece)
            write(descriptor, piece)
        if member.sparse:
            os.ftruncate(descriptor, member.size)
        if digest.hexdigest() != member.sha256:
            raise _refuse(name, member.path, "has not the content that the listing says")
        _take_attributes(descriptor if os.chmod in os.supports_fd else folder.path(parts), member, done, owners=owners)
    os.utime(folder.path(parts), ns=(member.mtime_ns, member.mtime_ns))


def _write_with_holes(descriptor: int, data: bytes) -> None:
    for begin in range(0, len(data), _HOLE):
        piece = data[begin : begin + _HOLE]
        if piece.strip(b"\0"):
            write_whole(descriptor, piece)
        else:
            os.lseek(descriptor, len(piece), os.SEEK_CUR)


def unpack_zip(archive: BinaryIO, name: str, into: Path, limits: Limits) -> Unpacked:
    """Unpack the ZIP of a commit into `into`, which must not exist yet.

    Raises:
        ValidationError: damaged, unsafe, or beyond the limits.
        StoreError: the disk refused.
    """
    done = Unpacked()
    entry = "its directory"
    try:
        with zipfile.ZipFile(archive) as opened:
            infos = opened.infolist()
            if len(infos) > limits.members or sum(info.file_size for info in infos) > limits.bytes:
                raise ValidationError("More comes out than the record says.", where=name, remedy="Use another set.")
            folder = _Folder(into, name)
            for info in infos:
                entry = info.filename
                _unpack_entry(opened, info, folder, name, done)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST):
            raise translate_os_error(error, into) from error
        raise ValidationError(f"Damaged at {shown(entry)}: {error}.", where=name, remedy="Use another set.") from error
    except DAMAGE as error:
        raise ValidationError(f"Damaged at {shown(entry)}: {error}.", where=name, remedy="Use another set.") from error
    return done


def _unpack_entry(opened: zipfile.ZipFile, info: zipfile.ZipInfo, folder: _Folder, name: str, done: Unpacked) -> None:
    path = info.filename.removesuffix("/")
    parts = safe_parts(path, name)
    if any(part.casefold() == ".git" for part in parts):
        # git would run what its configuration and hooks name.
        raise _refuse(name, path, "would be part of a repository's own folder")
    mode = entry_mode(info)
    if info.is_dir():
        folder.make_folder(parts)
        return
    if stat.S_ISLNK(mode):
        done.links.append(path)
        mode = 0o644
    elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise _refuse(name, path, "is not a file")
    left = info.file_size
    with opened.open(info) as content, folder.make_file(parts) as descriptor:
        while piece := content.read(CHUNK):
            left -= len(piece)
            if left < 0:
                raise _refuse(name, path, "is longer than it says")
            write_whole(descriptor, piece)
        if hasattr(os, "fchmod"):
            os.fchmod(descriptor, 0o755 if mode & 0o100 else 0o644)
    done.files += 1
    done.bytes += info.file_size
