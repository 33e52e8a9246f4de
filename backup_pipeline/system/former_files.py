"""Keeping a copy of a file before it is replaced: nothing that a person has written is lost by a command.

Copies lie in `.former` beside the file, private, out of git's sight, named by the time at which they were replaced.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from backup_pipeline.system.files import make_folders, read_ordinary, translate_os_error, write_atomically

LOG = logging.getLogger("backup")
FORMER_FOLDER = ".former"


def keep_former(path: Path, now: datetime) -> Path | None:
    """Copy the file at `path` to `.former/<name>.<time>` beside it and return the copy; None when there is no file.

    The copy is durable before this returns. Its mode is the file's own without the rights of group and others, since
    an `.env` that was open to all needs no second open copy.

    Raises:
        StoreError: the file cannot be read or the copy not written; then the file must not be replaced.
    """
    try:
        data = read_ordinary(path)
        mode = stat.S_IMODE(path.stat().st_mode) & 0o700 or 0o600
    except FileNotFoundError:
        return None
    except OSError as error:
        raise translate_os_error(error, path) from error
    return keep_former_text(path.parent, path.name, data, now, mode=mode)


def keep_damaged(path: Path, read: Callable[[bytes], object], now: datetime) -> Path | None:
    """Keep a file that is about to be written anew as `keep_former` does, where `read` fails on it; log and return it.

    Raises:
        StoreError: the file cannot be read or the copy not written; then the file must not be replaced.
    """
    try:
        read(read_ordinary(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise translate_os_error(error, path) from error
    except (ValueError, KeyError, TypeError, RecursionError):
        former = keep_former(path, now)
        LOG.error("%s is damaged and begins anew; what it held is kept as %s", path, former)
        return former
    return None


def keep_former_text(folder: Path, name: str, data: bytes, now: datetime, *, mode: int = 0o600) -> Path:
    """Keep content that is replaced elsewhere (a user's crontab, say) as `<folder>/.former/<name>.<time>`.

    Raises:
        StoreError: the copy cannot be written.
    """
    place = private_folder(folder / FORMER_FOLDER)
    copy = place / f"{name}.{now:%Y-%m-%dT%H%M%SZ}"
    number = 1
    while copy.exists():
        number += 1
        copy = place / f"{name}.{now:%Y-%m-%dT%H%M%SZ}-{number}"
    write_atomically(copy, data, mode=mode)
    return copy


def private_folder(folder: Path) -> Path:
    """Make a folder (mode 0700) that git does not see, by a `.gitignore` of its own, and return it.

    Raises:
        StoreError: it cannot be made.
    """
    make_folders(folder, 0o700)
    ignore = folder / ".gitignore"
    if not os.path.lexists(ignore):
        write_atomically(ignore, b"*\n")
    return folder
