"""Making many files durable at once, where the platform can: one call for a file system instead of one per file."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
from collections.abc import Callable


@functools.cache
def _syncfs() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        call = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None
    call.argtypes = [ctypes.c_int]
    call.restype = ctypes.c_int
    return call


def sync_file_system(descriptor: int) -> bool:
    """Write everything that the file system of an open file or folder still holds in memory to the disk.

    Uses syncfs(2) (Linux 5.8 or newer reports failed writes). What other programs wrote there is flushed with it.

    Returns:
        False where the platform has no such call: sync each file instead.

    Raises:
        OSError: the disk refused.
    """
    call = _syncfs()
    if call is None:
        return False
    if call(descriptor) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code))
