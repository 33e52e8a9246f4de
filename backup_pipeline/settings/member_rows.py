"""The members of fleets as rows of plain values: from a list, or from a JSON, YAML or CSV file that others write.

Whoever writes the file writes no settings: rows hold text and numbers, and what is wrong with one leaves the others.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backup_pipeline.errors import SettingsError
from backup_pipeline.settings.document import read_document

_MOST_BYTES = 64 << 20
_DEEPEST, _LONGEST, _MOST_FIELDS = 4, 8, 200
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REMEDY = "Correct what writes the file; docs/fleets.md shows its forms."


@dataclass(frozen=True, slots=True)
class MemberRow:
    """One member as its list has it.

    Attributes:
        where: file and row, for messages.
        fields: its values as text, by name; empty ones are absent.
    """

    where: str
    fields: Mapping[str, str]


def rows_of_list(entries: Sequence[Mapping[str, Any]], where: str) -> list[MemberRow]:
    """Return the rows of a list in backup.yaml, or of a document."""
    return [MemberRow(f"{where}, row {number}", _plain(entry)) for number, entry in enumerate(entries, 1)]


def rows_of_file(path: Path, at: str, name: str) -> list[MemberRow]:
    """Return the rows of a file; its form follows from the ending of its name.

    Args:
        path: the file.
        at: where the rows stand in a document, keys separated by points.
        name: the field that names a member: where rows are a mapping it takes the key.

    Raises:
        SettingsError: it cannot be read, or is none of these forms.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise _wrong(path, f"it is larger than {_MOST_BYTES >> 20} MB")
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise _wrong(path, f"it cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise _wrong(path, "it is not UTF-8 text") from error
    if path.suffix.lower() in (".csv", ".tsv"):
        return list(_rows_of_csv(text, path))
    return rows_of_list(_entries(_document(text, path), at, name, path), path.name)


def _document(text: str, path: Path) -> Any:
    if path.suffix.lower() == ".json":
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _wrong(path, f"it is not JSON: {error}") from error
    document = read_document(text)
    if document.faults:
        raise _wrong(path, document.faults[0].text(path.name))
    return document.data


def _entries(data: Any, at: str, name: str, path: Path) -> list[Mapping[str, Any]]:
    for key in at.split(".") if at else ():
        if not isinstance(data, dict) or key not in data:
            raise _wrong(path, f"it has nothing at {at} (sources_from.at)")
        data = data[key]
    if isinstance(data, dict):
        data = [{name: key, **entry} if isinstance(entry, dict) else entry for key, entry in data.items()]
    if not isinstance(data, list):
        raise _wrong(path, "it holds no list of members, nor a mapping of their names")
    return [{name: each} if isinstance(each, str) else each if isinstance(each, dict) else {} for each in data]


def _rows_of_csv(text: str, path: Path) -> Iterator[MemberRow]:
    try:
        delimiter = csv.Sniffer().sniff(text[:4096], ",;\t").delimiter
    except csv.Error:
        delimiter = ","
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter)
    try:
        heads = [head.strip() for head in next(reader, [])]
        for values in reader:
            if any(value.strip() for value in values):
                yield MemberRow(f"{path.name}, line {reader.line_num}", _plain(dict(zip(heads, values, strict=False))))
    except csv.Error as error:
        raise _wrong(path, f"line {reader.line_num} is not CSV: {error}") from error


def _plain(entry: Mapping[str, Any]) -> dict[str, str]:
    """Return what can stand in a template: text, numbers and truth, none of them empty.

    What is nested is named by its way: `Endpoint_Address` for `{"Endpoint": {"Address": …}}`, `ips_0` for a list.
    """
    found: dict[str, str] = {}

    def take(value: Any, name: str, depth: int) -> None:
        if isinstance(value, (dict, list)) and depth < _DEEPEST:
            for key, each in value.items() if isinstance(value, dict) else enumerate(value[:_LONGEST]):
                take(each, f"{name}_{key}" if name else str(key), depth + 1)
        elif isinstance(value, (str, int, float)) and _FIELD.fullmatch(name) and len(found) < _MOST_FIELDS:
            text = str(value).lower() if isinstance(value, bool) else str(value).strip()
            if text:
                found.setdefault(name, text)

    take(dict(entry), "", 0)
    return found


def _wrong(path: Path, what: str) -> SettingsError:
    return SettingsError(f"The members of a fleet cannot be read: {what}.", where=str(path), remedy=_REMEDY)
