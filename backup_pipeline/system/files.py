"""Files written beside their final name, synced and renamed; whole-file digests. No formats here."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from backup_pipeline.errors import StoreError
from backup_pipeline.system import limits

PART_SUFFIX = ".part"
CHUNK = 1 << 20
_WRITE_BACK = 8 << 20


def translate_os_error(error: OSError, path: Path) -> StoreError:
    """Return the family's error for an operating system's error at `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError("The disk is full.", where=str(path), remedy="Free space or move the store, then run again.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreError(
            f"No permission ({error.strerror}).", where=str(path), remedy="Give this user the right to it."
        )
    if error.errno == errno.ELOOP:
        return StoreError(
            "A link stands in its place, and what it shows may change at any time.",
            where=str(path),
            remedy="Find out who put it there and why, then remove the link.",
        )
    if error.errno == errno.ENAMETOOLONG:
        return StoreError(
            "The path is longer than the system allows.",
            where=f"{str(path)[:200]}…",
            remedy="Choose a place with a shorter path.",
        )
    return StoreError(
        f"{error.strerror or error}.", where=str(path), remedy="Check the disk and the path, then run again."
    )


def user_name(number: int | None = None) -> str:
    """Return the name of a user of this machine, `user 1234` where it has none; of the one who runs this by default."""
    try:
        import pwd

        number = os.geteuid() if number is None else number
        return pwd.getpwuid(number).pw_name
    except (ImportError, KeyError):
        return "this user" if number is None else f"user {number}"


def make_folders(folder: Path, mode: int) -> None:
    """Make a folder and those above it that are missing, all with this mode (`mkdir` gives it to the last one alone).

    Raises:
        StoreError: one cannot be made.
    """
    if not folder.parent.exists():
        make_folders(folder.parent, mode)
    try:
        make_folder(folder, mode)
    except OSError as error:
        raise translate_os_error(error, folder) from error


def make_folder(folder: Path, mode: int, *, exist_ok: bool = True) -> None:
    """Make one folder with exactly this mode, which the process's umask would narrow; one that is there is left alone.

    Raises:
        OSError: as the system says; FileExistsError only without `exist_ok`.
    """
    try:
        folder.mkdir(mode=mode)
    except FileExistsError:
        if not exist_ok or not folder.is_dir():
            raise
        return
    give_mode(folder, mode)


def give_mode(path: Path, mode: int) -> None:
    """Give a file or folder that was just made its mode; where the file system has none, nothing happens."""
    with contextlib.suppress(OSError):
        path.chmod(mode)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` durable, where the platform lets folders be synced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync folders; the rename itself has happened.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


class AtomicFile(io.RawIOBase):
    """A binary file that appears under its name complete and durable, or not at all.

    `shared` names the part so that several processes can write the same file at once; the last one's stays. With
    `name_later` the caller makes the names of many files durable at once, by `sync_folder`, before they count.
    Written as `.<name>.part` (`.<name>.<tag>.part`) with `mode`, hashed (SHA-256) as it is written. Leaving the `with`
    block without an exception syncs and renames; leaving it with one removes the part. `size` and `sha256` are those of
    what was written. `allowed` is called right before the rename, which its exception prevents.
    """

    def __init__(
        self,
        path: Path,
        *,
        mode: int = 0o600,
        shared: bool = False,
        name_later: bool = False,
        tag: str = "",
        allowed: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self.path = path
        self._name_later = name_later
        self._allowed = allowed
        tag = tag or (uuid.uuid4().hex[:8] if shared else "")
        own = f".{tag}" if tag else ""
        self._part = path.with_name(f".{path.name}{own}{PART_SUFFIX}")
        self._digest = hashlib.sha256()
        self.size = 0
        self._on_its_way = 0
        self._done = False
        if path.exists() and not (path.is_file() or path.is_dir()):
            # The rename would put a file in the place of a device, for everybody on this machine.
            self._done = True
            raise StoreError("Not an ordinary file.", where=str(path), remedy="Name a file.")
        try:
            descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        except OSError as error:
            self._done = True
            raise translate_os_error(error, path) from error
        with contextlib.suppress(OSError, AttributeError):
            os.fchmod(descriptor, mode)  # the umask would narrow it; Windows has no such call
        self._file = os.fdopen(descriptor, "wb", buffering=0)

    @property
    def sha256(self) -> str:
        """SHA-256 in hex of everything written so far."""
        return self._digest.hexdigest()

    def writable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self.size

    def write(self, data: object, /) -> int:
        """Write and hash all of `data` (any buffer); StoreError when the disk refuses."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        rest = view
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            raise translate_os_error(error, self.path) from error
        self._digest.update(view)
        self.size += len(view)
        if self.size - self._on_its_way >= _WRITE_BACK:
            self._write_back()
        limits.progressed()
        return len(view)

    def _write_back(self) -> None:
        """Send what was written on its way to the disk without waiting, so that the sync at the end finds little left.

        Linux writes what this advice covers; pages that are still being written stay in memory for who reads them next.
        """
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                length = self.size - self._on_its_way
                os.posix_fadvise(self._file.fileno(), self._on_its_way, length, os.POSIX_FADV_DONTNEED)
        self._on_its_way = self.size

    def commit(self) -> None:
        """Sync, rename to the final name and sync the folder (unless that is done later)."""
        if self._done:
            return
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            if self._allowed is not None:
                self._allowed()
            self._part.replace(self.path)
            if not self._name_later:
                sync_folder(self.path.parent)
        except OSError as error:
            raise translate_os_error(error, self.path) from error
        self._done = True
        super().close()

    def abort(self) -> None:
        """Remove what was written; nothing appears under the final name."""
        if self._done:
            return
        self._done = True
        self._file.close()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)
        super().close()

    def close(self) -> None:
        """Do nothing: a foreign writer that closes its sink must not decide between commit and abort."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
            return
        try:
            self.commit()
        except BaseException:
            self.abort()
            raise


def write_atomically(
    path: Path,
    data: bytes,
    *,
    mode: int = 0o600,
    name_later: bool = False,
    allowed: Callable[[], None] | None = None,
) -> None:
    """Write `data` to `path`, durable and complete or not at all; `name_later` and `allowed` as of AtomicFile."""
    with AtomicFile(path, mode=mode, shared=True, name_later=name_later, allowed=allowed) as file:
        file.write(data)


def write_for_this_boot(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write `data` to `path`, complete or not at all; no disk is waited for: after a machine crash it may be empty.

    Raises:
        StoreError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART_SUFFIX}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
        give_mode(part, mode)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise translate_os_error(error, path) from error


_NO_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)


