"""A log file in the classical form `YYYY-MM-DD HH:MM:SS - NAME - LEVEL - MESSAGE`, rotated by size when it is opened.

Rotated then and not in between, so that one run stands whole in one file, and so that `logrotate` may do it instead.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

LOG = logging.getLogger("backup")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class LogFile:
    """Lines into a file; a file that cannot be written is reported once and never stops the work.

    Args:
        path: the file; its folder is made where it is missing. None writes nothing.
        max_bytes: from this size on it becomes `<name>.1` when it is next opened; 0 never rotates.
        keep: how many rotated files stay.
        now: the clock, in local time as such files have it.
    """

    def __init__(
        self, path: Path | None = None, *, max_bytes: int = 0, keep: int = 5, now: Callable[[], datetime] = datetime.now
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._now = now
        self._file = self._opened()

    def _opened(self) -> int | None:
        if self._path is None:
            return None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._rotate(self._path)
            return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o640)
        except OSError as error:
            LOG.error("%s: the log cannot be written (%s)", self._path, error.strerror)
            return None

    def _rotate(self, path: Path) -> None:
        if not self._max_bytes or not path.exists() or path.stat().st_size < self._max_bytes:
            return
        for number in range(self._keep, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            newer = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
            if newer.exists():
                newer.replace(older)
        if not self._keep:
            path.unlink()

    @property
    def on(self) -> bool:
        """Whether lines go anywhere."""
        return self._file is not None

    def write(self, name: str, level: str, message: str) -> None:
        """Append one line; line ends and control characters inside of the message become spaces."""
        if self._file is None:
            return
        line = f"{self._now():%Y-%m-%d %H:%M:%S} - {name} - {level} - {_CONTROL.sub(' ', message)}\n"
        try:
            os.write(self._file, line.encode("utf-8", "replace"))
        except OSError as error:
            LOG.error("%s: the log cannot be written (%s)", self._path, error.strerror)
            self.close()

    def close(self) -> None:
        """Close the file; may be called more than once."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


NO_LOG = LogFile()


@contextlib.contextmanager
def log_file(path: Path | None, *, max_bytes: int = 0, keep: int = 5) -> Iterator[LogFile]:
    """Give a log file for the block."""
    log = LogFile(path, max_bytes=max_bytes, keep=keep)
    try:
        yield log
    finally:
        log.close()
