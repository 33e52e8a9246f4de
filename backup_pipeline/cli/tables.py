"""Tables of the commands' output: no lines, figures to the right, whole lines where no terminal cuts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_UNBROKEN = 10_000
_GAP = "  "
# A column that may be broken into lines is given at least this width, before another one goes.
_NARROWEST = 40
# Cells with colours as they are written, and their width: by the terminal's colours, style and text.
_RENDERED: dict[tuple[str | None, bool, str, str], tuple[str, int]] = {}


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
        table.add_column(
            name, justify="right" if heading != name else "left", no_wrap=name != wrapping, overflow="fold"
        )
    return table


def print_table(out: Console, table: Table, *, expendable: tuple[str, ...] = ()) -> None:
    """Print a table: to a terminal in its width, elsewhere with unbroken lines.

    Args:
        out: where to.
        table: the table.
        expendable: headings of columns that a narrow terminal does without, the least needed first. The others are
            whole, as far as the width allows: what is to be copied must not be cut.
    """
    if not out.is_terminal:
        out.width = _UNBROKEN
    for heading in expendable:
        if _fits(out, table):
            break
        table = _without(table, heading)
    if not table.row_count or not _print_rows(out, table):
        out.print(table)


def _without(table: Table, heading: str) -> Table:
    """Return the table without a column; one that is made anew, since Rich's columns know their own numbers."""
    kept = [column for column in table.columns if column.header != heading]
    narrower = new_table("", *(f">{c.header}" if c.justify == "right" else str(c.header) for c in kept))
    narrower.title = table.title
    for column, made in zip(kept, narrower.columns, strict=True):
        made.no_wrap = column.no_wrap
    for row in zip(*(column.cells for column in kept), strict=True):
        narrower.add_row(*row)
    return narrower


def _fits(out: Console, table: Table) -> bool:
    """Return whether no cell would be cut: columns that are broken into lines need their longest word, at most."""
    if not out.is_terminal:
        return True
    from rich.measure import Measurement

    options = out.options.update(max_width=_UNBROKEN)
    needed = len(_GAP) * (len(table.columns) - 1)
    for column in table.columns:
        measured = [Measurement.get(out, options, cell) for cell in (column.header, *column.cells)]
        needed += max(one.maximum if column.no_wrap else min(one.maximum, _NARROWEST) for one in measured)
    return needed <= out.width


def _print_rows(out: Console, table: Table) -> bool:
    """Print a table whose lines all fit, as Rich would; return False where they do not.

    Rich measures and renders every cell for itself: thousands of sets, or of plans, took seconds. Most cells repeat, or
    are plain.
    """
    from rich.cells import cell_len
    from rich.text import Text

    def shown(markup: object, style: str = "") -> tuple[str, int]:
        if not style and isinstance(markup, str) and markup.isascii() and markup.isprintable() and "[" not in markup:
            return markup, len(markup)
        key = (out.color_system, out.no_color, style, str(markup))
        if key not in _RENDERED:
            text = Text.from_markup(str(markup), style=style)
            with out.capture() as captured:
                out.print(text, end="", soft_wrap=True, highlight=False)
            _RENDERED[key] = captured.get(), cell_len(text.plain)
        return _RENDERED[key]

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
