"""Where an order's folder is, from its row alone. Links are looked at when the folder is opened, not here."""

from __future__ import annotations

import re

from backup_pipeline.errors import ValidationError
from backup_pipeline.model.order import (
    AUFTRAG_NR,
    CREATED_AT,
    DATA_NAME,
    DATUM,
    FILE_PATH,
    INDEX_NAME,
    META_NAME,
    OrderRow,
)

UNKNOWN_YEAR = "unknown"
_NUMBER = re.compile(r"[0-9]{6}")
_YEAR = re.compile(r"(?:19|20|21)[0-9]{2}")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,5}\Z")
_DEEPEST = 64
# Such a folder would stand where every export must write its index, or another order its pair.
_OWN_NAMES = frozenset({INDEX_NAME, DATA_NAME, META_NAME})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def year_of(row: OrderRow) -> str:
    """Return the order's year, from datum, else created_at, else `unknown`."""
    for value in (row[DATUM], row[CREATED_AT]):
        if isinstance(value, str) and _YEAR.fullmatch(value[:4]) and value[4:5] in ("-", ""):
            return value[:4]
    return UNKNOWN_YEAR


def year_of_path(path: str) -> str:
    """Return the year that a folder of the archive stands under, `unknown` for every other name on the first level."""
    top = path.partition("/")[0]
    return top if top.isdigit() and len(top) == 4 else UNKNOWN_YEAR


def folder_of(row: OrderRow, year: str) -> str:
    """Return the order's folder, relative to the archive, with forward slashes.

    `file_path` names either a file (its last part ends in a dot and one to five letters or digits), whose folder is
    meant, or the folder itself; backslashes count as slashes. Where it is empty or names nothing below the year, the
    folder is `<year>/<auftrag_nr>`.

    Raises:
        ValidationError: the path is absolute, climbs with `..`, holds control characters, is deeper than any archive or
            goes through a name that the archive's own files have; or there is neither a usable path nor a year and a
            number of six digits. The text names the column.
    """
    number, path = row[AUFTRAG_NR], row[FILE_PATH]
    if isinstance(path, str) and path:
        # The way of nearly every order: 2024/076329/076329_Auftrag.pdf, all of it plain.
        parts = path.replace("\\", "/").split("/") if "\\" in path else path.split("/")
        if parts[0] == "" or parts[0][1:2] == ":":
            raise ValidationError("file_path is absolute and may lead out of the archive.")
        if ".." in parts:
            raise ValidationError("file_path climbs with '..' and may lead out of the archive.")
        if _CONTROL.search(path):
            raise ValidationError("file_path holds control characters.")
        parts = [part for part in parts if part not in ("", ".")]
        if parts and _SUFFIX.search(parts[-1]):
            del parts[-1]
        if len(parts) > 1 or (parts and not _YEAR.fullmatch(parts[0])):
            if len(parts) > _DEEPEST:
                raise ValidationError(f"file_path leads through more than {_DEEPEST} folders.")
            if not _OWN_NAMES.isdisjoint(part.casefold() for part in parts):
                raise ValidationError("file_path leads through a folder named like a file of the archive's own.")
            if any(part[0] == "." for part in parts):
                raise ValidationError("file_path leads into a hidden folder.")
            return "/".join(parts)
    if not isinstance(number, str) or not _NUMBER.fullmatch(number):
        raise ValidationError("auftrag_nr is not six digits and file_path names no folder.")
    if year == UNKNOWN_YEAR:
        raise ValidationError("neither datum nor created_at gives a year, and file_path names no folder.")
    return f"{year}/{number}"
