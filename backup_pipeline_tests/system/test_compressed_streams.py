"""Compressed streams: members cut by content, the same bytes whatever the threads, read by everybody's programs."""

from __future__ import annotations

import hashlib
import io
import random
import subprocess
import threading
from collections.abc import Iterator
from itertools import cycle

import pytest

from backup_pipeline.system.streams import Compression, compressed_sink, compressor, gunzip, unzstd

FORMS: list[Compression] = ["gzip", "zstd"]
READERS = {"gzip": (gunzip, ["gunzip", "-c"]), "zstd": (unzstd, ["zstd", "-dc"])}


def rows(count: int, seed: int = 1) -> bytes:
    random_rows = random.Random(seed)
    return b"".join(
        b"%d\tcustomer %d\t%s\n" % (n, n % 97, random_rows.randbytes(12).hex().encode()) for n in range(count)
    )


def pieces(content: bytes, sizes: list[int]) -> Iterator[bytes]:
    start = 0
    for size in cycle(sizes):
        if start >= len(content):
            return
        yield content[start : start + size]
        start += size


def written(content: bytes, form: Compression, *, threads: int = 0, sizes: list[int] | None = None) -> bytes:
    file = io.BytesIO()
    with compressed_sink(file, compression=form, threads=threads) as sink:
        buffer = bytearray(1 << 20)
        for piece in pieces(content, sizes or [1 << 20]):
            # A buffer that the caller uses again, as a tarball's is.
            buffer[: len(piece)] = piece
            sink.write(memoryview(buffer)[: len(piece)])
    assert (sink.size, sink.content_sha256) == (len(content), hashlib.sha256(content).hexdigest())
    return file.getvalue()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [0, 1, 3_000, 500_000])
def test_what_is_written_is_read_by_the_usual_programs(form: Compression, count: int) -> None:
    content = rows(count)
    data = written(content, form)
    ours, program = READERS[form]
    assert b"".join(ours(io.BytesIO(data), name="dump")) == content
    read = subprocess.run(program, input=data, capture_output=True, check=True)
    assert read.stdout == content


@pytest.mark.parametrize("form", FORMS)
def test_threads_and_sizes_of_writes_leave_no_mark(form: Compression) -> None:
    content = rows(300_000)
    expected = written(content, form)
    read, _ = READERS[form]
    assert b"".join(read(io.BytesIO(expected), name="dump")) == content
    for threads, sizes in ((1, [1 << 20]), (4, [7, 65_536, 300_001]), (2, [999_983])):
        data = written(content, form, threads=threads, sizes=sizes)
        # Another content would be worse than other bytes of the same.
        assert b"".join(read(io.BytesIO(data), name="dump")) == content
        if data != expected:
            different = [n for n, (one, other) in enumerate(zip(data, expected, strict=False)) if one != other]
            pytest.fail(f"{len(data)} bytes, not {len(expected)}; {len(different)} differ, at {different[:9]}")


def test_a_member_depends_on_nothing_but_its_plain_bytes() -> None:
    compress = compressor("gzip")
    content = rows(12_000)
    numbers = random.Random(2)
    for size in (0, 1, 3, 4, 7, 287, 288, 289, 300, 32_768, 33_057, 65_536, 65_537, 131_072, 262_144):
        expected = compress(content[:size])
        for _ in range(4):
            # What lies in memory that is used again, and around the piece.
            compress(numbers.randbytes(numbers.randrange(1, 100_000)))
            before = numbers.randrange(64)
            around = numbers.randbytes(before) + content[:size] + numbers.randbytes(500)
            assert compress(memoryview(around)[before : before + size]) == expected, size


def test_a_gzip_member_says_no_time_and_is_of_64_kib_on_average() -> None:
    content = rows(300_000)
    data = written(content, "gzip")
    assert data[:4] == b"\x1f\x8b\x08\x00"
    assert data[4:8] == bytes(4)
    members = data.count(b"\x1f\x8b\x08\x00\0\0\0\0")
    assert len(content) / (160 << 10) < members < len(content) / (48 << 10)


@pytest.mark.parametrize(("form", "kept"), [("gzip", 0.98), ("zstd", 0.6)])
def test_a_row_in_the_middle_leaves_the_rest_as_it_was(form: Compression, kept: float) -> None:
    content = rows(500_000)
    middle = content.index(b"\n", len(content) // 2) + 1
    before = written(content, form)
    after = written(content[:middle] + b"0\tone more\trow\n" + content[middle:], form)
    common = next(n for n in range(len(before)) if before[n] != after[n])
    ending = next(n for n in range(1, len(before)) if before[-n] != after[-n])
    assert common + ending > kept * len(before)


def test_a_stream_that_is_given_up_ends_its_threads_and_hides_no_error() -> None:
    with pytest.raises(OSError, match="No space left"):
        _write_to(_Full())
    assert not [one for one in threading.enumerate() if one.name.startswith("compress")]


def _write_to(file: _Full) -> None:
    with compressed_sink(file) as sink:
        for piece in pieces(rows(500_000), [1 << 20]):
            sink.write(piece)


class _Full:
    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        raise OSError(28, "No space left on device")
