"""One order brought into its folder: its new files complete beside their names, unless the folder holds them already.

Giving them their names is the batch's (`archive.batch`). Which orders are inspected is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from backup_pipeline.errors import ValidationError
from backup_pipeline.sources.orders.archive.batch import Batch, DiskStopError, Written
from backup_pipeline.sources.orders.archive.folder import (
    ArchiveTree,
    Pair,
    read_file,
    read_pair,
    recorded_in,
    remove_parts,
    roll_forward,
    write_new,
    write_parts,
)
from backup_pipeline.sources.orders.archive.index import entry_line, entry_start
from backup_pipeline.sources.orders.format.newest import instant_of
from backup_pipeline.sources.orders.format.order import (
    COLUMNS,
    DATA_NAME,
    DATA_PART,
    META_NAME,
    META_PART,
    UPDATED_AT,
    OrderMeta,
    TextRow,
)
from backup_pipeline.sources.orders.format.pair import PairState
from backup_pipeline.sources.orders.format.text import HEADER, format_meta, parse_any_data, parse_data
from backup_pipeline.system.files import translate_os_error

_ALL_NAMES = {DATA_NAME, META_NAME, DATA_PART, META_PART}
_STOPPING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


@dataclass(slots=True)
class Order:
    """A row as it is to stand in its folder.

    Attributes:
        record_id, year, folder: which order, and where.
        data, meta: the content of both files.
        start: what `entry_start` needs besides the files' times.
        line: the old index's line, None when it does not know the order.
        stamp: the moment of the export, for the names of copies.
    """

    record_id: int
    year: str
    folder: str
    data: bytes
    meta: OrderMeta
    start: tuple[int, str, str, str, int]
    line: str | None
    stamp: str = ""


class Outcome(StrEnum):
    """WRITTEN: in the batch now. EQUAL: the folder holds the order already. WOULD_WRITE: in a dry run."""

    WRITTEN = "written"
    EQUAL = "equal"
    WOULD_WRITE = "would_write"


class Brought(NamedTuple):
    """How an order was brought into its folder.

    Attributes:
        outcome: what was done.
        taken_over: the folder held a pair that the index did not know.
        kept: name of the copy of a data.csv that nobody else has, "" where none was needed.
    """

    outcome: Outcome
    taken_over: bool = False
    kept: str = ""


def write_order(
    tree: ArchiveTree,
    batch: Batch,
    order: Order,
    *,
    rewrite: bool,
    dry_run: bool,
    claims: Callable[[int, str], bool],
) -> Brought:
    """Write an order's new files beside their names and put it into the batch.

    Where they replace files with something that neither the row nor the index knows, a copy of those stays beside them.

    Args:
        tree: the archive.
        batch: takes what was written, and the index's line of what was found equal.
        order: what to write.
        rewrite: write it even where the folder holds it already.
        dry_run: change nothing.
        claims: whether the row of that record_id says that this folder is its own.

    Raises:
        ValidationError: the folder belongs to another order, or cannot be read; LinkError: it is behind a link.
        OSError: the folder cannot be written.
        DiskStopError: nothing can be written any more.
    """
    if (holder := batch.holder(order.folder)) is not None:
        raise _owned(order.folder, holder)
    try:
        descriptor, made = tree.enter(order.folder, create=not dry_run)
    except FileNotFoundError:
        if dry_run:
            return Brought(Outcome.WOULD_WRITE)
        raise
    except OSError as error:
        raise _stop_or(error, tree) from error
    try:
        pair = None if made else read_pair(_ALL_NAMES, descriptor)
        foreign = pair is not None and pair.state.whole and order.line is None
        if pair is not None and pair.state.whole:
            if not dry_run:
                _settle_parts(descriptor, pair.state)
            if not rewrite and _holds(pair, order):
                if not dry_run:
                    start = entry_start(*order.start, recorded_in(descriptor))
                    batch.keep(entry_line(start, hashlib.sha256(pair.meta_bytes or b"").hexdigest()))
                return Brought(Outcome.EQUAL, foreign)
            _require_own(pair, order, claims)
        if dry_run:
            return Brought(Outcome.WOULD_WRITE, foreign)
        kept = keep_copy(descriptor, pair, order) if pair is not None else ""
        meta = format_meta(order.meta)
        write_parts(descriptor, order.data, meta, _mode_in(descriptor))
    except OSError as error:
        raise _stop_or(error, tree) from error
    finally:
        os.close(descriptor)
    checksum = hashlib.sha256(meta).hexdigest()
    batch.add(Written(order.record_id, order.folder, order.year, order.start, checksum, order.line))
    return Brought(Outcome.WRITTEN, foreign, kept)


def _require_own(pair: Pair, order: Order, claims: Callable[[int, str], bool]) -> None:
    """Raise ValidationError when the pair in the folder is another order's."""
    assert pair.meta is not None
    if pair.meta.record_id != order.record_id and claims(pair.meta.record_id, order.folder):
        raise _owned(order.folder, pair.meta.record_id)


