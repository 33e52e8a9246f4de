"""Repetition of calls that a place did not answer: pauses with backoff and jitter, inside one limit of time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from backup_pipeline.stores.objects.errors import PlaceUnreachableError
from backup_pipeline.stores.objects.options import TimeLimits

T = TypeVar("T")


class Repeater:
    """Calls again what raised PlaceUnreachableError, until the limit of time; used by several threads.

    The pauses are "full jitter" (AWS Architecture Blog, "Exponential Backoff and Jitter"): many writers that were
    throttled together do not come back together.
    """

    def __init__(self, limits: TimeLimits) -> None:
        self._limits = limits
        self._closed = threading.Event()

    def close(self) -> None:
        """End all pauses: what waits raises the error it waits for."""
        self._closed.set()

    def run(self, call: Callable[[int], T]) -> T:
        """Return what `call(attempt)` returns; attempts count from 1.

        Raises:
            PlaceUnreachableError: the last attempt's, with their number and the time they took.
        """
        began = time.monotonic()
        attempt = 1
        while True:
            try:
                return call(attempt)
            except PlaceUnreachableError as error:
                longest = min(self._limits.longest_pause, self._limits.first_pause * 2 ** min(attempt - 1, 16))
                pause = longest * random.random()  # noqa: S311
                spent = time.monotonic() - began
                if spent + pause >= self._limits.total or self._closed.wait(pause):
                    raise PlaceUnreachableError(
                        f"{error.what} Tried {attempt} times in {spent:.0f} seconds.",
                        where=error.where,
                        remedy=error.remedy,
                    ) from error
                attempt += 1
