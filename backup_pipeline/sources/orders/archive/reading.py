"""Finding and reading every order's folder of an archive, without the database. Judging the values is not done here.

The tree is walked without following links; hidden folders and files that are not an order's are passed over. Reading
is divided into chunks of folders that worker processes can take.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from backup_pipeline.errors import StoreError, ValidationError
from backup_pipeline.sources.orders.archive.folder import ArchiveTree, Pair, open_folder, read_pair, roll_forward
from backup_pipeline.sources.orders.format.migrations import migrate
from backup_pipeline.sources.orders.format.order import (
    AUFTRAG_NR,
    DATA_NAME,
    DATA_PART,
    META_NAME,
    META_PART,
    RECORD_ID,
    TextRow,
)
from backup_pipeline.sources.orders.format.pair import PairState
from backup_pipeline.sources.orders.format.place import UNKNOWN_YEAR, year_of_path
from backup_pipeline.sources.orders.format.text import parse_any_data
from backup_pipeline.system.files import translate_os_error
from backup_pipeline.system.processes import processors

CHUNK = 500
WORKERS_FROM = 20 * CHUNK
_PORTION = 20_000
_INT64 = 1 << 63
_OURS = frozenset((DATA_NAME, META_NAME, DATA_PART, META_PART))


class OrderRead(NamedTuple):
    """One folder with an order in it.

    Attributes:
        path: relative to the archive, forward slashes.
        row: the values as text, None where `problem` says why there are none.
        kind: of the problem: `checksum`, `missing_file`, `version`, `data`, `meta`, `unreadable`; "" when it is well;
            `first_export` where there is no order yet.
        state: which files the pair was read from.
        leftover: part files lie beside a valid pair.
        checksum: SHA-256 of data.csv; meta_checksum: of meta.json.
        escaped: quotes in data.csv are escaped by a backslash.
    """

    path: str
    row: TextRow | None
    kind: str
    problem: str
    state: PairState
    leftover: bool
    checksum: str
    meta_checksum: str
    exported_at: str
    size: int
    escaped: bool = False


class _Walk(NamedTuple):
    """What was found below a folder: subfolders (relative, sorted) and which of an order's files."""

    folders: list[str]
    names: set[str]


def _inspect(folder: str, opened: int) -> _Walk:
    folders, names = [], set()
    prefix = f"{folder}/" if folder else ""
    with os.scandir(opened) as entries:
        for entry in entries:
            name = entry.name
            if name in _OURS:
                names.add(name)
            elif name[0] != "." and entry.is_dir(follow_symlinks=False):
                folders.append(prefix + name)
    folders.sort()
    return _Walk(folders, names)


def _bad(
    folder: str, kind: str, problem: str, state: PairState = PairState.BROKEN, *, leftover: bool = False
) -> OrderRead:
    return OrderRead(folder, None, kind, problem, state, leftover, "", "", "", 0)


def _read(folder: str, opened: int, names: set[str]) -> OrderRead:
    leftover = DATA_PART in names or META_PART in names
    try:
        pair = read_pair(names, opened)
    except ValidationError as error:
        return _bad(folder, "unreadable", error.what, leftover=leftover)
    except OSError as error:
        return _bad(folder, "unreadable", f"{error.strerror or error}.", leftover=leftover)
    if not pair.state.whole:
        return _bad(folder, pair.kind, pair.problem, pair.state, leftover=leftover)
    return _judge(folder, pair, leftover and pair.state is PairState.VALID)


def _judge(folder: str, pair: Pair, leftover: bool) -> OrderRead:
    data, meta, meta_bytes = pair.data, pair.meta, pair.meta_bytes
    assert data is not None
    assert meta is not None
    assert meta_bytes is not None
    row: TextRow | None = None
    kind = problem = ""
    escaped = False
    try:
        header, record, escaped = parse_any_data(data)
        kind = "version"
        row = migrate(meta.schema_version, header, record)
        kind = ""
    except ValidationError as error:
        kind, problem = kind or "data", error.what
    if row is not None:
        if meta.file_size != len(data):
            kind, problem = "meta", f"meta.json says {meta.file_size} bytes, data.csv has {len(data)}."
        elif row[RECORD_ID] != str(meta.record_id) or not -_INT64 <= meta.record_id < _INT64:
            kind, problem = (
                "meta",
                "meta.json and data.csv name different record_ids, or none that a database can hold.",
            )
        elif row[AUFTRAG_NR] != meta.auftrag_nr:
            kind, problem = "meta", "meta.json and data.csv name different auftrag_nr."
    digest = hashlib.sha256(meta_bytes).hexdigest()
    return OrderRead(
        folder,
        row if not kind else None,
        kind,
        problem,
        pair.state,
        leftover,
        meta.checksum,
        digest,
        meta.exported_at,
        len(data),
        escaped,
    )


