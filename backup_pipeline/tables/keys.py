"""Whether the keys of an exported table are unique: every key, any number of rows, in bounded memory.

While the pieces of the file pass, one 64-bit number per row is kept (`tables.key_numbers`). A table with more keys than
fit is inspected in several passes, each over the keys of a share of all numbers; the later ones read only the keys'
columns. Numbers that come twice are candidates: their rows are read once more and compared exactly, so that two keys
with one number are never a finding. What equal means here is what the exported values say; keys whose types or
collations call more than that equal are counted by the server (`postgres.export.duplicates`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline.model.catalog import TableKey
from backup_pipeline.tables.key_numbers import (
    Numbers,
    countable,
    is_narrow,
    key_numbers,
    mixed,
    narrow_numbers,
    nulls_of,
    rows_without_null,
)

# Numbers kept at once for all keys of a table: 48 MB.
LIMIT = 6_000_000
# Numbers that come twice and are inspected exactly; when some of them are real, the others are counted as they are.
_CANDIDATES = 10_000
_ROOM = 1.02
_SPARE = 4096
_COUNT = "rows with this key"

Pieces = Callable[[Sequence[str]], Iterator[pa.Table]]


class UniqueKeys:
    """Counts, for each key of a table, the rows beyond the first with the same key.

    Args:
        keys: whose equality the exported values show.
        rows: of the table, as far as it is known; more make it slower.
        limit: numbers kept at once.
    """

    def __init__(self, keys: Sequence[TableKey], rows: int, *, limit: int = LIMIT) -> None:
        self._keys = list(keys)
        self._seed = secrets.randbits(64)
        self._shares = max(1, -(-rows * len(self._keys) // limit))
        room = int(rows / self._shares * _ROOM) + _SPARE if self._shares > 1 else rows
        self._room = room
        self._known = [_Counted(room) for _ in self._keys]

    def add(self, piece: pa.Table) -> None:
        """Take a piece of the table, for the first pass."""
        self._take(piece, 0)

    def duplicates(self, read: Pieces) -> list[int]:
        """Return the counts in the keys' order.

        Args:
            read: returns the pieces of the same table again, with the named columns.
        """
        totals = [0] * len(self._keys)
        for share in range(self._shares):
            if share:
                self._known = [_Counted(self._room) for _ in self._keys]
                for piece in read(sorted({name for key in self._keys for name in key.columns})):
                    self._take(piece, share)
            for index, key in enumerate(self._keys):
                found = self._known[index].finish()
                if found:
                    totals[index] += self._confirmed(key, found, self._known[index].candidates, read)
        self._known = []
        return totals

    def _take(self, piece: pa.Table, share: int) -> None:
        for key, known in zip(self._keys, self._known, strict=True):
            numbers = key_numbers(_columns(piece, key), self._seed, nulls_distinct=key.nulls_distinct)
            if self._shares > 1:
                numbers = numbers[mixed(numbers) % np.uint64(self._shares) == share]
            known.add(numbers)

    def _confirmed(self, key: TableKey, found: int, candidates: dict[int, int], read: Pieces) -> int:
        """Return how many rows repeat a key, of those whose numbers repeat."""
        wanted = np.array(sorted(candidates), dtype=np.uint64)
        groups: pa.Table | None = None
        for piece in read(key.columns):
            columns = _columns(piece, key)
            valid = rows_without_null(columns) if key.nulls_distinct else None
            if valid is not None:
                columns = [column.filter(pa.array(valid)) for column in columns]
            numbers = key_numbers(columns, self._seed, nulls_distinct=key.nulls_distinct)
            at = np.searchsorted(wanted, numbers).clip(max=len(wanted) - 1)
            rows = pa.array(np.flatnonzero(wanted[at] == numbers))
            if len(rows):
                groups = _counted(groups, [column.take(rows) for column in columns])
        if groups is None:
            return 0
        exact = int(pc.sum(groups.column(_COUNT)).as_py()) - groups.num_rows
        unseen = found - sum(candidates.values())
        return exact + unseen if exact else 0


def _columns(piece: pa.Table, key: TableKey) -> list[pa.ChunkedArray]:
    return [piece.column(name) for name in key.columns]


def _counted(groups: pa.Table | None, columns: Sequence[pa.ChunkedArray]) -> pa.Table:
    """Return the groups of equal keys with their numbers of rows, the new rows added."""
    names = [str(index) for index in range(len(columns))]
    exact = [_exact(column) for column in columns]
    new = pa.table([*exact, pa.array(np.ones(len(columns[0]), dtype=np.int64))], names=[*names, _COUNT])
    together = new if groups is None else pa.concat_tables([groups, new])
    return together.group_by(names).aggregate([(_COUNT, "sum")]).rename_columns([*names, _COUNT])


def _exact(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not is_narrow(column.type):
        return column
    # The same value may be written in two ways (-0 and 0): its number is not.
    chunks = [pa.array(narrow_numbers(c), mask=nulls_of(c)) for c in column.chunks]
    return pa.chunked_array(chunks, type=pa.uint64())


def can_be_counted(key: TableKey, schema: pa.Schema) -> bool:
    """Return whether the exported values of a key's columns can be compared here."""
    return all(countable(schema.field(name).type) for name in key.columns)


class _Counted:
    """The numbers of one key in one pass; those that come again are counted and dropped.

    Attributes:
        candidates: numbers that came again → how many times beyond the first; the first _CANDIDATES of them.
    """

    def __init__(self, room: int) -> None:
        self._numbers: Numbers = np.empty(room, dtype=np.uint64)
        self._filled = 0
        self._repeated = 0
        self.candidates: dict[int, int] = {}

    def add(self, numbers: Numbers) -> None:
        """Take numbers."""
        end = self._filled + len(numbers)
        if end > len(self._numbers):
            self._compact()
            end = self._filled + len(numbers)
        if end > len(self._numbers):
            # More rows than was said.
            larger = np.empty(end + end // 4, dtype=np.uint64)
            larger[: self._filled] = self._numbers[: self._filled]
            self._numbers = larger
        self._numbers[self._filled : end] = numbers
        self._filled = end

    def finish(self) -> int:
        """Return how many numbers repeat an earlier one; forgets the numbers."""
        self._compact()
        self._numbers = np.empty(0, dtype=np.uint64)
        return self._repeated

    def _compact(self) -> None:
        known = self._numbers[: self._filled]
        known.sort()
        again = np.flatnonzero(known[1:] == known[:-1]) + 1
        if not len(again):
            return
        self._repeated += len(again)
        values, counts = np.unique(known[again], return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            if value in self.candidates or len(self.candidates) < _CANDIDATES:
                self.candidates[value] = self.candidates.get(value, 0) + count
        left = np.delete(known, again)
        self._numbers[: len(left)] = left
        self._filled = len(left)
