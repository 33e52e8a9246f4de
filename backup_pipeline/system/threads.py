"""Threads that belong to the work which starts them: its limits of time, and whatever else is in its context, go along.

Python gives a new thread an empty context. What work starts another thread for is done for that work all the same: its
progress counts, what it opens is ended with it, and the processor that it uses shows that the work goes on.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from backup_pipeline.system import limits

_P = ParamSpec("_P")
_T = TypeVar("_T")


class ContextThreadPool(ThreadPoolExecutor):
    """A ThreadPoolExecutor whose calls run in the context of whoever submits them."""

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have `fn` called by one of the threads."""
        context = contextvars.copy_context()

        def run() -> _T:
            limits.takes_part()
            return fn(*args, **kwargs)

        return super().submit(context.run, run)


def start_thread(target: Callable[[], Any], name: str) -> threading.Thread:
    """Start a daemon thread that runs `target` in the context of whoever starts it."""
    context = contextvars.copy_context()

    def run() -> None:
        limits.takes_part()
        target()

    thread = threading.Thread(target=context.run, args=(run,), name=name, daemon=True)
    thread.start()
    return thread
