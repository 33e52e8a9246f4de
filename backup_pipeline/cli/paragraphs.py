"""Paragraphs of the commands' output: lines of a terminal's width that begin below each other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# A command in backticks is one piece, with the sign behind it: broken by us it could not be copied.
_PIECES = re.compile(r"(?:\[[^\]\s]*\])*`[^`]*`\S*|\S+")
_NARROWEST = 20


def print_hanging(out: Console, first: str, text: str) -> None:
    """Print a text after its label, as `hanging` returns it."""
    out.print(hanging(out, first, text), soft_wrap=True)


def hanging(out: Console, first: str, text: str) -> str:
    """Return a text after its label; in a terminal its further lines begin below its first.

    Args:
        out: where it will be printed, with `soft_wrap`: paragraphs together, since Rich takes its time for each call.
        first: what stands before the text, with its spaces (Rich's markup).
        text: the text (Rich's markup). A command in backticks stays in one line, which the terminal itself may break.
    """
    if not out.is_terminal:
        return f"{first}{text}"
    indent = _width(first)
    lines = _filled(text, max(out.width - indent, _NARROWEST))
    return first + f"\n{' ' * indent}".join(lines)


def _filled(text: str, width: int) -> list[str]:
    lines: list[str] = [""]
    for piece in _PIECES.findall(text):
        longer = f"{lines[-1]} {piece}" if lines[-1] else piece
        if not lines[-1] or _width(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(piece)
    return lines


def _width(markup: str) -> int:
    from rich.cells import cell_len

    return cell_len(re.sub(r"(?<!\\)\[/?[a-z ]*\]", "", markup).replace("\\[", "["))
