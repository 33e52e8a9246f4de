"""Atomic exchange of two names in one folder, where the system supports it."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    call.restype = ctypes.c_int
    return call


def exchange(first: Path, second: Path) -> bool:
    """Exchange what two names stand for, in one step: renameat2(2) with RENAME_EXCHANGE (Linux 3.15).

    Returns:
        False where the system or the file system cannot do it; then nothing has changed.

    Raises:
        OSError: a name is missing, or lies on another file system.
    """
    call = _renameat2()
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(first), None, str(second))


def replace_keeping(target: Path, incoming: Path, outgoing: Path) -> None:
    """Put `incoming` in the place of `target`, which goes to `outgoing`; in one step where that is possible.

    Otherwise there is an instant in which nothing stands at `target`.
    """
    if exchange(incoming, target):
        incoming.rename(outgoing)
    else:
        target.rename(outgoing)
        incoming.rename(target)