def keep_copy(folder: int, pair: Pair, order: Order) -> str:
    """Keep the files that are about to be replaced beside them, where they hold something that nobody else has.

    That is a data.csv with other values than the row's that no export of ours wrote (another program's, or one that was
    edited), or with a newer `updated_at` than the row's. Returns the copy's name, "" where none was needed.
    """
    if pair.data is None or HEADER.startswith(pair.data):
        return ""
    row = parse_data(order.data)[1]
    there = _row_of(pair)
    newer = there is not None and instant_of(there[UPDATED_AT]) > instant_of(row[UPDATED_AT])
    same = there is not None and [value or None for value in there] == [value or None for value in row]
    if same or (_is_ours(pair, order) and not newer):
        return ""
    ending = "".join(letter for letter in order.stamp[:19] if letter.isalnum()) + "Z"
    kept = ""
    for name in (DATA_NAME, META_NAME):
        with contextlib.suppress(FileNotFoundError):
            copy = _copied(folder, name, f"{name}.before-{ending}")
            kept = kept or copy
    return kept


def _is_ours(pair: Pair, order: Order) -> bool:
    """Return whether an export wrote these files: the index says so, or else their form does."""
    if order.line is not None and f'"{hashlib.sha256(pair.data or b"").hexdigest()}"' in order.line:
        return True
    meta = pair.meta
    return (
        pair.state.whole
        and meta is not None
        and meta.exported_at.endswith("+00:00")
        and pair.meta_bytes == format_meta(meta)
    )


def _row_of(pair: Pair) -> TextRow | None:
    try:
        header, record, _ = parse_any_data(pair.data or b"")
    except ValidationError:
        return None
    return record if header == COLUMNS else None


def _copied(folder: int, name: str, wanted: str) -> str:
    """Give a file a second name; it stays under that one when the first is given to another file."""
    copy = wanted
    for number in itertools.count(2):
        try:
            os.link(name, copy, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            return copy
        except FileExistsError:
            copy = f"{wanted}-{number}"
        except FileNotFoundError:
            raise
        except OSError:
            # No second names on this file system (SMB, FAT).
            break
    data = read_file(name, folder)
    if data is None:
        raise FileNotFoundError(name)
    write_new(folder, copy, data)
    return copy


def _owned(folder: str, holder: int) -> ValidationError:
    return ValidationError(f"its folder {folder} belongs to order {holder} already.")


def _stop_or(error: OSError, tree: ArchiveTree) -> Exception:
    return DiskStopError(translate_os_error(error, tree.path).what) if error.errno in _STOPPING else error


def _settle_parts(folder: int, state: PairState) -> None:
    """Give the whole pair its names before parts are replaced: the only whole one may stand in the part files."""
    if state is PairState.VALID:
        remove_parts(folder)
    else:
        roll_forward(folder, state)


def _holds(pair: Pair, order: Order) -> bool:
    """Return whether a folder's pair is this order, whenever it was exported."""
    return (
        pair.data == order.data
        and pair.meta is not None
        and pair.meta._replace(exported_at=order.meta.exported_at) == order.meta
    )


def _mode_in(folder: int) -> int:
    """Return the mode of the data file that is there, so that its successor has it too; of a first one, the folder's.

    Whoever may read the order's own file may then read its pair, whatever the umask of the service that writes it.
    """
    try:
        return os.stat(DATA_NAME, dir_fd=folder, follow_symlinks=False).st_mode & 0o777
    except FileNotFoundError:
        return os.fstat(folder).st_mode & 0o664
