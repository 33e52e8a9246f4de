"""data.csv and meta.json to the byte: values to bytes and back. No files, no clock.

data.csv: UTF-8 without a mark, the header line, one record, lines ended by a line feed. A field is quoted where it
holds a comma, a quote or a line end, quotes inside are doubled; NULL is nothing and an empty string is `""`, as
PostgreSQL's COPY writes them. meta.json: what `json.dumps(…, indent=2, ensure_ascii=False)` writes.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from json.encoder import encode_basestring as json_text
from typing import NamedTuple

from backup_pipeline.errors import ValidationError
from backup_pipeline.sources.orders.format.order import COLUMNS, OrderMeta, OrderRow, TextRow

HEADER = (",".join(COLUMNS) + "\n").encode()
_HEADER_TEXT = HEADER.decode()
_NEEDS_QUOTES = re.compile('[,"\r\n]')
_FIELD = re.compile(r'(?:"((?:[^"]|"")*)"|([^,"\r\n]*))(,|\r\n?|\n|\Z)')
# What format_meta writes for version 1.0, read without the JSON parser.
_META = re.compile(
    rb'\{\n  "schema_version": "1\.0",\n  "checksum": "([0-9a-f]{64})",\n  "exported_at": "([0-9T:+.-]{10,40})",\n'
    rb'  "auftrag_nr": "([0-9]*)",\n  "record_id": (0|-?[1-9][0-9]{0,18}),\n  "file_size": (0|[1-9][0-9]{0,11})\n\}'
)
_QUOTE = '"'
# A field as a writer leaves it that puts a backslash before quotes instead of doubling them.
_ESCAPED_FIELD = re.compile(r'(?:"((?:[^"\\]|\\.|"")*)"|((?:[^,"\\\r\n]|\\.)*))(,|\r\n?|\n|\Z)', re.DOTALL)
_ESCAPE = re.compile(r'\\(.)|""', re.DOTALL)
_HEX64 = re.compile(r"[0-9a-f]{64}")


def data_formatter() -> Callable[[OrderRow], bytes]:
    """Return a function from a row to data.csv's bytes.

    It raises UnicodeEncodeError for text that is not Unicode. The C writer of `csv` does the work; rows with empty
    strings, which it writes like NULL, take the slower way. Both write the same bytes.
    """
    lines: list[str] = []

    class _Sink:
        write = staticmethod(lines.append)

    # With CRLF as terminator every Python quotes both CR and LF inside fields; the record's own end becomes LF.
    write = csv.writer(_Sink(), lineterminator="\r\n").writerow

    def format_row(row: OrderRow) -> bytes:
        if "" in row:
            return (_HEADER_TEXT + ",".join(map(_quoted, row)) + "\n").encode()
        write(row)
        return (_HEADER_TEXT + lines.pop()[:-2] + "\n").encode()

    return format_row


def _quoted(value: int | float | str | None) -> str:
    if value is None:
        return ""
    text = str(value)
    if text == "" or _NEEDS_QUOTES.search(text):
        return '"' + text.replace('"', '""') + '"'
    return text


class ParsedData(NamedTuple):
    """A data.csv. `escaped`: its quotes are escaped by a backslash, as some writers of CSV do, instead of doubled."""

    header: tuple[str, ...]
    record: TextRow
    escaped: bool = False


def parse_data(data: bytes) -> tuple[tuple[str, ...], TextRow]:
    """Return header and record of a data.csv, as `parse_any_data` does."""
    found = parse_any_data(data)
    return found.header, found.record


def parse_any_data(data: bytes) -> ParsedData:
    """Return what a data.csv holds, whoever wrote it.

    Line ends may be CRLF, the last may be missing, there may be a byte order mark, and quotes inside of a field may be
    escaped by a backslash where they cannot be read as doubled.

    Raises:
        ValidationError: not UTF-8, not one record, or not as many fields as the header has.
    """
    if data.startswith(HEADER) and (record := _one_record(data[len(HEADER) :])) is not None:
        return ParsedData(COLUMNS, record)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValidationError(f"data.csv is not UTF-8 (byte {error.start}).") from None
    text = text.removeprefix("\ufeff")
    try:
        return _doubled(text)
    except ValidationError:
        if '\\"' in text and (found := _backslashed(text)) is not None:
            return found
        raise


def _doubled(text: str) -> ParsedData:
    """Read quotes inside of fields as doubled, as the format has it."""
    csv.field_size_limit(1 << 30)
    try:
        records = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ValidationError(f"data.csv is not CSV ({error}).") from None
    if len(records) != 2:
        raise ValidationError(f"data.csv holds {max(0, len(records) - 1)} records instead of one.")
    header, values = records
    if len(header) != len(values):
        raise ValidationError(f"data.csv has {len(header)} columns and {len(values)} values.")
    return ParsedData(tuple(header), _with_nulls(text, len(header)))


def _backslashed(whole_text: str) -> ParsedData | None:
    """Read quotes inside of fields as escaped by a backslash; None where that does not give one whole record."""
    header, end, rest = whole_text.partition("\n")
    names = tuple(header.rstrip("\r").split(","))
    if not end or len(names) < 2:
        return None
    fields: list[str | None] = []
    at = 0
    while found := _ESCAPED_FIELD.match(rest, at):
        quoted, plain, ends = found.groups()
        text = plain if quoted is None else quoted
        value = _ESCAPE.sub(lambda one: one[1] or _QUOTE, text)
        fields.append(value if quoted is not None else value or None)
        at = found.end()
        if ends != ",":
            break
    whole = found is not None and at == len(rest) and len(fields) == len(names)
    return ParsedData(names, tuple(fields), escaped=True) if whole else None


def _one_record(line: bytes) -> TextRow | None:
    """Return the record of a file with our header, as nearly all are; None where the longer way has to inspect it."""
    csv.field_size_limit(1 << 30)
    try:
        text = line.decode("utf-8").removesuffix("\n").removesuffix("\r")
        # Given as one line, so a line end outside of quotes is an error here.
        record = next(csv.reader((text,), strict=True))
    except (UnicodeDecodeError, csv.Error, StopIteration):
        return None
    if len(record) != len(COLUMNS) or text[-1] in "\r\n":
        return None
    # `csv` takes a quote in the middle of a field that does not begin with one.
    if any('"' in field and f'"{field.replace(_QUOTE, _QUOTE * 2)}"' not in text for field in record):
        return None
    if "" not in record:
        return tuple(record)
    # An empty field between quotes stands beside a comma or an end; without one every empty field is NULL.
    if ',"",' in text or text.startswith('"",') or text.endswith(',""'):
        return None
    return tuple([field or None for field in record])


def _with_nulls(text: str, count: int) -> TextRow:
    """Return the record's fields with NULL (nothing) and empty text (`\"\"`) distinguished."""
    ends = [at for at in (text.find("\n"), text.find("\r")) if at >= 0]
    at = min(ends) + (2 if text[min(ends)] == "\r" and text[min(ends) + 1 : min(ends) + 2] == "\n" else 1)
    fields: list[str | None] = []
    while len(fields) < count:
        found = _FIELD.match(text, at)
        if found is None:
            raise ValidationError("data.csv has a quote in the middle of a field.")
        quoted, plain, _ = found.groups()
        fields.append(quoted.replace('""', '"') if quoted is not None else plain or None)
        at = found.end()
    return tuple(fields)


