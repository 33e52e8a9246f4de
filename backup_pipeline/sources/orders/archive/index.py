"""`archive-manifest.json`: every order of an archive with its checksums, so that a missing folder is noticed.

A JSON document that is also readable line by line: first line the head, then one order per line by rising record_id,
last line the tail with the number of orders, the state of the database, and the SHA-256 of all that comes before.
Neither reading nor writing holds more than one line. What follows from a difference is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from backup_pipeline.errors import StoreError, ValidationError
from backup_pipeline.sources.orders.format.order import INDEX_NAME
from backup_pipeline.system.files import sync_folder, translate_os_error

INDEX_VERSION = 1
INDEX_PART = f".{INDEX_NAME}.part"
_TAIL = re.compile(rb'\], "count": ([0-9]+), "state": "([0-9a-zA-Z./-]*)", "checksum": "([0-9a-f]{64})"\}\n\Z')
_ENTRY = '{"record_id": '
ENTRY_BYTES = _ENTRY.encode()
_AFTER = len(_ENTRY)
_INT64 = 1 << 63
# The form of nearly every entry, read without the JSON parser. Its numbers fit into 64 bits.
_PLAIN_ENTRY = re.compile(
    r'\{"record_id": (0|-?[1-9][0-9]{0,17}), "auftrag_nr": "([0-9]*)", "path": "([0-9A-Za-z/_.-]*)", '
    r'"checksum": "([0-9a-f]{64})", "file_size": (0|[1-9][0-9]{0,11}), "seen": "([0-9./-]*)", '
    r'"meta_checksum": "([0-9a-f]{64})"\}'
)


class IndexEntry(NamedTuple):
    """One order of the index. `seen` is sizes and times of its files as the exporting machine found them."""

    record_id: int
    auftrag_nr: str | None
    path: str
    checksum: str
    file_size: int
    seen: str
    meta_checksum: str
    row_deleted: bool = False


def entry_start(record_id: int, auftrag_nr_json: str, path_json: str, checksum: str, size: int, seen: str) -> str:
    """Return an entry's line up to what only meta.json tells; equal starts mean an untouched order."""
    return (
        f'{{"record_id": {record_id}, "auftrag_nr": {auftrag_nr_json}, "path": {path_json}, '
        f'"checksum": "{checksum}", "file_size": {size}, "seen": "{seen}", "meta_checksum": "'
    )


def entry_line(start: str, meta_checksum: str) -> str:
    """Return an entry's whole line, without comma and line end."""
    return f'{start}{meta_checksum}"}}'


def record_id_of(line: str) -> int:
    """Return the record_id of an entry's line."""
    return int(line[_AFTER : line.index(",", _AFTER)])


def parse_entry(line: str) -> IndexEntry:
    """Return what an entry's line says; ValidationError when it is no entry."""
    if found := _PLAIN_ENTRY.fullmatch(line):
        record_id, number, path, checksum, size, seen, meta_checksum = found.groups()
        return IndexEntry(int(record_id), number, path, checksum, int(size), seen, meta_checksum)
    try:
        entry = IndexEntry(**json.loads(line))
        number = "" if entry.auftrag_nr is None else entry.auftrag_nr
        texts = "\n".join((number, entry.path, entry.checksum, entry.seen, entry.meta_checksum)).encode()
        numbers = (entry.record_id, entry.file_size, int(entry.row_deleted))
        sound = b"\0" not in texts and all(type(n) is int and -_INT64 <= n < _INT64 for n in numbers)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValidationError("an entry cannot be read.", where=INDEX_NAME) from error
    if not sound or not line.startswith(f"{_ENTRY}{entry.record_id},"):
        raise ValidationError("an entry cannot be read.", where=INDEX_NAME)
    return entry


def _entry_text(line: bytes) -> str:
    """Return an entry's line without comma and line end."""
    return line.decode("utf-8").removesuffix("\n").removesuffix(",")


class IndexHead(NamedTuple):
    """The first line: when it was written, and the kind and column types of the database.

    `state` is the database's when the last export of everything began, "" when that left something undone. `schema` are
    the statements that make the table and its indexes, () where the index does not have them.
    """

    written_at: str
    kind: str
    columns: tuple[tuple[str, str], ...]
    state: str
    schema: tuple[str, ...] = ()


