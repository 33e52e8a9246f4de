"""Freshness of the archive's index: two stat calls for each order, no file read.

Large indexes are divided among processes: `python -m` this module with ARCHIVE BEGIN END
inspects the entries that begin between two bytes of the index and ends with 0 when all are untouched, else with 3.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from backup_pipeline.errors import ValidationError
from backup_pipeline.sources.orders.archive.folder import ArchiveTree
from backup_pipeline.sources.orders.format.order import DATA_NAME, INDEX_NAME, META_NAME
from backup_pipeline.system.processes import processors, running

SHARE = 8 << 20
"""Bytes of the index (about 25,000 orders) that are worth a process of their own."""
_TOUCHED = 3
_BLOCK = 1 << 16
_ENTRY = b'{"record_id": '
# One whole line of an order that has a row: parent, name, and the recorded sizes and times. Not matched, and so not
# judged here: a path with escapes, an order without a row.
_LINE = re.compile(
    rb'\{"record_id": [^"]*"auftrag_nr": (?:null|"[^"\\]*"), "path": "(?:([^"\\]+)/)?([^"\\/]+)", "checksum": "[^"]*", '
    rb'"file_size": [0-9]+, "seen": "([^"]*)", "meta_checksum": "[^"]*"\},?\n'
)
_DATA, _META = f"/{DATA_NAME}".encode(), f"/{META_NAME}".encode()


def _blocks(path: Path, begin: int, end: int) -> Iterator[bytes]:
    """Yield whole lines that begin between two bytes of a file, many at a time."""
    with path.open("rb") as file:
        at = begin
        if begin:
            # The line that goes over the boundary belongs to the one before.
            file.seek(begin - 1)
            at += len(file.readline()) - 1
        while at < end:
            block = file.read(min(_BLOCK, end - at))
            if not block:
                return
            if not block.endswith(b"\n"):
                block += file.readline()
            at += len(block)
            yield block


def count_untouched(tree: ArchiveTree, begin: int, end: int) -> int | None:
    """Return how many entries begin between two bytes of the index; None when one is not as recorded.

    None too for what this short way does not judge (see `_LINE`).
    """
    stat = os.stat
    count = 0
    try:
        for block in _blocks(tree.path / INDEX_NAME, begin, end):
            entries = _LINE.findall(block)
            if len(entries) != block.count(_ENTRY):
                return None
            for parent, name, seen in entries:
                above = tree.held(parent.decode(), create=False)
                data = stat(name + _DATA, dir_fd=above, follow_symlinks=False)
                meta = stat(name + _META, dir_fd=above, follow_symlinks=False)
                found = b"%d.%d.%d/%d.%d.%d" % (
                    data.st_size,
                    data.st_mtime_ns,
                    data.st_ctime_ns,
                    meta.st_size,
                    meta.st_mtime_ns,
                    meta.st_ctime_ns,
                )
                if found != seen:
                    return None
            count += len(entries)
    except (OSError, ValidationError):
        return None
    return count


def all_untouched(tree: ArchiveTree, *, share: int = SHARE) -> int | None:
    """Return the number of entries of the index when all are untouched, else None.

    The index must be whole (`check_index`). Small ones are inspected here alone.
    """
    size = (tree.path / INDEX_NAME).stat().st_size
    parts = min(processors(), size // share + 1)
    bounds = [size * part // parts for part in range(parts + 1)]
    command = [sys.executable, "-m", "backup_pipeline.sources.orders.archive.freshness", str(tree.path.absolute())]
    with ExitStack() as stack:
        others = [
            stack.enter_context(running([*command, str(begin), str(end)]))
            for begin, end in itertools.pairwise(bounds[1:])
        ]
        count = count_untouched(tree, 0, bounds[1])
        if count is None:
            return None
        for other in others:
            reported = other.stdout.read()
            if other.finish()[0] != 0:
                return None
            count += int(reported)
    return count


def main() -> None:
    """Inspect one part of an index; print the number of its entries."""
    tree = ArchiveTree(Path(sys.argv[1]))
    count = count_untouched(tree, int(sys.argv[2]), int(sys.argv[3]))
    if count is None:
        sys.exit(_TOUCHED)
    sys.stdout.write(str(count))


if __name__ == "__main__":
    main()
