"""Compressed streams whose parts are marked, so that the next stream takes over the parts that are still the same.

Compressing takes several times as long as hashing. A mark stands at the end of a member: how long the stream is there,
plain and compressed, and the SHA-256 of both up to there. While the plain bytes of the next stream have the digest of a
mark, its compressed bytes are copied from the earlier file, whose own digest up to there is compared first. What comes
after the first difference is compressed. A stream is the same bytes either way.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.system.streams import CompressedSink, Compression, Sink

# A part is in memory until its mark is compared; parts of long streams are longer, so that fewer marks are noted.
_PART = 4 << 20
_LATER_PART = 16 << 20
_LATER = 1 << 30
_MOST_MARKS = 4096
# No part that was marked is longer, plain or compressed: what a record says otherwise is not read into memory.
_LONGEST = 64 << 20


class HashedSink(Sink, Protocol):
    """What the compressed bytes are written to, with size and digest of all that was written."""

    @property
    def size(self) -> int:
        """Bytes written so far."""

    @property
    def sha256(self) -> str:
        """SHA-256 in hex of the bytes written so far."""


class PlainContent(Protocol):
    """Who follows the plain bytes and hashes them; some may be no part of its digest (`omitted`)."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""

    def digest_here(self) -> tuple[str, int]:
        """Return SHA-256 in hex of all bytes so far, and how many of them are no part of it."""


@dataclass(frozen=True)
class Mark:
    """The end of a part.

    Attributes:
        plain: bytes of the stream up to here.
        packed: bytes of the file up to here.
        content: digest of the plain bytes up to here, in hex.
        file: digest of the file up to here, in hex.
    """

    plain: int
    packed: int
    content: str
    file: str

    def as_text(self) -> str:
        """Return the mark as a record notes it."""
        return f"{self.plain} {self.packed} {self.content} {self.file}"

    @classmethod
    def from_text(cls, text: str) -> Mark:
        """Read what `as_text` wrote. ValueError: it is something else."""
        plain, packed, content, file = text.split(" ")
        return cls(int(plain), int(packed), content, file)


class EarlierStream:
    """A stream that was written and marked before; its parts are taken in order, and none after the first damage.

    Args:
        file: its compressed bytes, from their beginning.
        marks: of its parts; from one on that no stream can have they are ignored.

    Attributes:
        damaged: whether its bytes turned out not to be those that were marked.
    """

    def __init__(self, file: BinaryIO, marks: Sequence[Mark]) -> None:
        self._file = file
        self._marks = deque(_possible(marks))
        self._digest = hashlib.sha256()
        self._read = 0
        self.damaged = False

    @property
    def next(self) -> Mark | None:
        """The mark of the next part; None where no more is taken over."""
        return self._marks[0] if self._marks else None

    def packed(self) -> bytes | None:
        """Return the compressed bytes of the next part; None where they are not what was marked."""
        mark = self._marks.popleft()
        try:
            data = self._file.read(mark.packed - self._read)
        except (OSError, BackupSystemError):
            data = b""
        self._digest.update(data)
        self._read += len(data)
        if self._read == mark.packed and self._digest.hexdigest() == mark.file:
            return data
        self.damaged = True
        self.end()
        return None

    def end(self) -> None:
        """Take nothing more over."""
        self._marks.clear()


def _possible(marks: Sequence[Mark]) -> Iterator[Mark]:
    """Yield marks up to the first that no stream can have."""
    plain = packed = 0
    for mark in marks:
        if not (0 < mark.plain - plain <= _LONGEST and 0 < mark.packed - packed <= _LONGEST):
            return
        yield mark
        plain, packed = mark.plain, mark.packed


class MarkedSink(CompressedSink):
    """Writes a compressed stream, marks its parts, and takes over those of an earlier one that are the same.

    Args:
        file: where the compressed bytes go, from its beginning; it stays open.
        content: follows the plain bytes; it has all of them when the sink is closed.
        compression: of the stream, and of the earlier one.
        earlier: the earlier stream.

    Attributes:
        marks: of the parts of what was written.
        taken_over: plain bytes that were not compressed anew.
    """

    def __init__(
        self,
        file: HashedSink,
        content: PlainContent,
        *,
        compression: Compression = "gzip",
        earlier: EarlierStream | None = None,
    ) -> None:
        super().__init__(file, compression=compression, hashed=False)
        self._written = file
        self._content = content
        self._earlier = earlier
        self._held: list[bytes] = []
        self._held_bytes = 0
        # Plain bytes in members that are whole, and those that `content` has beyond them.
        self._whole = 0
        self._ahead = 0
        self._final = False
        self._omitted = 0
        self._to_mark: deque[tuple[Future[bytes], int, str]] = deque()
        self._marked = 0
        self.marks: list[Mark] = []
        self.taken_over = 0

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Write all of `data`."""
        if self._earlier is None:
            return super().write(data)
        self._held.append(bytes(data))
        self._held_bytes += len(data)
        while (mark := self._earlier.next) is not None and self._whole + self._held_bytes >= mark.plain:
            held = b"".join(self._held)
            size = mark.plain - self._whole
            self._hold(held[size:])
            if not self._take_over(self._earlier, mark, held[:size]):
                self._earlier.end()
                self._ahead = size
                self._hold(held)
        if self._earlier.next is None:
            self._compress_from_here()
        return len(data)

    def close(self) -> None:
        """Finish the stream."""
        self._compress_from_here()
        super().close()

    def _hold(self, data: bytes) -> None:
        self._held, self._held_bytes = [data], len(data)

    def _compress_from_here(self) -> None:
        self._earlier = None
        held, self._held = self._held, []
        for data in held:
            super().write(data)

    def _take_over(self, earlier: EarlierStream, mark: Mark, part: bytes) -> bool:
        """Write a part as it was written before; return whether it is the same."""
        self._content.feed(part)
        content, omitted = self._content.digest_here()
        packed = earlier.packed() if content == mark.content else None
        if packed is None:
            return False
        if omitted == self._omitted:
            self.taken_over += len(part)
        else:
            # What is no part of the digest may be different.
            self._waiting = [part]
            packed = self._compressed(super()._pieces(final=True))
        self._omitted = omitted
        self._write(packed)
        self._whole += len(part)
        self.size += len(part)
        self._mark(self._whole, content)
        return True

    def _pieces(self, *, final: bool = False) -> list[memoryview]:
        pieces = super()._pieces(final=final)
        plain = b"".join(pieces)
        if self._ahead < len(plain):
            self._content.feed(plain[self._ahead :])
        self._ahead = max(0, self._ahead - len(plain))
        self._whole += len(plain)
        self._final = final
        return pieces

    def _submit(self, pieces: list[memoryview]) -> None:
        super()._submit(pieces)
        part = _PART if self._whole < _LATER else _LATER_PART
        # The last member ends with the stream, and a longer stream would go on in it.
        if pieces and not self._final and not self._ahead and self._whole - self._marked >= part:
            self._marked = self._whole
            self._to_mark.append((self._running[-1], self._whole, self._content.digest_here()[0]))

    def _write_next(self) -> None:
        written = self._running[0]
        super()._write_next()
        if self._to_mark and self._to_mark[0][0] is written:
            self._mark(*self._to_mark.popleft()[1:])

    def _mark(self, plain: int, content: str) -> None:
        self._marked = max(self._marked, plain)
        if len(self.marks) < _MOST_MARKS:
            self.marks.append(Mark(plain, self._written.size, content, self._written.sha256))
