"""Parts of a compressed stream that are the same as before are taken over, and nothing else is."""

from __future__ import annotations

import functools
import hashlib
import io
import random
import re
from collections.abc import Callable

import pytest

from backup_pipeline.postgres.export.dump_content import DumpContent
from backup_pipeline.system.stream_parts import EarlierStream, Mark, MarkedSink
from backup_pipeline.system.streams import Compression, compressed_sink, finished, gunzip

FORMS: list[Compression] = ["gzip", "zstd"]
MEGABYTE = 1 << 20


class File(io.BytesIO):
    """What a set's file says of itself."""

    @property
    def size(self) -> int:
        return len(self.getbuffer())

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.getbuffer()).hexdigest()


@functools.cache
def dump(rows: int = 350_000, *, key: str = "a" * 63) -> bytes:
    """Return a dump's text, some 14 MB for the number of rows that is the default."""
    of = random.Random(1)
    table = b"".join(b"%d\t%s\n" % (n, of.randbytes(16).hex().encode()) for n in range(rows))
    before = f"-- PostgreSQL database dump\n--\n\n\\restrict {key}\n\nSET x = 1;\n"
    copy = "--\n\nCOPY public.t (a, b) FROM stdin;\n"
    after = "\\.\n\n\n--\n-- PostgreSQL database dump complete\n--\n\n"
    return (before + copy).encode() + table + after.encode() + f"\\unrestrict {key}\n\n".encode()


def written(content: bytes, form: Compression, earlier: EarlierStream | None = None) -> tuple[bytes, MarkedSink]:
    file, follower = File(), DumpContent()
    with finished(MarkedSink(file, follower, compression=form, earlier=earlier)) as sink:
        for start in range(0, len(content), MEGABYTE):
            sink.write(content[start : start + MEGABYTE])
    follower.finish()
    whole = DumpContent()
    whole.feed(content)
    whole.finish()
    assert (follower.content_sha256, follower.size, follower.rows) == (whole.content_sha256, whole.size, whole.rows)
    assert sink.size == len(content)
    return file.getvalue(), sink


def plain(content: bytes, form: Compression) -> bytes:
    """Return what is written where nothing is marked or taken over."""
    file = io.BytesIO()
    with compressed_sink(file, compression=form) as sink:
        sink.write(content)
    return file.getvalue()


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_with_another_random_key_is_taken_over_but_for_its_ends(form: Compression) -> None:
    # Frames of zstd are larger than parts.
    rows = 600_000
    first, marked = written(dump(rows), form)
    assert first == plain(dump(rows), form)
    assert len(marked.marks) >= 2
    assert all(hashlib.sha256(first[: mark.packed]).hexdigest() == mark.file for mark in marked.marks)
    now = dump(rows, key="b" * 63)
    second, again = written(now, form, EarlierStream(io.BytesIO(first), marked.marks))
    assert second == plain(now, form) != first
    assert again.taken_over == marked.marks[-1].plain - marked.marks[0].plain > 4 * MEGABYTE
    assert [mark.plain for mark in again.marks] == [mark.plain for mark in marked.marks]
    # What was taken over can be taken over from in turn.
    third, last = written(dump(rows), form, EarlierStream(io.BytesIO(second), again.marks))
    assert (third, last.taken_over) == (first, again.taken_over)


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "a row in the middle": lambda text: text.replace(b"\n200000\t", b"\n200000\tX", 1),
    "a row at the beginning": lambda text: text.replace(b"\n7\t", b"\n8\t", 1),
    "rows at the end": lambda text: text.replace(b"\\.\n", b"350001\tmore\n\\.\n", 1),
    "a row that is gone": lambda text: re.sub(rb"\n250000\t.*", b"", text, count=1),
    "nothing after the first megabytes": lambda text: text[: 9 * MEGABYTE],
    "nothing at all": lambda text: b"",
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_follows_a_change_is_compressed(change: str) -> None:
    form: Compression = "gzip"
    first, marked = written(dump(), form)
    now = CHANGES[change](dump())
    second, again = written(now, form, EarlierStream(io.BytesIO(first), marked.marks))
    assert second == plain(now, form)
    assert b"".join(gunzip(io.BytesIO(second), name="dump")) == now
    # Marks after the change are marks of what is there now.
    third, last = written(now, form, EarlierStream(io.BytesIO(second), again.marks))
    assert third == second
    assert last.taken_over >= again.taken_over


def test_a_line_that_the_digest_leaves_out_is_never_taken_over() -> None:
    # In the text of a function it is content, although the digest of a dump does not know it.
    def functions(word: str) -> bytes:
        text = "".join(f"create function f{n}() as '\n\\restrict {word}\n{'x' * 4000}';\n" for n in range(1500))
        return b"-- PostgreSQL database dump\n" + text.encode()

    first, marked = written(functions("one"), "gzip")
    second, again = written(functions("two"), "gzip", EarlierStream(io.BytesIO(first), marked.marks))
    assert [mark.content for mark in again.marks] == [mark.content for mark in marked.marks] != []
    assert b"".join(gunzip(io.BytesIO(second), name="dump")) == functions("two")
    assert again.taken_over == 0


@pytest.mark.parametrize("damage", ["a bit", "cut off", "missing", "closed"])
def test_nothing_is_taken_over_from_a_damaged_file(damage: str) -> None:
    first, marked = written(dump(500_000), "gzip")
    at = marked.marks[1].packed
    file = io.BytesIO(
        {
            "a bit": first[: at + 5] + bytes([first[at + 5] ^ 1]) + first[at + 6 :],
            "cut off": first[: at + 5],
            "missing": b"",
            "closed": first,
        }[damage]
    )
    if damage == "closed":
        file.read = _broken  # type: ignore[method-assign]
    earlier = EarlierStream(file, marked.marks)
    second, again = written(dump(500_000), "gzip", earlier)
    assert second == first
    assert earlier.damaged
    whole = marked.marks[1].plain - marked.marks[0].plain
    assert again.taken_over == (whole if damage in ("a bit", "cut off") else 0)


@pytest.mark.parametrize(("plain_step", "packed_step"), [(10**15, 1), (-1, 1), (0, 1), (1, -1), (1, 10**15)])
def test_marks_that_no_stream_can_have_are_ignored(plain_step: int, packed_step: int) -> None:
    first, marked = written(dump(), "gzip")
    head, good, *others = marked.marks
    forged = Mark(good.plain + plain_step, good.packed + packed_step, good.content, good.file)
    second, again = written(dump(), "gzip", EarlierStream(io.BytesIO(first), [head, good, forged, *others]))
    # The first part holds a line that the digest leaves out, and is compressed each time.
    assert (second, again.taken_over) == (first, good.plain - head.plain)


def _broken(size: int | None = -1) -> bytes:
    raise OSError("Input/output error")


def test_a_short_stream_has_no_marks() -> None:
    _, marked = written(dump(1000), "gzip")
    assert marked.marks == []


def test_a_mark_is_read_from_the_text_that_it_is_noted_as() -> None:
    mark = Mark(5, 3, "ab", "cd")
    assert Mark.from_text(mark.as_text()) == mark
    with pytest.raises(ValueError, match=r"unpack|invalid"):
        Mark.from_text("not a mark")
