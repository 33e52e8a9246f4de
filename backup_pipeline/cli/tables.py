"""Tables of the commands' output: no lines, figures to the right, whole lines where no terminal cuts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_UNBROKEN = 10_000


def new_table(title: str, *headings: str, wrapping: str = "") -> Table:
    """Return an empty table.

    Args:
        title: printed above it, "" for none.
        headings: of the columns; one that begins with `>` holds figures.
        wrapping: the one column that may be broken into lines.
    """
    from rich.table import Table

    table = Table(
        title=f"[bold]{title}[/]" if title else None, title_justify="left", box=None, pad_edge=False, header_style="dim"
    )
    for heading in headings:
        name = heading.removeprefix(">")
        table.add_column(name, justify="right" if heading != name else "left", no_wrap=name != wrapping)
    return table


def print_table(out: Console, table: Table) -> None:
    """Print a table: to a terminal in its width, elsewhere with unbroken lines."""
    if not out.is_terminal:
        out.width = _UNBROKEN
    out.print(table)
