"""A limit on bytes per second, shared by several threads."""

from __future__ import annotations

import threading
import time

from backup_pipeline.system import limits


class Throttle:
    """Lets `bytes_per_second` through on average; 0 is no limit."""

    def __init__(self, bytes_per_second: float = 0) -> None:
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait(self, count: int) -> None:
        """Wait until `count` more bytes may go."""
        if not self._rate:
            return
        with self._lock:
            begin = max(time.monotonic(), self._free_at)
            self._free_at = begin + count / self._rate
        while (left := begin - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
            limits.progressed()
