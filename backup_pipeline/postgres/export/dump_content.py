r"""Reading the text of a plain pg_dump as it streams by: header, end marker, and the rows of every table. Pure.

Form of the file (pg_dump 13 to 18): a comment `-- PostgreSQL database dump`, statements, for every table a block
`-- Data for Name: …`, `COPY schema.table (columns) FROM stdin;`, one line per row (newlines in values are escaped), and
`\.`; at the end `-- PostgreSQL database dump complete`. Since 2025 a random `\restrict` and `\unrestrict` line
frame it; they are no part of the content hash.
"""

from __future__ import annotations

import hashlib
import re

from backup_pipeline.postgres.server.encodings import UTF8, codec_set_by, decoded

# Possessive (`*+`, `++`): the head of a COPY that a piece cuts in two must fail at once, not after every way to try it.
_NAME = rb'(?:"(?:[^"]|"")*+"|[^"\s.]++)'
_COPY = re.compile(
    rb"^--\n\nCOPY (" + _NAME + rb"\." + _NAME + rb") (?:\((?:"
    rb'"(?:[^"]|"")*+"|[^"()]'
    rb")*+\) )? ?FROM stdin;\n",
    re.MULTILINE,
)
_RANDOM = re.compile(rb"^\\(?:un)?restrict .*\n", re.MULTILINE)
_HEADER = b"-- PostgreSQL database dump\n"
_END = b"-- PostgreSQL database dump complete\n"
_LAST_LINE = b"\\.\n"
_KEPT = 4096
_LINE_END = 10
_WORTH_NUMPY = 1 << 16
_PART = 1 << 16


def _unquoted(name: bytes, codec: str) -> tuple[str, str]:
    """Split `schema."table"` as pg_dump writes it into its two bare names."""
    parts = re.findall(rb'"((?:[^"]|"")*)"|([^".]+)', name)
    schema, table = (decoded(quoted.replace(b'""', b'"') or bare, codec) for quoted, bare in parts)
    return schema, table


def _line_ends(data: bytes, start: int) -> tuple[int, int]:
    """Count the line ends from a position on; return them, and where the line that ends a COPY block begins, or -1.

    Those after that line are not counted.
    """
    if len(data) - start < _WORTH_NUMPY:
        end = data.find(b"\n\\.\n", start) + 1 or -1
        return data.count(b"\n", start, end if end >= 0 else len(data)), end
    rows = 0
    # A part and what is made of it fit into the processor's cache.
    for at in range(start, len(data), _PART):
        found, end = _line_ends_in_part(data, at)
        rows += found
        if end >= 0:
            return rows, end
    return rows, -1


def _line_ends_in_part(data: bytes, start: int) -> tuple[int, int]:
    """The same for the line ends of one part; the line that begins after the last of them may reach beyond it."""
    import numpy as np  # not for small dumps: loading it takes longer than they do

    # In one pass for both: finding the line takes three times as long as counting.
    size = min(_PART, len(data) - start)
    text = np.frombuffer(data, np.uint8, min(size + len(_LAST_LINE), len(data) - start), start)
    ends = text == _LINE_END
    begins = text[1:] == _LAST_LINE[0]
    begins &= ends[:-1]
    places = np.flatnonzero(begins[: 1 - len(_LAST_LINE)]) + 1
    last = places[(text[places + 1] == _LAST_LINE[1]) & (text[places + 2] == _LINE_END)]
    if len(last):
        return int(np.count_nonzero(ends[: last[0]])), start + int(last[0])
    return int(np.count_nonzero(ends[:size])), -1


