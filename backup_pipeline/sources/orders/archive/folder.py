"""One order's folder: writing the new pair beside the old one, publishing it, reading it, rolling it forward.

Folders are opened step by step without following links, and everything in them is reached from the open folder, so no
path can lead out of the archive. Which order belongs where, and whether it changed, is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

from backup_pipeline.errors import ToolError, ValidationError
from backup_pipeline.sources.orders.format.order import DATA_NAME, DATA_PART, META_NAME, META_PART, OrderMeta
from backup_pipeline.sources.orders.format.pair import PairState, pair_state
from backup_pipeline.sources.orders.format.text import parse_meta
from backup_pipeline.system.files import translate_os_error

# Windows has none of these; there an archive is refused when it is opened, not when this module is imported.
_DIRECTORY, _NO_LINK = getattr(os, "O_DIRECTORY", 0), getattr(os, "O_NOFOLLOW", 0)
_CLOSE, _NO_WAIT = getattr(os, "O_CLOEXEC", 0), getattr(os, "O_NONBLOCK", 0)
_FOLDER = os.O_RDONLY | _DIRECTORY | _NO_LINK | _CLOSE
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | _CLOSE
# Not blocking: a named pipe that lies in the place of a file must not stop the run.
_READ = os.O_RDONLY | _NO_LINK | _CLOSE | _NO_WAIT
# That a file was read is not written down: it would cost more than the reading. Only its owner may ask for that.
_UNMARKED = getattr(os, "O_NOATIME", 0)
_OPEN_PARENTS = 64
MAX_FILE = 1 << 28


class LinkError(ValidationError):
    """A part of the order's path is a symbolic link, which may lead out of the archive."""


class ArchiveTree:
    """An archive's folder, held open, with the parents of order folders held open too (a bounded number)."""

    def __init__(self, archive: Path) -> None:
        self.path = archive
        if os.open not in os.supports_dir_fd:
            raise ToolError(
                "Order archives need a system that can open folders: Linux or macOS.",
                where=str(archive),
                remedy="Run this command there, in WSL or in the container; other kinds of source work here.",
            )
        try:
            self.descriptor = os.open(archive, os.O_RDONLY | _DIRECTORY | _CLOSE)
        except OSError as error:
            raise translate_os_error(error, archive) from error
        self._parents: dict[str, int] = {}

    def close(self) -> None:
        """Close every folder."""
        self.forget()
        os.close(self.descriptor)

    def forget(self) -> None:
        """Close the parents."""
        while self._parents:
            os.close(self._parents.popitem()[1])

    def parent(self, folder: str, *, create: bool) -> tuple[int, str]:
        """Return the open parent of an order's folder and the folder's own name. OSError; LinkError."""
        head, _, name = folder.rpartition("/")
        return self.held(head, create=create), name

    def held(self, path: str, *, create: bool) -> int:
        """Return the open folder at a path (the archive's for ""); it stays open until some others were asked for.

        Raises:
            OSError, LinkError: as in `enter`.
        """
        if not path:
            return self.descriptor
        known = self._parents.get(path)
        if known is None:
            above, name = self.parent(path, create=create)
            known, _ = _enter(above, name, create=create)
            if len(self._parents) >= _OPEN_PARENTS:
                oldest = next(iter(self._parents))
                os.close(self._parents.pop(oldest))
            self._parents[path] = known
        return known

    def enter(self, folder: str, *, create: bool) -> tuple[int, bool]:
        """Open an order's folder; return it and whether it was made now. The caller closes it.

        Raises:
            LinkError: a part of the path is a symbolic link.
            OSError: as the system says; FileNotFoundError when it is absent and not to be made.
        """
        above, name = self.parent(folder, create=create)
        return _enter(above, name, create=create)


def _enter(above: int, name: str, *, create: bool) -> tuple[int, bool]:
    made = False
    if create:
        try:
            os.mkdir(name, dir_fd=above)
            made = True
        except FileExistsError:
            pass
    try:
        return os.open(name, _FOLDER, dir_fd=above), made
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and stat.S_ISLNK(
            os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
        ):
            raise LinkError(f"the folder {name} is a symbolic link and may lead out of the archive.") from None
        raise


def _write(folder: int, name: str, data: bytes, mode: int) -> None:
    try:
        file = os.open(name, _NEW, mode, dir_fd=folder)
    except FileExistsError:
        os.unlink(name, dir_fd=folder)
        file = os.open(name, _NEW, mode, dir_fd=folder)
    try:
        # Not every file system has modes (SMB, FAT).
        with contextlib.suppress(OSError):
            os.fchmod(file, mode)
        if (written := os.write(file, data)) != len(data):
            rest = memoryview(data)[written:]
            while rest:
                rest = rest[os.write(file, rest) :]
    finally:
        os.close(file)


def write_new(folder: int, name: str, data: bytes) -> None:
    """Write a file that does not exist yet and wait until it is on the disk."""
    _write(folder, name, data, 0o666)
    file = os.open(name, _READ, dir_fd=folder)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write_parts(folder: int, data: bytes, meta: bytes, mode: int = 0o666) -> None:
    """Write both new files complete beside their names. What was written is taken away again when that fails."""
    try:
        _write(folder, DATA_PART, data, mode)
        _write(folder, META_PART, meta, mode)
    except OSError:
        remove_parts(folder)
        raise


def remove_parts(folder: int) -> None:
    """Remove both new files, where they are."""
    for name in (DATA_PART, META_PART):
        try:
            os.unlink(name, dir_fd=folder)
        except OSError:
            continue