def _opener(name: str, flags: int) -> int:
    return os.open(name, flags | _NO_WAITING)


def open_ordinary(path: Path | str) -> BinaryIO:
    """Open a file for reading; a pipe or a device in its place must not keep anybody waiting, a link lead elsewhere.

    Raises:
        OSError: as the system says; EINVAL where it is no ordinary file, ELOOP where it is a link.
    """
    file = open(path, "rb", opener=_opener)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "It is no ordinary file", str(path))
    return file


def read_beginning(path: str, buffer: memoryview) -> int:
    """Fill a buffer with what an ordinary file begins with, by three calls of the system; returns the bytes read.

    For very many small files: opening one as a Python stream takes several times as long.

    Raises:
        OSError: as in `open_ordinary`.
    """
    descriptor = os.open(path, os.O_RDONLY | _NO_WAITING)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "It is no ordinary file", path)
        return os.readv(descriptor, [buffer])
    finally:
        os.close(descriptor)


LARGEST_DOCUMENT = 256 << 20
"""Bytes that a document (a manifest of 50,000 tables) has at most: what is larger is not read into memory."""


def read_ordinary(path: Path, *, at_most: int = LARGEST_DOCUMENT) -> bytes:
    """Return a file's content. OSError: as in `open_ordinary`, and EFBIG where it has more than `at_most` bytes."""
    with open_ordinary(path) as file:
        # Asked for no more than is there: memory for `at_most` would be mapped anew for each file.
        data = file.read(size + 1) if (size := os.fstat(file.fileno()).st_size) <= at_most else b""
        if len(data) > size:  # It has grown, or does not say its size.
            data += file.read(at_most + 1 - len(data))
    if size > at_most or len(data) > at_most:
        raise OSError(errno.EFBIG, f"It has {size / 1e6:,.0f} MB, more than a document can have", str(path))
    return data


def append_line(path: Path, line: str, *, mode: int = 0o600) -> None:
    """Append a line to a log, made with `mode` where there is none.

    Raises:
        OSError: as the system says; EINVAL or ELOOP where a link, a pipe or a device stands in its place, or a file
            that has another name elsewhere, too.
    """
    flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
            give_mode(path, mode)
        except FileExistsError:
            descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise OSError(errno.EINVAL, "It is no ordinary file", str(path))
        write_whole(descriptor, line.encode())
    finally:
        os.close(descriptor)


def write_whole(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data` where a stream of Python's would take several more calls of the system."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def make_folder_in(parent: Path, name: str, mode: int) -> Path:
    """Return a folder of ours in `parent`, made with `mode` where it is missing.

    Raises:
        StoreError: it cannot be made, or a link or a file stands in its place.
    """
    folder = parent / name
    make_folders(folder, mode)
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise translate_os_error(OSError(errno.ELOOP, ""), folder)
    return folder


def read_chunks(file: BinaryIO, size: int = CHUNK) -> Iterator[bytes]:
    """Yield what `file` holds, in pieces of up to `size` bytes."""
    while chunk := file.read(size):
        limits.progressed()
        yield chunk


def sha256_of(file: BinaryIO) -> tuple[int, str]:
    """Return the number of bytes and the SHA-256 in hex of what is left in `file`."""
    digest = hashlib.sha256()
    size = 0
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        digest.update(view[:count])
        size += count
        limits.progressed()
    return size, digest.hexdigest()
