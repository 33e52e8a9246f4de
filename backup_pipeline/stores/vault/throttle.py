"""A limit on bytes per second, shared by several threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from backup_pipeline.system import limits


class Throttle:
    """Lets `bytes_per_second` through on average; 0 is no limit.

    Args:
        bytes_per_second: the limit.
        clock: seconds that only grow.
        sleep: waits for some seconds.
    """

    def __init__(
        self,
        bytes_per_second: float = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait(self, count: int) -> None:
        """Wait until `count` more bytes may go."""
        if not self._rate:
            return
        with self._lock:
            begin = max(self._clock(), self._free_at)
            self._free_at = begin + count / self._rate
        while (left := begin - self._clock()) > 0:
            self._sleep(min(left, 1.0))
            limits.progressed()
