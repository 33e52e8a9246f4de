"""The headers of a Parquet file's pages, held against its footer before anything is decompressed or decoded.

A reader reserves what a page's header claims: up to 2 GB for its bytes, and 16 bytes for each entry of a dictionary. So
headers are read here first, and only as far as that (Thrift's compact protocol; parquet-format, `PageHeader`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

# A header holds sizes, and sometimes the smallest and largest value.
_USUAL_HEADER, _LONGEST_HEADER = 1 << 9, 1 << 16
_DEEPEST = 4
_TYPE, _UNCOMPRESSED, _COMPRESSED = 1, 2, 3
_DATA, _DICTIONARY, _DATA_V2 = 5, 7, 8
_NUMBER_OF_VALUES = 1
_ENCODING, _ENCODING_V2, _LEVELS_V2, _COMPRESSED_V2 = 2, 4, (5, 6), 7


@dataclass(frozen=True, slots=True)
class Page:
    """What a page's header claims.

    Attributes:
        bytes: in memory.
        values: or entries of a dictionary.
        start: where its stored bytes begin in the file.
        stored: their number.
        encoding: of its values, as a number of parquet-format.
        levels: bytes of its levels before what is compressed, in a page of version 2; None in others.
        compressed: whether a page of version 2 is.
    """

    is_dictionary: bool
    bytes: int
    values: int
    start: int
    stored: int
    encoding: int
    levels: int | None = None
    compressed: bool = True


def pages_of(file: BinaryIO, chunk: Any) -> Iterator[Page]:
    """Yield the pages of a column chunk.

    Args:
        file: the Parquet file.
        chunk: pyarrow's metadata of the column chunk.

    Raises:
        ValueError: no page stands there, or a header claims more than the chunk's metadata allows.
    """
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        start = min(start, chunk.dictionary_page_offset)
    end = start + chunk.total_compressed_size
    left = chunk.num_values
    while left > 0 or start < end:
        if start >= end:
            raise ValueError("its pages hold fewer values than its footer says")
        fields, length = _header(file, start, end)
        size, stored = fields.get(_UNCOMPRESSED), fields.get(_COMPRESSED)
        about = fields.get(_DATA) or fields.get(_DATA_V2) or fields.get(_DICTIONARY)
        if not isinstance(size, int) or not isinstance(stored, int) or not isinstance(about, dict):
            raise ValueError("a page has no header")
        values = about.get(_NUMBER_OF_VALUES)
        is_dictionary = isinstance(fields.get(_DICTIONARY), dict)
        begin, start = start + length, start + length + stored
        if not isinstance(values, int) or min(size, stored, values) < 0 or start > end:
            raise ValueError("a page is larger than its place")
        if size > chunk.total_uncompressed_size or values > (size if is_dictionary else left):
            raise ValueError("a page claims more than the footer says")
        left -= 0 if is_dictionary else values
        second = isinstance(fields.get(_DATA_V2), dict)
        encoding = about.get(_ENCODING_V2 if second else _ENCODING)
        levels = sum(about.get(number) or 0 for number in _LEVELS_V2) if second else None
        if not isinstance(encoding, int) or not 0 <= (levels or 0) <= stored:
            raise ValueError("a page has no header")
        yield Page(is_dictionary, size, values, begin, stored, encoding, levels, about.get(_COMPRESSED_V2) is not False)


def _header(file: BinaryIO, start: int, end: int) -> tuple[dict[int, Any], int]:
    for most in (_USUAL_HEADER, _LONGEST_HEADER):
        file.seek(start)
        data = file.read(min(most, end - start))
        try:
            return _ThriftReader(data).structure()
        except _CutShortError:
            if len(data) < _USUAL_HEADER:
                break
    raise ValueError("a page has no header")


class _CutShortError(Exception):
    """What was read ends before the header does."""


class _ThriftReader:
    """Reads one structure of Thrift's compact protocol: numbers and structures are kept, everything else is passed."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def structure(self, depth: int = 0) -> tuple[dict[int, Any], int]:
        """Return the fields by their numbers, and the bytes read so far.

        Raises:
            ValueError: no header. _CutShortError: the data end before it does.
        """
        if depth > _DEEPEST:
            raise ValueError("not a header")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            kind, delta = head & 15, head >> 4
            number = number + delta if delta else self._number()
            fields[number] = self._value(kind, depth)
        return fields, self._at

    def _value(self, kind: int, depth: int) -> Any:
        match kind:
            case 1 | 2:
                return kind == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._number()
            case 7:
                self._skip(8)
            case 8:
                self._skip(self._varint())
            case 12:
                return self.structure(depth + 1)[0]
            case _:  # headers hold no lists and maps
                raise ValueError("not a header")
        return None

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise _CutShortError

    def _byte(self) -> int:
        self._skip(1)
        return self._data[self._at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise ValueError("not a number")
        return value | byte << shift

    def _number(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