def _own(opened: int) -> set[str]:
    """Return which of an order's files lie in a folder that may hold very many others, without listing it."""
    return {name for name in _OURS if _is_there(opened, name)}


def _is_there(opened: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=opened, follow_symlinks=False)
    except OSError:
        return False
    return True


def read_chunk(archive: str, folders: list[str]) -> list[OrderRead]:
    """Read every order in these folders and below them; only in it where the folder's path ends in a slash.

    Runs in a worker process too.
    """
    found: list[OrderRead] = []
    waiting = deque(folders)
    while waiting:
        folder = waiting.popleft()
        alone = folder.endswith("/")
        folder = folder.removesuffix("/")
        try:
            opened = open_folder(f"{archive}/{folder}")
        except OSError as error:
            found.append(_bad(folder, "unreadable", f"{error.strerror}."))
            continue
        try:
            below = _Walk([], _own(opened)) if alone else _inspect(folder, opened)
            if below.names:
                found.append(_read(folder, opened, below.names))
            waiting.extendleft(reversed(below.folders))
        except OSError as error:
            found.append(_bad(folder, "unreadable", f"{error.strerror}."))
        finally:
            os.close(opened)
    return found


def _subfolders(archive: str, folder: str) -> Iterator[str]:
    """Yield the paths of a folder's subfolders, sorted in portions: all of them may be more than memory should hold."""
    prefix = f"{folder}/" if folder else ""
    with os.scandir(f"{archive}/{folder}") as entries:
        names = (
            entry.name
            for entry in entries
            if entry.name[0] != "." and entry.name not in _OURS and entry.is_dir(follow_symlinks=False)
        )
        while portion := sorted(itertools.islice(names, _PORTION)):
            for name in portion:
                yield prefix + name


def _folders(archive: str, years: frozenset[str] | None) -> Iterator[str]:
    """Yield what to read: the archive and the folders of the first level alone, those of the second with all below."""
    if years is None or UNKNOWN_YEAR in years:
        yield "/"
    for top in _subfolders(archive, ""):
        if years is None or year_of_path(top) in years:
            yield f"{top}/"
            # What cannot be listed is reported where the folder itself is read.
            with contextlib.suppress(OSError):
                yield from _subfolders(archive, top)


def _chunks(archive: str, years: frozenset[str] | None) -> Iterator[list[str]]:
    folders = _folders(archive, years)
    while chunk := list(itertools.islice(folders, CHUNK)):
        yield chunk


def read_archive(
    archive: Path, *, years: frozenset[str] | None = None, workers: int | None = None
) -> Iterator[list[OrderRead]]:
    """Yield every order of an archive in lists, by path where a folder has not very many.

    Args:
        archive: its folder.
        years: only below these folders of the first level, "unknown" for all that are no year.
        workers: processes to read with; by default, once the archive is large, two for each processor of this machine:
            one reads while the other waits for the disk.

    Raises:
        StoreError: the archive's folder cannot be read.
    """
    root = str(archive)
    try:
        chunks = _chunks(root, years)
        ahead = []
        for chunk in chunks:
            ahead.append(chunk)
            if len(ahead) * CHUNK >= WORKERS_FROM:
                break
        count = workers if workers is not None else 2 * processors()
        if count <= 1 or (workers is None and len(ahead) * CHUNK < WORKERS_FROM):
            for chunk in ahead:
                yield read_chunk(root, chunk)
            for chunk in chunks:
                yield read_chunk(root, chunk)
            return
        from backup_pipeline.sources.orders.archive.worker import read_in_processes

        yield from read_in_processes(root, itertools.chain(ahead, chunks), count)
    except OSError as error:
        raise translate_os_error(error, archive) from error


def finish_renames(archive: Path, order: OrderRead) -> None:
    """Give an order's files their names, where an export was ended before it did.

    Raises:
        StoreError: the folder cannot be written.
    """
    tree = ArchiveTree(archive)
    try:
        descriptor, _ = tree.enter(order.path, create=False)
        try:
            roll_forward(descriptor, order.state)
        finally:
            os.close(descriptor)
    except ValidationError as error:
        raise StoreError(error.what, where=order.path, remedy="Replace the link by the folder.") from error
    except OSError as error:
        raise translate_os_error(error, archive / order.path) from error
    finally:
        tree.close()
