"""Where an order's folder is, from its row: which folders `file_path` can mean, and which of them is meant by default.

`file_path` says it relative to the archive, to a folder above it (where the application was started), to the database's
folder, or absolutely. What the disk holds decides between them (`sources.orders.archive.places`); nothing is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from backup_pipeline.errors import ValidationError
from backup_pipeline.sources.orders.format.order import (
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
# The path of nearly every order, 2024/076329/076329_Auftrag.pdf: letters, digits and a few signs, no dot in a folder.
_PLAIN = re.compile(r"((?:19|20|21)[0-9]{2}(?:/[\w-]+){1,8})/[\w. -]+\.[A-Za-z0-9]{1,5}")
_ABSOLUTE = "file_path is absolute and may lead out of the archive."
_CLIMBS = "file_path climbs with '..' and may lead out of the archive."


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


Parts = tuple[str, ...]


class Ground:
    """Where an archive and its database lie: what a `file_path` can be relative to.

    Args:
        archives: absolute paths of the archive's folder: as it was named, and with links followed.
        database: absolute path of the folder of the database file; None where it is no file.
    """

    def __init__(self, archives: tuple[str, ...] = (), database: str | None = None) -> None:
        self.archives: tuple[Parts, ...] = tuple(dict.fromkeys(_parts_of(path) for path in archives))
        self.database = None if database is None else _parts_of(database)
        self._names = frozenset(name for archive in self.archives for name in archive)
        within = self.database is not None and self.inside((*self.database, "")) not in (None, ("",))
        self.plain_years = not within and not any(_YEAR.fullmatch(name) for name in self._names)
        """Whether a path that begins with a year can only be relative to the archive."""

    def inside(self, parts: Parts) -> Parts | None:
        """Return the part of an absolute path that lies below the archive; None when it lies outside."""
        for archive in self.archives:
            if len(parts) > len(archive) and parts[: len(archive)] == archive:
                return parts[len(archive) :]
        return None

    def below_ancestors(self, parts: Parts) -> Iterator[Parts]:
        """Yield what a path means when it is relative to a folder above the archive, the highest of them first."""
        if parts[0] not in self._names:
            return
        for archive in self.archives:
            for count in range(min(len(archive), len(parts) - 1), 0, -1):
                if parts[:count] == archive[-count:]:
                    yield parts[count:]

    def resolved(self, parts: Parts) -> Iterator[Parts]:
        """Yield what a relative path with `..` means below the archive, from each folder that it can be relative to."""
        for base in (*self.archives, *(archive[:-1] for archive in self.archives), self.database):
            if base is not None and (whole := _normal((*base, *parts))) and (inner := self.inside(whole)):
                yield inner

    def beside_database(self, parts: Parts) -> Parts | None:
        """Return what a path means when it is relative to the database's folder, where that is below the archive."""
        return None if self.database is None else self.inside((*self.database, *parts))


NOWHERE = Ground()


def _parts_of(path: str) -> Parts:
    return tuple(part for part in PurePosixPath(path).parts if part != "/")


def _normal(parts: Parts) -> Parts | None:
    """Return the parts with every `..` carried out; None when they climb above the root."""
    out: list[str] = []
    for part in parts:
        if part != "..":
            out.append(part)
        elif not out:
            return None
        else:
            out.pop()
    return tuple(out)


@dataclass(frozen=True, slots=True)
class Places:
    """Which folders of the archive an order's row can mean.

    Attributes:
        file: name of the order's file; "" where `file_path` names a folder or nothing.
        folders: by precedence, relative to the archive; each is meant where the order's file is there.
        default: the one that is meant where the file is in none of them; "" where none can be meant then.
        refused: why none can be meant, where `default` is "".
        first: the first part of the path as written; where there is no such folder in the archive,
            `from_year` is meant instead of `default`.
        from_year: the path from its first part that is a year on; "" where that says nothing else.
    """

    file: str
    folders: tuple[str, ...]
    default: str
    refused: str = ""
    first: str = ""
    from_year: str = ""

    @property
    def certain(self) -> bool:
        """Whether the disk need not be asked."""
        return len(self.folders) == 1 and self.default == self.folders[0] and not self.from_year


