"""Progress bars of a terminal: one line per piece of work, with what is done, the time taken and the time left."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column

from backup_pipeline.rules.quantities import bytes_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from backup_pipeline.model.progress import Progress, ProgressSink

_STARTING = "starting"
_BAR = 16
# More pieces at one time than a small terminal has lines for: the oldest are shown.
_SHOWN = 12


@contextmanager
def progress_bars(out: Console) -> Iterator[ProgressSink]:
    """Give a sink whose events are drawn as bars on `out`, from the first moment on, and erased at the end."""
    bars = Bars(
        # The name gives way: a line that is broken would be drawn again and again below itself.
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        BarColumn(_BAR),
        TextColumn("{task.fields[count]}", markup=False, justify="right", table_column=Column(no_wrap=True)),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=out,
        transient=True,
        expand=True,
    )
    with bars:
        tasks: dict[str, TaskID] = {}
        waiting = [bars.add_task(_STARTING, total=None, count="")]
        # Tables and sources are captured by several threads.
        lock = threading.Lock()

        def show(event: Progress) -> None:
            with lock:
                while waiting:
                    bars.remove_task(waiting.pop())
                if event.name not in tasks:
                    tasks[event.name] = bars.add_task(event.name, total=event.total, count="")
                bars.update(tasks[event.name], completed=event.done, total=event.total, count=_count(event))
                if event.finished:
                    bars.remove_task(tasks.pop(event.name))
                for number, task in enumerate(tasks.values()):
                    bars.update(task, visible=number < _SHOWN)

        yield show


def _count(event: Progress) -> str:
    if event.unit == "bytes":
        return bytes_text(event.done)
    return f"{event.done:,} {event.unit}" if event.unit else ""
