"""Repetition of calls that a place did not answer: pauses with backoff and jitter, inside one limit of time."""

from __future__ import annotations

import math
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
    throttled together do not come back together. Until the place has answered for the first time the limit is shorter:
    a wrong address is not tried for minutes.
    """

    def __init__(self, limits: TimeLimits) -> None:
        self._limits = limits
        self._closed = threading.Event()
        self._answered = False

    def close(self) -> None:
        """End all pauses: what waits raises the error it waits for."""
        self._closed.set()

    def run(self, call: Callable[[int], T], *, at_most: float = math.inf) -> T:
        """Return what `call(attempt)` returns; attempts count from 1.

        Args:
            call: what to call.
            at_most: seconds after which it is given up, where that is sooner than the place's limits.

        Raises:
            PlaceUnreachableError: the last attempt's, with their number and the time they took.
        """
        began = time.monotonic()
        attempt = 1
        while True:
            try:
                found = call(attempt)
            except PlaceUnreachableError as error:
                longest = min(self._limits.longest_pause, self._limits.first_pause * 2 ** min(attempt - 1, 16))
                pause = longest * random.random()  # noqa: S311
                spent = time.monotonic() - began
                if spent + pause >= min(at_most, self._patience()) or self._closed.wait(pause):
                    raise PlaceUnreachableError(
                        f"{error.what} Tried {attempt} times in {spent:.0f} seconds.",
                        where=error.where,
                        remedy=error.remedy,
                    ) from error
                attempt += 1
            except Exception:
                self._answered = True
                raise
            else:
                self._answered = True
                return found

    def _patience(self) -> float:
        return self._limits.total if self._answered else min(self._limits.total, self._limits.first_answer)
