"""Text in Markdown that is taken literally, whatever is in it. Pure."""

from __future__ import annotations

import re


def code_span(text: str) -> str:
    """Return a text on one line as code: no backtick of its own ends it (CommonMark 0.31, section 6.1)."""
    line = " ".join(text.split()) or " "
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    room = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{room}{line}{room}{fence}"