class DumpContent:
    """Follows a plain dump's bytes. Feed it all of them, then `finish()`.

    Attributes:
        rows: (schema, table) → rows of its COPY block.
        header: whether the dump begins as one.
        complete: whether the end marker came, outside of any COPY block.
        size: bytes fed.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], int] = {}
        self.header = False
        self.complete = False
        self.size = 0
        self._digest = hashlib.sha256()
        self._omitted = 0
        self._pending: list[bytes] = []
        self._table: tuple[str, str] | None = None
        self._inside_row = False
        self._first = b""
        self._codec: str | None = None

    @property
    def content_sha256(self) -> str:
        r"""SHA-256 in hex of the dump without its two random `\restrict` lines."""
        return self._digest.hexdigest()

    def digest_here(self) -> tuple[str, int]:
        """Return what the digest would be if the dump ended here, and how many of its bytes are no part of that."""
        digest, rest = self._digest.copy(), b"".join(self._pending)
        kept = rest if self._table else _RANDOM.sub(b"", rest)
        digest.update(kept)
        return digest.hexdigest(), self._omitted + len(rest) - len(kept)

    def feed(self, data: bytes) -> None:
        """Take the next piece of the dump."""
        self.size += len(data)
        if len(self._first) < _KEPT:
            self._first += data[: _KEPT - len(self._first)]
            self.header = _HEADER in self._first
        if self._table is None and not self._statement_ends_in(data):
            # A long statement is joined once, when its end has come.
            self._pending.append(data)
            return
        whole = b"".join([*self._pending, data]) if self._pending else data
        self._pending = []
        position = 0
        while 0 <= position < len(whole):
            position = self._statements(whole, position) if self._table is None else self._lines(whole, position)

    def _statement_ends_in(self, data: bytes) -> bool:
        """Whether a statement (its `;` may have come with the piece before) ends in this piece."""
        cut_in_two = data.startswith(b"\n") and bool(self._pending) and self._pending[-1].endswith(b";")
        return cut_in_two or b";\n" in data

    def finish(self) -> None:
        """Take what is left after the last piece."""
        rest = b"".join(self._pending)
        self._pending = []
        if self._table is None:
            self._take_statements(rest)
        else:
            self._digest.update(rest)

    def _statements(self, data: bytes, position: int) -> int:
        """Go through statements up to a COPY; return where its rows begin, or -1 when all is taken or kept."""
        found = _COPY.search(data, position)
        if found is not None:
            self._take_statements(data[position : found.end()])
            self._table = _unquoted(found[1], self._codec or UTF8)
            self.rows.setdefault(self._table, 0)
            return found.end()
        # The head of a COPY may still be incomplete: what follows the last finished statement waits.
        end = max(position, data.rfind(b";\n", position) + 2)
        self._take_statements(data[position:end])
        self._keep(data[end:])
        return -1

    def _lines(self, data: bytes, position: int) -> int:
        """Count rows up to the end of the COPY block; return where it ends, or -1 when all is taken or kept."""
        assert self._table is not None
        if self._inside_row:
            end = data.find(b"\n", position) + 1
            self._inside_row = not end
            self.rows[self._table] += 1 if end else 0
            self._digest.update(memoryview(data)[position : end or len(data)])
            return end or -1
        empty = data.startswith(b"\\.\n", position)
        rows, end = (0, position) if empty else _line_ends(data, position)
        self.rows[self._table] += rows
        if end >= 0:
            self._digest.update(memoryview(data)[position : end + 3])
            self._table = None
            return end + 3
        end = max(position, data.rfind(b"\n", position) + 1)
        # What is too long to become the end of the block is a row's, and need not be kept until the row is whole.
        self._inside_row = len(data) - end >= len(_LAST_LINE)
        self._digest.update(memoryview(data)[position : len(data) if self._inside_row else end])
        if not self._inside_row:
            self._keep(data[end:])
        return -1

    def _take_statements(self, data: bytes) -> None:
        kept = _RANDOM.sub(b"", data)
        self._omitted += len(data) - len(kept)
        self._digest.update(kept)
        self.complete = self.complete or _END in data
        if self._codec is None:
            self._codec = codec_set_by(data)

    def _keep(self, data: bytes) -> None:
        if data:
            self._pending.append(data)