def format_meta(meta: OrderMeta) -> bytes:
    """Return meta.json's bytes."""
    number = "null" if meta.auftrag_nr is None else json_text(meta.auftrag_nr)
    return (
        f'{{\n  "schema_version": {json_text(meta.schema_version)},\n  "checksum": "{meta.checksum}",\n'
        f'  "exported_at": {json_text(meta.exported_at)},\n  "auftrag_nr": {number},\n'
        f'  "record_id": {meta.record_id},\n  "file_size": {meta.file_size}\n}}'
    ).encode()


def parse_meta(data: bytes) -> OrderMeta:
    """Return what a meta.json says; further fields of later versions are left alone.

    Raises:
        ValidationError: not JSON, or a field is missing or of the wrong type; names the field.
    """
    if found := _META.fullmatch(data):
        checksum, exported_at, number, record_id, size = found.groups()
        return OrderMeta("1.0", checksum.decode(), exported_at.decode(), number.decode(), int(record_id), int(size))
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        raise ValidationError("meta.json is not JSON.") from None
    if not isinstance(raw, dict):
        raise ValidationError("meta.json is not a JSON object.")
    try:
        meta = OrderMeta(*[raw[name] for name in OrderMeta._fields])
    except KeyError as error:
        raise ValidationError(f"meta.json lacks {error.args[0]}.") from None
    for name in ("schema_version", "exported_at"):
        if not isinstance(raw[name], str):
            raise ValidationError(f"meta.json: {name} is not text.")
    for name in ("record_id", "file_size"):
        if type(raw[name]) is not int:
            raise ValidationError(f"meta.json: {name} is not a whole number.")
    if not isinstance(meta.checksum, str) or not _HEX64.fullmatch(meta.checksum):
        raise ValidationError("meta.json: checksum is not a SHA-256 in hex.")
    if meta.auftrag_nr is not None and not isinstance(meta.auftrag_nr, str):
        raise ValidationError("meta.json: auftrag_nr is not text.")
    return meta
