"""A tarball that is read while it is written: what differs from its listing is named, and nobody waits for ever."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest

from backup_pipeline.archives.tarball import Member, TarballWriter
from backup_pipeline.archives.tarball_beside import TarballReadBeside


@pytest.fixture
def tree(tmp_path: Path) -> list[Path]:
    """Files of nothing, of a byte, of many blocks, of more than is held between the threads; a folder of many."""
    files = {"empty": 0, "one": 1, "blocks": 5 * 512, "large": 12_000_000, **{f"many/{n:04}": n for n in range(400)}}
    (tmp_path / "many").mkdir()
    for name, size in files.items():
        (tmp_path / name).write_bytes(os.urandom(size))
    return [tmp_path / name for name in files]


def lines(archive: TarballWriter, tree: list[Path]) -> list[Member]:
    return [archive.add_file(str(path.relative_to(path.anchor)), path) for path in tree]


def test_every_member_is_compared_while_the_next_are_written(tree: list[Path]) -> None:
    written = io.BytesIO()
    with TarballReadBeside(written, "a.tar.gz") as beside, TarballWriter(beside) as archive:
        for path in tree:
            beside.expect(archive.add_file(path.name, path))
    assert beside.wrong == []
    assert beside.compared == len(tree)
    assert written.getvalue()[:2] == b"\x1f\x8b"


def test_other_content_and_other_headers_than_the_listing_says_are_named(tree: list[Path]) -> None:
    with TarballReadBeside(io.BytesIO(), "a.tar.gz") as beside, TarballWriter(beside) as archive:
        for number, member in enumerate(lines(archive, tree)):
            if number == 3:
                member = replace(member, sha256="0" * 64)
            beside.expect(replace(member, mode=0o4755) if number == 5 else member)
    assert [(one.path.rpartition("/")[2], one.wrong.partition(" is ")[0][:30]) for one in beside.wrong] == [
        ("large", "the content"),
        ("0001", "mode"),
    ]


def test_a_member_that_only_one_of_both_has_is_named(tree: list[Path]) -> None:
    with TarballReadBeside(io.BytesIO(), "a.tar.gz") as beside, TarballWriter(beside) as archive:
        for member in lines(archive, tree)[:-1]:
            beside.expect(member)
    assert [one.wrong for one in beside.wrong] == ["is in the tarball and not in the listing"]
    with TarballReadBeside(io.BytesIO(), "a.tar.gz") as beside, TarballWriter(beside) as archive:
        found = lines(archive, tree[:4])
        for member in (*found, replace(found[0], path="more")):
            beside.expect(member)
    assert [(one.path, one.wrong) for one in beside.wrong] == [("more", "is in the listing and not in the tarball")]


def test_a_stream_that_is_damaged_on_the_way_is_named_and_written_to_its_end(tree: list[Path]) -> None:
    written = io.BytesIO()
    whole = io.BytesIO()

    class Damaging:
        def write(self, data: bytes | bytearray | memoryview, /) -> int:
            whole.write(data)
            damaged = bytearray(data)
            damaged[len(damaged) // 2] ^= 0xFF
            return beside.write(damaged)

    with TarballReadBeside(written, "a.tar.gz") as beside, TarballWriter(Damaging()) as archive:
        for path in tree:
            beside.expect(archive.add_file(path.name, path))
    assert len(written.getvalue()) == len(whole.getvalue())
    assert beside.wrong
    assert "Damaged after" in beside.wrong[-1].wrong


def test_whoever_leaves_with_an_error_waits_for_nothing(tree: list[Path]) -> None:
    def leave() -> None:
        with TarballReadBeside(io.BytesIO(), "a.tar.gz") as beside, TarballWriter(beside) as archive:
            lines(archive, tree)
            raise KeyError("the capture has failed")

    with pytest.raises(KeyError):
        leave()