def check_index(path: Path) -> IndexHead | None:
    """Read the whole index once and return its head; None when there is none.

    Raises:
        ValidationError: damaged (bit flip, truncated, edited) or of an unknown version.
        StoreError: cannot be read.
    """
    damaged = ValidationError("The index is damaged.", where=str(path), remedy="The next export writes it anew.")
    if path.exists() and not path.is_file():
        raise ValidationError(
            "Something that is no file stands in the place of the index.",
            where=str(path),
            remedy="Remove it; the next export writes the index anew.",
        )
    digest = hashlib.sha256()
    count = 0
    try:
        with path.open("rb") as file:
            head = file.readline()
            digest.update(head)
            last = file.readline()
            for line in file:
                digest.update(last)
                count += 1
                # Whoever wrote it, and whatever its checksum says: what follows relies on every entry.
                text = _entry_text(last)
                if not _PLAIN_ENTRY.fullmatch(text):
                    parse_entry(text)
                last = line
    except (UnicodeDecodeError, ValidationError):
        raise damaged from None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise translate_os_error(error, path) from error
    tail = _TAIL.fullmatch(last)
    if tail is None:
        raise damaged
    digest.update(tail[2])
    if int(tail[1]) != count or digest.hexdigest() != tail[3].decode():
        raise damaged
    state = tail[2].decode()
    try:
        raw = json.loads(head.decode("utf-8") + "]}")
        if raw["manifest_version"] != INDEX_VERSION:
            raise ValidationError(
                f"The index has version {raw['manifest_version']!r}; this release knows {INDEX_VERSION}.",
                where=str(path),
                remedy="Use the release that wrote it, or remove the index and export again.",
            )
        source = raw["source"]
        columns = tuple((str(name), str(kind)) for name, kind in source["columns"])
        schema = tuple(str(statement) for statement in source.get("schema", ()))
        return IndexHead(str(raw["written_at"]), str(source["kind"]), columns, state, schema)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged from None


def index_lines(path: Path) -> Iterator[str]:
    """Yield every entry's line, without comma and line end; nothing when there is no index."""
    try:
        with path.open("rb") as file:
            for line in file:
                if line.startswith(ENTRY_BYTES):
                    yield _entry_text(line)
    except FileNotFoundError:
        return


class OldIndex:
    """The lines of an index, read side by side with rows by rising record_id."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._line = next(lines, None)
        self._id = -1 if self._line is None else record_id_of(self._line)

    def _advance(self) -> str:
        line = self._line
        assert line is not None
        self._line = next(self._lines, None)
        self._id = -1 if self._line is None else record_id_of(self._line)
        return line

    def before(self, record_id: int) -> Iterator[str]:
        """Take every line of a smaller record_id."""
        while self._line is not None and self._id < record_id:
            yield self._advance()

    def take(self, record_id: int) -> str | None:
        """Take the line of that record_id, if it is the next."""
        return self._advance() if self._line is not None and self._id == record_id else None

    def rest(self) -> Iterator[str]:
        """Take every line that is left."""
        while self._line is not None:
            yield self._advance()


class IndexWriter:
    """Writes a new index beside the old one; its part file is there from the beginning to the end of an export.

    While it is there, an export runs or was interrupted, and folders may be newer than the index says.
    """

    def __init__(self, path: Path, head: IndexHead) -> None:
        self._path = path
        self._part = path.with_name(INDEX_PART)
        self._digest = hashlib.sha256()
        self._pending: list[str] = []
        self._first = True
        self._refused: StoreError | None = None
        self.count = 0
        first_line = {
            "manifest_version": INDEX_VERSION,
            "written_at": head.written_at,
            "source": {"kind": head.kind, "columns": head.columns, **({"schema": head.schema} if head.schema else {})},
        }
        try:
            self._part.unlink(missing_ok=True)
            descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise translate_os_error(error, self._part) from error
        self._file = os.fdopen(descriptor, "wb")
        self._put(json.dumps(first_line, ensure_ascii=False)[:-1] + ', "orders": [\n')

    def _put(self, text: str) -> None:
        if self._refused is not None:
            return
        data = text.encode("utf-8")
        self._digest.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            self._refused = translate_os_error(error, self._path)

    def add(self, line: str) -> None:
        """Add an entry's line; they come by rising record_id. What the disk refuses is reported by `commit`.

        So the orders that are on their way are still given their names and counted.
        """
        self._pending.append(line)
        if len(self._pending) >= 1000:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            text = ",\n".join(self._pending)
            self._put(text if self._first else ",\n" + text)
            self._first = False
            self.count += len(self._pending)
            self._pending.clear()

    def commit(self, state: str = "", *, durable: bool = True) -> None:
        """Write the tail, sync and rename. `state`: see IndexHead.

        Raises:
            StoreError: the disk refused something; the old index stays.
        """
        self._flush()
        if not self._first:
            self._put("\n")
        if self._refused is not None:
            raise self._refused
        try:
            self._digest.update(state.encode())
            tail = f'], "count": {self.count}, "state": "{state}", "checksum": "{self._digest.hexdigest()}"}}\n'
            self._file.write(tail.encode())
            self._file.flush()
            if durable:
                os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self._path)
            if durable:
                sync_folder(self._path.parent)
        except OSError as error:
            raise translate_os_error(error, self._path) from error

    def discard(self) -> None:
        """Remove what was written; the old index stays."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Left early: the part stays, as the mark that folders may be newer than the index.
        if not self._file.closed:
            try:
                self._file.close()
            except OSError:
                return
