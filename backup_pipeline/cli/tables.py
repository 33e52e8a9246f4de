"""Tables of the commands' output: no lines, figures to the right, whole lines where no terminal cuts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_UNBROKEN = 10_000
_MANY_ROWS = 100
_GAP = "  "


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
    if table.row_count < _MANY_ROWS or not _print_rows(out, table):
        out.print(table)


def _print_rows(out: Console, table: Table) -> bool:
    """Print a long table whose lines all fit, as Rich would; return False where they do not.

    Rich measures and renders every cell for itself: thousands of sets took seconds. Most cells repeat, or are plain.
    """
    from rich.cells import cell_len
    from rich.text import Text

    rendered: dict[str, tuple[str, int]] = {}

    def shown(markup: object, style: str = "") -> tuple[str, int]:
        key = f"{style}:{markup}"
        if key not in rendered:
            text = Text.from_markup(str(markup), style=style)
            with out.capture() as captured:
                out.print(text, end="", soft_wrap=True, highlight=False)
            rendered[key] = captured.get(), cell_len(text.plain)
        return rendered[key]

    columns = [[shown(column.header, "dim"), *map(shown, column.cells)] for column in table.columns]
    if any("\n" in text for cells in columns for text, _ in cells):
        return False
    widths = [max(width for _, width in cells) for cells in columns]
    title, title_width = shown(table.title, "table.title") if table.title else ("", 0)
    whole = sum(widths) + len(_GAP) * (len(widths) - 1)
    if not title_width <= whole <= out.width:
        return False
    lines = [title + " " * (whole - title_width)] if title else []
    right = [column.justify == "right" for column in table.columns]
    for cells in zip(*columns, strict=True):
        padded = [
            " " * (width - taken) + text if to_the_right else text + " " * (width - taken)
            for (text, taken), width, to_the_right in zip(cells, widths, right, strict=True)
        ]
        lines.append(_GAP.join(padded))
    out.file.write("\n".join(lines) + "\n")
    return True
