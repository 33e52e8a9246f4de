"""Progress events and where they are sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` units ("bytes", "rows", "files", "orders") of one named piece of work; total may be unknown."""

    name: str
    done: int
    total: int | None = None
    unit: str = "bytes"
    finished: bool = False


ProgressSink = Callable[[Progress], None]


def no_progress(_: Progress) -> None:
    """Swallow progress, for callers that nobody watches."""
