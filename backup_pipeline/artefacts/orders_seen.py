"""Whether an archive is as its index saw it: two looks at the file system per order, no file read.

Large indexes are divided among processes: `python -m backup_pipeline.artefacts.orders_seen ARCHIVE BEGIN END` looks at
the entries that begin between two bytes of the index and ends with 0 when all are untouched, else with 3.
"""

from __future__ import annotations

import itertools
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from backup_pipeline.artefacts.orders_folder import ArchiveTree, seen_below
from backup_pipeline.errors import ValidationError
from backup_pipeline.model.order import INDEX_NAME
from backup_pipeline.tools.processes import running

SHARE = 8 << 20
"""Bytes of the index (about 25,000 orders) that are worth a process of their own."""
_ENTRY, _PATH, _SEEN = b'{"record_id": ', b'"path": "', b'"seen": "'
_TOUCHED = 3


def count_untouched(tree: ArchiveTree, begin: int, end: int) -> int | None:
    """Return how many entries begin between two bytes of the index; None when one is not as it was seen.

    None too for what this short way does not judge: a path with escapes, an order without a row.
    """
    count = 0
    with (tree.path / INDEX_NAME).open("rb") as file:
        at = begin
        if begin:
            # The line that goes over the boundary belongs to the one before.
            file.seek(begin - 1)
            at += len(file.readline()) - 1
        for line in file:
            if at >= end:
                break
            at += len(line)
            if not line.startswith(_ENTRY):
                continue
            start = line.index(_PATH) + len(_PATH)
            stop = line.index(b'"', start)
            seen = line.index(_SEEN, stop) + len(_SEEN)
            path = line[start:stop]
            if b"\\" in path or line.endswith((b"true}\n", b"true},\n")):
                return None
            try:
                found = seen_below(*tree.parent(path.decode(), create=False))
            except (OSError, ValidationError):
                return None
            if found is None or found.encode() != line[seen : line.index(b'"', seen)]:
                return None
            count += 1
    return count


def all_untouched(tree: ArchiveTree, *, share: int = SHARE) -> int | None:
    """Return the number of entries of the index when all are untouched, else None.

    The index must be whole (`check_index`). Small ones are looked at here alone.
    """
    size = (tree.path / INDEX_NAME).stat().st_size
    parts = min(_processors(), size // share + 1)
    bounds = [size * part // parts for part in range(parts + 1)]
    command = [sys.executable, "-m", "backup_pipeline.artefacts.orders_seen", str(tree.path.absolute())]
    with ExitStack() as stack:
        others = [
            stack.enter_context(running([*command, str(begin), str(end)]))
            for begin, end in itertools.pairwise(bounds[1:])
        ]
        count = count_untouched(tree, 0, bounds[1])
        if count is None:
            return None
        for other in others:
            told = other.stdout.read()
            if other.finish()[0] != 0:
                return None
            count += int(told)
    return count


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    """Look at one part of an index; print the number of its entries."""
    tree = ArchiveTree(Path(sys.argv[1]))
    count = count_untouched(tree, int(sys.argv[2]), int(sys.argv[3]))
    if count is None:
        sys.exit(_TOUCHED)
    sys.stdout.write(str(count))


if __name__ == "__main__":
    main()