def plain_folder(row: OrderRow, ground: Ground) -> str | None:
    """Return the folder of an order whose path is plain and can mean nothing else; None for every other."""
    path = row[FILE_PATH]
    if not isinstance(path, str) or not ground.plain_years:
        return None
    found = _PLAIN.fullmatch(path)
    return found[1] if found else None


def places_of(row: OrderRow, year: str, ground: Ground = NOWHERE) -> Places:
    """Return the folders that an order's row can mean.

    Args:
        row: the order.
        year: as `year_of` says.
        ground: where the archive lies.

    Raises:
        ValidationError: the path climbs out of the archive with `..`, holds control characters, is deeper than any
            archive or goes through a name that the archive's own files have; or there is neither a usable path nor a
            year and a number of six digits. The text names the column.
    """
    path = row[FILE_PATH]
    if not isinstance(path, str) or not path:
        only = _year_and_number(row, year)
        return Places("", (only,), only)
    if _CONTROL.search(path):
        raise ValidationError("file_path holds control characters.")
    slashed = path.replace("\\", "/") if "\\" in path else path
    named = slashed.split("/")
    parts = tuple(part for part in named if part not in ("", "."))
    file = parts[-1] if parts and _SUFFIX.search(parts[-1]) else ""
    if named[0] == "" or named[0][1:2] == ":":
        inner = _normal(parts)
        inside = ground.inside(inner) if inner else None
        likely = [inside] if inside else []
        return _judged(row, year, file, likely, _shortened(parts), _ABSOLUTE)
    if ".." in parts:
        return _judged(row, year, file, list(ground.resolved(parts)), [], _CLIMBS)
    if not parts:
        only = _year_and_number(row, year)
        return Places("", (only,), only)
    if _YEAR.fullmatch(parts[0]):
        # The way of nearly every order: 2024/076329/076329_Auftrag.pdf, all of it plain.
        likely = [parts, *ground.below_ancestors(parts)]
    else:
        likely = [*ground.below_ancestors(parts), parts]
    if (beside := ground.beside_database(parts)) is not None:
        likely.append(beside)
    if _YEAR.fullmatch(parts[0]):
        return _judged(row, year, file, likely, [], "")
    return _judged(row, year, file, likely, _shortened(parts), "", first=parts[0] if likely[0] == parts else "")


def _shortened(parts: Parts) -> list[Parts]:
    """Return the path without its first folders: an archive that lay elsewhere when the row was written."""
    return [parts[begin:] for begin in range(1, len(parts) - 1)]


def _judged(
    row: OrderRow, year: str, file: str, likely: list[Parts], shortened: list[Parts], refused: str, *, first: str = ""
) -> Places:
    folders = [_folder(row, year, parts) for parts in likely]
    from_year = ""
    for parts in shortened:
        try:
            folder = _folder(row, year, parts)
        except ValidationError:
            continue
        if first and not from_year and _YEAR.fullmatch(parts[0]):
            from_year = folder
        folders.append(folder)
    folders = list(dict.fromkeys(folders))
    if not likely:
        return Places(file, tuple(folders), "", refused)
    return Places(file, tuple(folders), folders[0], first=first, from_year=from_year)


def _folder(row: OrderRow, year: str, parts: Parts) -> str:
    """Return the folder that a path relative to the archive means."""
    if parts and _SUFFIX.search(parts[-1]):
        parts = parts[:-1]
    if not (len(parts) > 1 or (parts and not _YEAR.fullmatch(parts[0]))):
        return _year_and_number(row, year)
    if len(parts) > _DEEPEST:
        raise ValidationError(f"file_path leads through more than {_DEEPEST} folders.")
    if not _OWN_NAMES.isdisjoint(part.casefold() for part in parts):
        raise ValidationError("file_path leads through a folder named like a file of the archive's own.")
    if ".." in parts:
        raise ValidationError(_CLIMBS)
    if any(part[0] == "." for part in parts):
        raise ValidationError("file_path leads into a hidden folder.")
    return "/".join(parts)


def _year_and_number(row: OrderRow, year: str) -> str:
    number = row[AUFTRAG_NR]
    if not isinstance(number, str) or not _NUMBER.fullmatch(number):
        raise ValidationError("auftrag_nr is not six digits and file_path names no folder.")
    if year == UNKNOWN_YEAR:
        raise ValidationError("neither datum nor created_at gives a year, and file_path names no folder.")
    return f"{year}/{number}"
