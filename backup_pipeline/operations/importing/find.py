"""Finding backups of other tools in folders: dumps, tarballs, folders of exported tables. Opens no link."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path

from backup_pipeline.errors import SettingsError
from backup_pipeline.model.manifest import MANIFEST_NAME
from backup_pipeline.rules.backup_names import BackupTime, time_of
from backup_pipeline.system.files import open_ordinary, read_chunks

_DEEPEST = 8
_ABOVE = 2
FormsOf = Callable[[Path], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that may be imported.

    Attributes:
        path: the file, or the folder of an archive or of exported tables.
        forms: kind of source → what its backup is called, for the kinds that it can be of.
        time: when it was made.
        above: the names of the folders above it, the nearest first.
        part: of a file that holds several backups, which of them.
    """

    path: Path
    forms: Mapping[str, str]
    time: BackupTime
    above: tuple[str, ...] = ()
    part: str = ""

    @property
    def label(self) -> str:
        """What it is called for people."""
        return f"{self.path.name} ({self.part})" if self.part else self.path.name


@dataclass(frozen=True, slots=True)
class PassedOver:
    """What is not imported, with the reason. `refused` is a backup that cannot be; the rest are other files, or the
    `part` of a file."""

    path: Path
    why: str
    remedy: str = ""
    refused: bool = False
    part: str = ""


def candidates(places: Sequence[Path], zone: tzinfo, forms_of: FormsOf) -> Iterator[Candidate | PassedOver]:
    """Yield what may be imported of the files and folders that are named, and what is not.

    Args:
        places: the files and folders.
        zone: of times in names that say none.
        forms_of: says what a file or folder is a backup of.

    Raises:
        SettingsError: one of them does not exist.
    """
    for place in places:
        if not os.path.lexists(place):
            raise SettingsError("There is no such file or folder.", where=str(place), remedy="Correct the path.")
        yield from _at(place.absolute(), zone, forms_of, ())


def _at(path: Path, zone: tzinfo, forms_of: FormsOf, above: tuple[str, ...]) -> Iterator[Candidate | PassedOver]:
    try:
        status = path.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode) or not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            yield PassedOver(path, "is a link or no ordinary file")
            return
        if forms := forms_of(path):
            time = time_of((path.name, *above[:_ABOVE]), _modified(path, status), zone)
            yield Candidate(path, forms, time, above[:_ABOVE])
        elif stat.S_ISREG(status.st_mode):
            yield PassedOver(path, "is no backup that is known here")
        elif (path / MANIFEST_NAME).is_file():
            yield PassedOver(path, "is a set of this program")
        elif len(above) < _DEEPEST:
            for below in sorted(path.iterdir()):
                if not below.name.startswith("."):
                    yield from _at(below, zone, forms_of, (path.name, *above))
    except OSError as error:
        yield PassedOver(
            path, f"cannot be read ({error.strerror})", "Give this user the right to read it.", refused=True
        )


def _modified(path: Path, status: os.stat_result) -> float:
    if stat.S_ISREG(status.st_mode):
        return status.st_mtime
    return max((each.stat(follow_symlinks=False).st_mtime for each in path.iterdir()), default=status.st_mtime)


def digest_of(path: Path) -> str:
    """Return SHA-256 in hex of a file; of a folder, of the names and digests of its files."""
    digest = hashlib.sha256()
    if path.is_dir():
        for each in sorted(path.iterdir()):
            if each.is_file() and not each.is_symlink():
                digest.update(os.fsencode(each.name) + b"\0" + digest_of(each).encode() + b"\n")
        return digest.hexdigest()
    with open_ordinary(path) as file:
        for piece in read_chunks(file):
            digest.update(piece)
    return digest.hexdigest()
