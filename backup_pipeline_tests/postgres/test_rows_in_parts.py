"""Rows of a dump that are longer than a piece of it: read in parts, and kept together on one connection."""

from __future__ import annotations

import threading
from collections.abc import Callable
from io import BytesIO

import pytest

from backup_pipeline.model.progress import Progress
from backup_pipeline.postgres.load.load import load_plain_dump
from backup_pipeline.postgres.load.pool import Pool
from backup_pipeline.postgres.load.shared_rows import SharedRows
from backup_pipeline.postgres.load.stream import CopyBlock, DumpParts
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget


class _Pieces(BytesIO):
    """A dump that is read in pieces of one size, whatever is asked for."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self._size = size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self._size)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 17, 4000])
def test_the_same_bytes_come_in_parts_and_no_part_is_larger_than_was_read(size: int) -> None:
    lines = b"".join([b"1\tshort\n", b"2\t" + b"x" * 900 + b"\n", b"\\.x\n", b"\n", b"3\t" + b"y" * 500 + b"\\\\.\n"])
    dump = b"COPY public.t (a, b) FROM stdin;\n" + lines + b"\\.\n\nselect 1;\n"
    parts = DumpParts(_Pieces(dump, size), rows_in_parts=True)
    block = next(iter(parts))
    assert isinstance(block, CopyBlock)
    chunks = list(block.chunks())
    assert b"".join(chunks) == lines
    # What may be the end marker is kept back with it.
    assert max(map(len, chunks)) <= 2 * size + 8


def test_a_row_in_parts_goes_to_one_connection(database: Callable[..., PostgresTarget]) -> None:
    rows = [f"{n}\t{chr(97 + n % 26) * (3_000_000 if n % 5 == 0 else 2000)}\n".encode() for n in range(60)]
    header = b"create table public.t (n int, t text);\nCOPY public.t (n, t) FROM stdin;\n"
    target = database()
    events: list[Progress] = []
    dump = _Pieces(header + b"".join(rows) + b"\\.\n", 100_000)
    outcome = load_plain_dump(dump, target, jobs=3, progress=events.append)
    assert outcome.rows == {("public", "t"): 60}
    # What is reported moves inside of a table, not only when it is in.
    within = [event.done for event in events if event.name == "restore" and not event.finished]
    assert len(within) > 100
    assert within == sorted(within)
    assert within[-1] == outcome.data_bytes == sum(map(len, rows))
    with connected(target) as connection:
        found = connection.execute(
            "select count(distinct n), bool_and(t = repeat(left(t, 1), length(t))), sum(length(t)) from public.t"
        ).fetchone()
    assert found == (60, True, sum(len(row.partition(b"\t")[2]) - 1 for row in rows))


def test_the_rest_of_a_row_that_was_refused_is_nobodys_row(database: Callable[..., PostgresTarget]) -> None:
    with Pool(database(), 2) as pool:
        shared = SharedRows(pool)
        for piece in (b"begins ", b"goes on ", b"ends\n", b"next\n"):
            shared.put(piece)
        shared.end()
        refused = shared.taken(threading.Event())
        assert next(refused) == b"begins "
        refused.close()
        assert list(shared.taken(threading.Event())) == [b"next\n"]
