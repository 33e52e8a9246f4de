"""A folder as a place of objects, on a mounted NAS or a USB disk: files 0600 and folders 0700, synced."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.errors import StoreError
from backup_pipeline.stores.objects.contract import DataView, ObjectInfo
from backup_pipeline.stores.objects.errors import (
    ObjectNotFoundError,
    PlaceFullError,
    PlaceRefusedError,
    PlaceUnreachableError,
)
from backup_pipeline.stores.objects.names import checked_name
from backup_pipeline.stores.objects.options import PlaceOptions
from backup_pipeline.stores.objects.repeating import Repeater
from backup_pipeline.stores.objects.unlocked import UnlockedPlace
from backup_pipeline.system.file_system import sync_file_system
from backup_pipeline.system.files import open_ordinary, read_ordinary, write_whole

_INCOMING = ".incoming"
_IS_INCOMING = re.compile(r"[0-9a-f]{24}(-link)?")
_LARGEST_OBJECT = 2 << 30
"""No vault writes a larger one; what else stands in a name's place is not read into memory."""
_MANY = "chunks/"
"""Objects of which there are many, and which count only when an object elsewhere names them."""
_SYNCED_ONE_BY_ONE = 8
_LEFTOVER_SECONDS = 24 * 3600
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
# What NFS and SMB say of a server that is away for a while.
_AWAY = {errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN, errno.EAGAIN}
_NO_ORDINARY_FILE = {errno.ELOOP, errno.EINVAL, errno.ENXIO}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class FolderPlace(UnlockedPlace):
    """Objects as files below a folder.

    `create` links a synced file to its name, which no file system does when the name is taken. Where there are no hard
    links (FAT, exFAT, some SMB shares) a lock file stands in, which other machines may not see: `conditional_create`
    is False there.
    """

    no_lock = (
        "A folder cannot lock objects against deletion.",
        "Remove lock_days, or use a bucket with Object Lock.",
    )
    no_bucket_lock = "A folder cannot lock objects: whoever may write may also delete."

    def __init__(self, root: Path, options: PlaceOptions | None = None) -> None:
        self._root = root
        self._many = f"{root / _MANY}/"
        self._repeater = Repeater((options or PlaceOptions()).limits)
        self._links: bool | None = None
        self._guard = threading.Lock()
        self._unsynced: set[Path] = set()
        self._check_root()
        self._remove_leftovers()

    @property
    def label(self) -> str:
        """The folder's path as a URL."""
        return f"file://{self._root}"

    @property
    def conditional_create(self) -> bool:
        """Whether the file system has hard links; tried once."""
        if self._links is None:
            try:
                self._links = self._try_links()
            except StoreError:
                return True  # Nothing can be written at all, and every attempt says why.
        return self._links

    def create(self, name: str, data: DataView, *, lock_until: datetime | None = None) -> bool:
        """Write a file unless its name is taken."""
        path = self._path(name)
        return self._repeater.run(lambda attempt: self._create(path, data, attempt))

    def put(self, name: str, data: DataView, *, lock_until: datetime | None = None) -> None:
        """Write a file aside and rename it to its name."""
        path = self._path(name)

        def write(_: int) -> None:
            with self._translated(name), self._written(data) as incoming:
                self._settle(path)
                self._make_parents(path)
                incoming.replace(path)
                self._sync(path)

        self._repeater.run(write)

    def get(self, name: str) -> bytes:
        """Read a whole file."""
        path = self._path(name)

        def read(_: int) -> bytes:
            with self._translated(name):
                return _content(path)

        return self._repeater.run(read)

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Read a part of a file."""
        path = self._path(name)

        def read(_: int) -> bytes:
            with self._translated(name), open_ordinary(path) as file:
                file.seek(start)
                return file.read(min(length, max(0, os.fstat(file.fileno()).st_size - start)))

        return self._repeater.run(read)

    def info(self, name: str) -> ObjectInfo | None:
        """Return a file's size and time."""
        path = self._path(name)

        def information(_: int) -> ObjectInfo | None:
            try:
                with self._translated(name):
                    status = path.stat(follow_symlinks=False)
            except ObjectNotFoundError:
                return None
            return _info(name, status) if stat.S_ISREG(status.st_mode) else None

        return self._repeater.run(information)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Walk the folders that names with this prefix can stand in."""
        self._check_root()
        top = prefix.rpartition("/")[0]
        yield from self._walk(f"{top}/" if top else "", prefix)

    def delete(self, name: str) -> None:
        """Remove a file."""
        path = self._path(name)

        def remove(_: int) -> None:
            with contextlib.suppress(ObjectNotFoundError), self._translated(name):
                path.unlink()
                _sync_folder(path.parent)

        self._repeater.run(remove)

    def server_time(self) -> datetime | None:
        """Return the time that the file system gives to a new file: a NAS gives its own."""
        try:
            with self._translated(_INCOMING), self._written(b"", sync=False) as incoming:
                return datetime.fromtimestamp(incoming.stat().st_mtime, UTC)
        except StoreError:
            return None

    def close(self) -> None:
        """End pauses; nothing else is open."""
        self._repeater.close()

    def _path(self, name: str) -> Path:
        """Return where an object lies; a link in the place of a folder would lead out of the vault."""
        parts = checked_name(name).split("/")
        for count in range(1, len(parts)):
            self._refuse_link("/".join(parts[:count]))
        return self._root / name

    def _refuse_link(self, folder: str) -> None:
        # Without Python's paths, which cost more than the question: each object asks twice.
        if os.path.islink(f"{self._root}/{folder}"):  # noqa: PTH114
            raise PlaceRefusedError(
                "A link stands in the place of a folder of the vault.",
                where=f"{self.label}/{folder.rpartition('/')[2]}",
                remedy="Find out who writes there, and put the folder back.",
            )

    def _create(self, path: Path, data: DataView, attempt: int) -> bool:
        name = path.relative_to(self._root).as_posix()
        with self._translated(name):
            if os.path.lexists(path):
                return attempt > 1 and _content(path) == data
            with self._written(data) as incoming:
                self._settle(path)
                try:
                    created = self._link_below(incoming, path)
                except FileExistsError:
                    return False
                self._sync(path)
                return created

    def _link_below(self, incoming: Path, path: Path) -> bool:
        """Link as `_link` does, in folders that are made where they are missing; asking each time would cost more."""
        try:
            return self._link(incoming, path)
        except FileNotFoundError:
            self._make_parents(path)
            return self._link(incoming, path)

    def _link(self, incoming: Path, path: Path) -> bool:
        if self._links is not False:
            try:
                path.hardlink_to(incoming)
            except OSError as error:
                if error.errno not in _NO_LINKS or self._try_links():
                    raise
                self._links = False
            else:
                return True
        with _opened_lock(self._root / _INCOMING / "lock") as lock:
            import fcntl  # of POSIX only

            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.lexists(path):
                return False
            incoming.replace(path)
            return True

    def _try_links(self) -> bool:
        with self._translated(_INCOMING), self._written(b"") as first:
            second = first.with_name(f"{first.name}-link")
            try:
                second.hardlink_to(first)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return False
            second.unlink()
            return True

    @contextlib.contextmanager
    def _written(self, data: DataView, *, sync: bool = True) -> Iterator[Path]:
        """Give a synced file with these bytes; removed when left, unless it was renamed."""
        self._refuse_link(_INCOMING)
        path = self._root / _INCOMING / secrets.token_hex(12)
        try:
            descriptor = _new_file(path)
            try:
                write_whole(descriptor, data)
                if sync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            yield path
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _make_parents(self, path: Path) -> None:
        if not path.parent.is_dir():
            for parent in reversed(path.relative_to(self._root).parents):
                folder = self._root / parent
                if not folder.is_dir():
                    folder.mkdir(mode=0o700, exist_ok=True)
                    self._sync(folder)

    def _sync(self, path: Path) -> None:
        """Make the entry of a new file or folder durable; entries of many objects wait for `_settle`."""
        if self._is_one_of_many(path):
            with self._guard:
                self._unsynced.add(path.parent)
        else:
            _sync_folder(path.parent)

    def _settle(self, path: Path) -> None:
        """Make waiting entries durable before another object is written; the files themselves are already."""
        if self._is_one_of_many(path):
            return
        with self._guard:
            waiting, self._unsynced = self._unsynced, set()
        if len(waiting) > _SYNCED_ONE_BY_ONE and _sync_all(self._root):
            return
        for folder in waiting:
            with contextlib.suppress(FileNotFoundError):
                _sync_folder(folder)

    def _is_one_of_many(self, path: Path) -> bool:
        return os.fspath(path).startswith(self._many)

    def _walk(self, folder: str, prefix: str) -> Iterator[ObjectInfo]:
        for entry in self._entries(folder):
            name = folder + entry.name
            if entry.is_dir(follow_symlinks=False):
                if f"{name}/".startswith(prefix) or prefix.startswith(f"{name}/"):
                    yield from self._walk(f"{name}/", prefix)
            elif name.startswith(prefix) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    yield _info(name, entry.stat(follow_symlinks=False))

    def _entries(self, folder: str) -> tuple[os.DirEntry[str], ...]:
        """Return a folder's visible entries in the order of the names below them; none when it does not exist."""

        def read(_: int) -> tuple[os.DirEntry[str], ...]:
            if folder:
                self._refuse_link(folder.rstrip("/"))
            with self._translated(folder), os.scandir(self._root / folder) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".")]
            return tuple(sorted(visible, key=_order))

        with contextlib.suppress(ObjectNotFoundError):
            return self._repeater.run(read)
        return ()

    @contextlib.contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._error(error, name) from error

    def _error(self, error: OSError, name: str) -> StoreError:
        where = f"{self.label}/{name}"
        if error.errno in _NO_SPACE:
            return PlaceFullError(
                "No space is left.", where=where, remedy="Make room there, or let `vault clean` remove old copies."
            )
        if error.errno in _REFUSED:
            read_only = error.errno == errno.EROFS
            return PlaceRefusedError(
                "The file system is read-only." if read_only else "The permissions do not allow it.",
                where=where,
                remedy="Mount it for writing." if read_only else "Give this user the right to read and write there.",
            )
        if error.errno in _AWAY:
            return PlaceUnreachableError(
                f"The file system does not answer ({os.strerror(error.errno or 0)}).",
                where=where,
                remedy="Check whether the disk or the server of this mount is there.",
            )
        if error.errno in _NO_ORDINARY_FILE:
            return ObjectNotFoundError("What stands there is a link or a device, no object.", where=where)
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
            self._check_root()
            return ObjectNotFoundError("There is no object of this name.", where=where)
        return StoreError(f"The file system says: {os.strerror(error.errno or 0)}.", where=where)

    def _check_root(self) -> None:
        """Raise PlaceRefusedError when the folder is gone.

        It is never made here: the copies for a disk that is not mounted would land on the machine's own.
        """
        try:
            if self._root.is_dir():
                return
            what = "This is not a folder." if self._root.exists() else "There is no such folder."
        except PermissionError:
            what = "The permissions do not allow to enter this folder."
        raise PlaceRefusedError(what, where=self.label, remedy="Mount the disk, or make the folder (mode 0700).")

    def _remove_leftovers(self) -> None:
        """Remove what killed writers left, a day later."""
        folder = self._root / _INCOMING
        if folder.is_symlink():
            return  # Whoever can write to the place could have anything removed here; the first writing refuses it.
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                age = time.time() - path.stat(follow_symlinks=False).st_mtime
                if _IS_INCOMING.fullmatch(path.name) and age > _LEFTOVER_SECONDS:
                    path.unlink()


def _content(path: Path) -> bytes:
    try:
        return read_ordinary(path, at_most=_LARGEST_OBJECT)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ObjectNotFoundError(f"What stands there is no object: {error.strerror}.", where=str(path)) from error
        raise


def _opened_lock(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    return os.fdopen(os.open(path, flags, 0o600), "ab")


def _order(entry: os.DirEntry[str]) -> bytes:
    return os.fsencode(entry.name) + b"/" * entry.is_dir(follow_symlinks=False)


def _new_file(path: Path) -> int:
    """Open a file that is not there yet for writing, in a folder that is made where it is missing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        return os.open(path, flags, 0o600)


def _info(name: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(name, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))


def _sync_all(root: Path) -> bool:
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return sync_file_system(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems have no sync of folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
