"""The terminal as every command prints to it. Loaded only when there is something to print: rich takes its time."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from backup_pipeline.cli.formatting import visible


class Terminal(Console):
    """A console in which no text that is printed can steer the terminal, whoever chose the names in it."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Return what is to be written; only the console's own control codes are codes."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
