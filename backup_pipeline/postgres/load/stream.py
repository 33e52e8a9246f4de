"""A dump as a stream of its parts: statements, and the COPY block of each table, in the order of the file.

The lexical rules are those of psql (psqlscan.l): quotes, E'' strings, dollar quotes, nested comments, parentheses and
SQL-standard function bodies. Meta-commands are never obeyed: but for pg_dump's own `\\restrict` pair at the two ends a
backslash outside of quotes is a hostile or foreign file and refused (CVE-2025-8714). Nothing is executed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from backup_pipeline.errors import RefusedError, ValidationError
from backup_pipeline.postgres.load.input import Readable
from backup_pipeline.postgres.server.encodings import UTF8, codec_set_by, decoded
from backup_pipeline.system.files import CHUNK

# One statement (not a COPY block) larger than this is not what pg_dump writes.
LARGEST_STATEMENT = 1 << 30


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement. `body` is the text from its first word on (comments before it skipped)."""

    text: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class MetaCommand:
    """A line for psql (`body`), with the comments above it (`text`). It is never obeyed."""

    text: bytes
    body: bytes


class CopyBlock:
    """The COPY block of one table: `header` is the statement without its newline, `chunks()` the data lines.

    `before` holds the comments above it, `codec` is how names are written in the dump. Every chunk ends at the end of a
    line, unless rows may come in parts (see DumpParts). The block must be read to its end before the next part is asked
    for; `drain` does that.
    """

    def __init__(self, header: bytes, chunks: Iterator[bytes], codec: str = UTF8, before: bytes = b"") -> None:
        self.before = before
        self.header = header
        self.codec = codec
        self._chunks = chunks

    def chunks(self) -> Iterator[bytes]:
        """Yield the data, without the end marker."""
        return self._chunks

    def drain(self) -> None:
        """Skip what has not been read."""
        for _ in self._chunks:
            pass

    @property
    def relation(self) -> bytes:
        """The table as the dump writes it: quoted where needed, with its schema."""
        return _relation(self.header, self.codec)

    @property
    def table(self) -> tuple[str, str]:
        """Schema and name, unquoted."""
        return split_qualified(decoded(self.relation, self.codec))

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names, unquoted; empty for a table without columns."""
        rest = decoded(self.header[len(b"COPY ") + len(self.relation) :], self.codec)
        inside = rest[rest.index("(") + 1 : rest.rindex(") FROM stdin;")] if "(" in rest else ""
        return tuple(part for part in _identifiers(inside))


# Unquoted: what pg_dump leaves so; by what is excluded, as in `dump_statements`.
_IDENTIFIER = r'(?:"(?:[^"]|"")+"|[^\x00-^`{-\x7f][^\x00-#%-/:-^`{-\x7f]*)'
_QUALIFIED = re.compile(rf"{_IDENTIFIER}\.{_IDENTIFIER}")


def _relation(header: bytes, codec: str) -> bytes:
    found = _QUALIFIED.match(decoded(header, codec), 5)
    if found is None:
        raise ValidationError("A COPY statement that pg_dump does not write.", where="dump", remedy="Use another set.")
    return found[0].encode(codec, "surrogateescape")


def _identifiers(text: str) -> Iterator[str]:
    for found in re.finditer(_IDENTIFIER, text):
        name = found[0]
        yield name[1:-1].replace('""', '"') if name.startswith('"') else name


def split_qualified(text: str) -> tuple[str, str]:
    """Return schema and name of `schema.name`, each quoted where needed; ValueError otherwise."""
    found = _QUALIFIED.fullmatch(text)
    if found is None:
        raise ValueError(f"not a qualified name: {text}")
    schema, name = _identifiers(text)
    return schema, name


_TOKEN = re.compile(
    rb"""(?P<word>[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*)|(?P<single>')|(?P<double>")|(?P<line>--)|(?P<block>/\*)"""
    rb"""|(?P<dollar>\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$)|(?P<param>\$)|(?P<open>\()|(?P<close>\))"""
    rb"""|(?P<end>;)|(?P<meta>\\)|(?P<number>[0-9]+)|(?P<other>[^\s])"""
)
_FROM_STDIN = b" FROM stdin;"
_LONGEST_MARKER = len(b"\\.\n")
_RESTRICT = re.compile(rb"\\(un)?restrict ([A-Za-z0-9]+)\r?\n?")
# What goes to another database in a server's dump; for names that are no plain ones the encoding is set before.
_GOES_ON = re.compile(rb"\\(?:connect [^\r\n]+|encoding \w+)\r?\n")
_ESCAPED = re.compile(rb"(?:[^'\\]|\\.|'')*'", re.DOTALL)


_SET_COLUMN = re.compile(rb"ALTER (?:FOREIGN )?TABLE [^;]+ ALTER COLUMN [^;]+ SET \(([^()]*)\);", re.DOTALL)
_COLUMN_MARK = re.compile(rb"pg_attver=\d+")


def without_column_mark(statement: Statement) -> Statement | None:
    """Return a statement without the mark that a server keeps among a column's options (`pg_attver`, since 15.20).

    None where nothing else is set. A pg_dump that does not know the mark writes it as an option that was set; other
    servers refuse it.
    """
    if _COLUMN_MARK.search(statement.body) is None or (found := _SET_COLUMN.fullmatch(statement.body)) is None:
        return statement
    kept = [option for option in found[1].split(b", ") if not _COLUMN_MARK.fullmatch(option)]
    if not kept:
        return None
    body = statement.body[: found.start(1)] + b", ".join(kept) + statement.body[found.end(1) :]
    return Statement(body, body)


class _ShortError(Exception):
    """The buffer ends inside of a token: more must be read."""


class DumpParts:
    """Iterates over the parts of a plain dump: `Statement`s and `CopyBlock`s.

    Args:
        reader: the dump.
        rows_in_parts: whether a row that is longer than a piece of the dump comes in several chunks, of which only the
            last ends with a line end; else it is put together first.

    Attributes:
        codec: how names are written, as the dump's own `SET client_encoding` says.
    """

    def __init__(self, reader: Readable, *, rows_in_parts: bool = False) -> None:
        self._reader = reader
        self._rows_in_parts = rows_in_parts
        self._buffer = b""
        self._at = 0
        self._ended = False
        self._restricted = False
        self._connects = False
        self.codec = UTF8

    def _more(self) -> bool:
        data = b"" if self._ended else self._reader.read(CHUNK)
        if not data:
            self._ended = True
            return False
        self._buffer = self._buffer[self._at :] + data
        self._at = 0
        return True

    def __iter__(self) -> Iterator[Statement | CopyBlock]:
        for part in self._all():
            if isinstance(part, Statement):
                if part.body and (unmarked := without_column_mark(part)) is not None:
                    yield unmarked
            elif isinstance(part, CopyBlock):
                yield part

    def with_everything(self) -> Iterator[Statement | CopyBlock | MetaCommand]:
        r"""Iterate over a whole server's dump: of every byte it is known which part it belongs to.

        Besides the parts of a database's dump there are meta-commands, among them `\connect`, which is hostile anywhere
        else, and at the end a statement without a body for what follows the last one.
        """
        self._connects = True
        return self._all()

    def _all(self) -> Iterator[Statement | CopyBlock | MetaCommand]:
        while True:
            try:
                part, used = self._next()
            except _ShortError:
                if len(self._buffer) > LARGEST_STATEMENT:
                    raise _foreign("a statement larger than 1 GB") from None
                if not self._ended:
                    # A long statement is scanned again from its start: double what is there to stay linear.
                    wanted = 2 * len(self._buffer) if len(self._buffer) > 2 * CHUNK else 0
                    while self._more() and len(self._buffer) < wanted:
                        pass
                    continue
                raise _foreign("it ends in the middle of a statement") from None
            self._at = used
            yield part
            if isinstance(part, CopyBlock):
                part.drain()
            elif not part.body:
                return

    def _next(self) -> tuple[Statement | CopyBlock | MetaCommand, int]:
        buffer = self._buffer
        position, start, depth, begins = self._at, -1, 0, 0
        keywords: list[bytes] = []
        while True:
            found = _TOKEN.search(buffer, position)
            if found is None or (found.end() == len(buffer) and not self._ended):
                if not self._ended:
                    raise _ShortError
                if found is None:
                    if start >= 0:
                        raise _ShortError
                    return Statement(buffer[self._at :], b""), len(buffer)
            kind = found.lastgroup
            position = found.end()
            if kind == "line":
                position = self._until(buffer, b"\n", position)
                continue
            if kind == "block":
                position = self._comment(buffer, position)
                continue
            if start < 0:
                if kind == "meta":
                    end = self._meta_command(buffer, found.start())
                    return MetaCommand(buffer[self._at : end], buffer[found.start() : end]), end
                start = found.start()
            if kind == "single":
                escaped = found.start() > 0 and buffer[found.start() - 1 : found.start()] in (b"E", b"e")
                position = self._string(buffer, position, escaped)
            elif kind == "double":
                position = self._until(buffer, b'"', position)
            elif kind == "dollar":
                position = self._until(buffer, found[0], position)
            elif kind == "open":
                depth += 1
            elif kind == "close":
                depth -= 1
            elif kind == "meta":
                raise _hostile()
            elif kind == "word":
                begins = _depth_of_bodies(keywords, found[0].lower(), begins)
            elif kind == "end" and depth <= 0 and begins == 0:
                body = buffer[start:position]
                if (
                    body.startswith(b"COPY ")
                    and body.endswith(_FROM_STDIN)
                    and buffer[position : position + 1] == b"\n"
                ):
                    return CopyBlock(body, self._copy_data(), self.codec, buffer[self._at : start]), position + 1
                self.codec = codec_set_by(body) or self.codec
                return Statement(buffer[self._at : position], body), position

    def _until(self, buffer: bytes, mark: bytes, position: int) -> int:
        end = buffer.find(mark, position)
        if end < 0:
            if self._ended and mark == b"\n":
                return len(buffer)
            raise _ShortError
        return end + len(mark)

    def _string(self, buffer: bytes, position: int, escaped: bool) -> int:
        if escaped:
            found = _ESCAPED.match(buffer, position)
            if found is None or (found.end() == len(buffer) and not self._ended):
                raise _ShortError
            return found.end()
        return self._until(buffer, b"'", position)

    def _comment(self, buffer: bytes, position: int) -> int:
        depth = 1
        while depth:
            end, again = buffer.find(b"*/", position), buffer.find(b"/*", position)
            if end < 0:
                raise _ShortError
            if 0 <= again < end:
                depth, position = depth + 1, again + 2
            else:
                depth, position = depth - 1, end + 2
        return position

    def _meta_command(self, buffer: bytes, position: int) -> int:
        end = buffer.find(b"\n", position) + 1
        if not end and not self._ended:
            raise _ShortError
        if self._connects and (goes_on := _GOES_ON.match(buffer, position)):
            return goes_on.end()
        found = _RESTRICT.match(buffer, position)
        if found is None or bool(found[1]) != self._restricted:
            raise _hostile()
        self._restricted = not self._restricted
        return found.end()

    def _copy_data(self) -> Iterator[bytes]:
        """Yield the lines up to the end marker; what is left of the buffer begins behind the COPY statement."""
        self._buffer, self._at = self._buffer[self._at :], 0
        while True:
            buffer = self._buffer
            if buffer.startswith(b"\\.\n"):
                self._buffer = buffer[3:]
                return
            end = buffer.find(b"\n\\.\n")
            if end >= 0:
                self._buffer = buffer[end + 4 :]
                yield buffer[: end + 1]
                return
            # The marker may be cut in two by the end of the buffer: keep the last whole line back.
            last = buffer.rfind(b"\n", 0, max(0, len(buffer) - 3))
            if last < 0 and self._rows_in_parts and (len(buffer) >= _LONGEST_MARKER or self._more()):
                # As long as it may still be the end marker, more is read first.
                if len(buffer) >= _LONGEST_MARKER:
                    del buffer
                    yield from self._row_in_parts()
                continue
            if last >= 0:
                # Whole lines only: what is kept starts a line.
                self._buffer = buffer[last + 1 :]
                lines = buffer[: last + 1]
                del buffer  # rows may be large: nothing is held that is not needed
                yield lines
                del lines
            if not self._more():
                raise _foreign("it ends in the middle of a table's data")
            if last < 0:
                # One row larger than the buffer: read on until its line ends, without searching it again each time.
                pieces = [self._buffer]
                self._buffer = b""
                while self._more():
                    piece, self._buffer = self._buffer, b""
                    pieces.append(piece)
                    if b"\n" in piece:
                        break
                self._buffer = b"".join(pieces)
                del pieces

    def _row_in_parts(self) -> Iterator[bytes]:
        """Yield the row that the buffer begins with, as it comes, up to its line end."""
        while True:
            piece, self._buffer = self._buffer, b""
            end = piece.find(b"\n") + 1
            if end:
                self._buffer = piece[end:]
                yield piece[:end]
                return
            if piece:
                yield piece
            del piece
            if not self._more():
                raise _foreign("it ends in the middle of a table's data")


def _depth_of_bodies(keywords: list[bytes], word: bytes, begins: int) -> int:
    """Return how deep in BEGIN ATOMIC … END bodies we are after `word`, counting as psql does."""
    if len(keywords) < 4:
        keywords.append(word)
    routine = keywords[:1] == [b"create"] and any(w in (b"function", b"procedure") for w in keywords[1:4])
    if not routine:
        return begins
    if word == b"begin":
        return begins + 1
    if word == b"case" and begins:
        return begins + 1
    if word == b"end" and begins:
        return begins - 1
    return begins


def _hostile() -> RefusedError:
    return RefusedError(
        "The dump holds a psql meta-command outside of quotes; pg_dump writes none there.",
        where="dump",
        remedy="Do not restore this file. Verify the set, check who can write to the store, and use another set.",
    )


def _foreign(why: str) -> ValidationError:
    return ValidationError(
        f"The dump is not what pg_dump writes: {why}.",
        where="dump",
        remedy="Verify the set and restore from another one.",
    )
