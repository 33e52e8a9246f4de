"""Progress events and where they are sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` units ("bytes", "rows", "files", "orders") of one named piece of work; total may be unknown."""

    name: str
    done: int
    total: int | None = None
    unit: str = "bytes"
    finished: bool = False


ProgressSink = Callable[[Progress], None]


def with_totals(sink: ProgressSink, totals: Mapping[str, int | None]) -> ProgressSink:
    """Return a sink that gives pieces of work their totals, by name, where whoever reports them does not know any."""

    def known(event: Progress) -> None:
        total = totals.get(event.name)
        if event.total is None and total:
            event = replace(event, total=max(total, event.done))
        sink(event)

    return known


def named(sink: ProgressSink, subject: str) -> ProgressSink:
    """Return a sink that names the subject before each piece of work, unless that names it itself."""

    def begins_with_it(event: Progress) -> None:
        own = event.name == subject or event.name.startswith((f"{subject} ", f"{subject}."))
        sink(event if own else replace(event, name=f"{subject}: {event.name}"))

    return begins_with_it


def no_progress(_: Progress) -> None:
    """Swallow progress, for callers that nobody watches."""