def sync_parts(folder: int) -> None:
    """Sync both new files one by one, where the whole file system cannot be."""
    for name in (DATA_PART, META_PART):
        file = os.open(name, _READ, dir_fd=folder)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def publish(folder: int) -> str:
    """Rename both new files to their names, data first; return what `seen` will find there."""
    os.rename(DATA_PART, DATA_NAME, src_dir_fd=folder, dst_dir_fd=folder)
    os.rename(META_PART, META_NAME, src_dir_fd=folder, dst_dir_fd=folder)
    return recorded_in(folder)


def recorded_in(folder: int) -> str:
    """Return size, modification and change time of both files as text; equal later means untouched since."""
    data = os.stat(DATA_NAME, dir_fd=folder, follow_symlinks=False)
    meta = os.stat(META_NAME, dir_fd=folder, follow_symlinks=False)
    return f"{data.st_size}.{data.st_mtime_ns}.{data.st_ctime_ns}/{meta.st_size}.{meta.st_mtime_ns}.{meta.st_ctime_ns}"


def recorded_below(parent: int, name: str) -> str | None:
    """Return the same from the open parent; None when one of the files is not there."""
    try:
        data = os.stat(f"{name}/{DATA_NAME}", dir_fd=parent, follow_symlinks=False)
        meta = os.stat(f"{name}/{META_NAME}", dir_fd=parent, follow_symlinks=False)
    except OSError:
        return None
    return f"{data.st_size}.{data.st_mtime_ns}.{data.st_ctime_ns}/{meta.st_size}.{meta.st_mtime_ns}.{meta.st_ctime_ns}"


def _open_to_read(name: str, flags: int, folder: int | None = None) -> int:
    try:
        return os.open(name, flags | _UNMARKED, dir_fd=folder)
    except PermissionError as error:
        if error.errno != errno.EPERM or not _UNMARKED:
            raise
        return os.open(name, flags, dir_fd=folder)


def open_folder(path: str) -> int:
    """Open a folder to list it and to read what is in it; the caller closes it.

    OSError; a link is not followed unless the path ends in a slash.
    """
    return _open_to_read(path, _FOLDER)


def read_file(name: str, folder: int) -> bytes | None:
    """Return a regular file's content, None when there is none.

    Raises:
        ValidationError: a link, a folder, a pipe, or larger than any order can be.
        OSError: as the system says.
    """
    try:
        file = _open_to_read(name, _READ, folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValidationError(f"{name} is a symbolic link.") from None
        raise
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise ValidationError(f"{name} is not a regular file.")
        if found.st_size > MAX_FILE:
            raise ValidationError(f"{name} is larger than {MAX_FILE >> 20} MiB.")
        data = os.read(file, found.st_size + 1)
        while len(data) < found.st_size:
            more = os.read(file, found.st_size - len(data))
            if not more:
                break
            data += more
        return data
    finally:
        os.close(file)


class Pair(NamedTuple):
    """What an order's folder holds: the pair that counts, as `state` says.

    Where there is none, `problem` says why, and `kind` in a word: `missing_file`, `meta`, `checksum`, `first_export`.
    """

    state: PairState
    data: bytes | None
    meta_bytes: bytes | None
    meta: OrderMeta | None
    problem: str = ""
    kind: str = ""


def read_pair(names: set[str], folder: int) -> Pair:
    """Read an order's pair, from parts too where only they complete it.

    Args:
        names: which of the four files are there.
        folder: the open folder.

    Raises:
        OSError, ValidationError: a file cannot be read.
    """
    data = read_file(DATA_NAME, folder) if DATA_NAME in names else None
    meta_bytes = read_file(META_NAME, folder) if META_NAME in names else None
    meta, problem = _meta(meta_bytes)
    if data is not None and meta is not None and hashlib.sha256(data).hexdigest() == meta.checksum:
        return Pair(PairState.VALID, data, meta_bytes, meta)
    data_part, meta_part_bytes = None, None
    if DATA_PART in names or META_PART in names:
        data_part = read_file(DATA_PART, folder)
        meta_part_bytes = read_file(META_PART, folder)
    meta_part, _ = _meta(meta_part_bytes)
    state = pair_state(
        _digest(data),
        meta and meta.checksum,
        _digest(data_part),
        meta_part and meta_part.checksum,
        named=data is not None or meta_bytes is not None,
    )
    if state is PairState.META_PART:
        return Pair(state, data, meta_part_bytes, meta_part)
    if state is PairState.DATA_PART:
        return Pair(state, data_part, meta_bytes, meta)
    if state is PairState.BOTH_PARTS:
        return Pair(state, data_part, meta_part_bytes, meta_part)
    if state is PairState.UNFINISHED:
        problem = "A first export was broken off here before its files were whole; the next export writes them."
        return Pair(state, None, None, None, problem, "first_export")
    kind = "meta"
    if data is None:
        kind, problem = "missing_file", "data.csv is missing."
    elif meta_bytes is None:
        kind, problem = "missing_file", "meta.json is missing."
    elif not problem:
        kind, problem = "checksum", "data.csv is not the one that meta.json's checksum names."
    return Pair(PairState.BROKEN, data, meta_bytes, meta, problem, kind)


def _digest(data: bytes | None) -> str | None:
    return None if data is None else hashlib.sha256(data).hexdigest()


def _meta(data: bytes | None) -> tuple[OrderMeta | None, str]:
    if data is None:
        return None, ""
    try:
        return parse_meta(data), ""
    except ValidationError as error:
        return None, error.what


def roll_forward(folder: int, state: PairState) -> None:
    """Finish an export's renames, as `state` says, and make them durable."""
    if state in (PairState.DATA_PART, PairState.BOTH_PARTS):
        os.rename(DATA_PART, DATA_NAME, src_dir_fd=folder, dst_dir_fd=folder)
    if state in (PairState.META_PART, PairState.BOTH_PARTS):
        os.rename(META_PART, META_NAME, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)
