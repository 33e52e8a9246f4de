"""Contents of artefacts: the files inside a tarball or an archive, listed and read one by one without restoring."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast

from backup_pipeline.artefacts.types import OpenFile, artefact_types
from backup_pipeline.errors import SetNotFoundError
from backup_pipeline.model.record import ArtefactRecord


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of an artefact's tree.

    Attributes:
        path: with forward slashes; bytes that are not UTF-8 as surrogate escapes. It may be hostile: it is shown, and
            compared with other paths, but never opened on this machine.
        kind: only files have content.
        size: bytes.
        modified_ns: nanoseconds since 1970; None where it is not known.
        sha256: of the content; "" where it is not known.
        mark: what stands for the content where its SHA-256 is not known, with its kind: `git 3f2a…`, `crc32 9b01…`.
        note: what a person should know of an entry that is no file.
    """

    path: str
    kind: Literal["file", "directory", "link", "other"]
    size: int = 0
    modified_ns: int | None = None
    sha256: str = ""
    note: str = ""
    mark: str = ""

    @property
    def digest(self) -> str:
        """What tells the content from others, with its kind; "" where nothing is known."""
        return f"sha256 {self.sha256}" if self.sha256 else self.mark


class Contents(Protocol):
    """What lies in the files of artefacts of one type. A class without state."""

    def entries(self, open_file: OpenFile, record: ArtefactRecord) -> Iterator[Entry]:
        """Yield every entry; ValidationError where the artefact is damaged."""

    def read(self, open_file: OpenFile, record: ArtefactRecord, path: str) -> Iterator[bytes]:
        """Yield the content of one file in pieces, the first piece only once it was found.

        Raises:
            SetNotFoundError: there is no such file. ValidationError: the artefact is damaged.
        """


def contents_of(record: ArtefactRecord) -> Contents | None:
    """Return what gives an artefact's contents; None where they are no tree."""
    known = artefact_types().get(record.kind)
    if known is None or not known.contents or not record.files:
        return None
    module, _, name = known.contents.partition(":")
    return cast(Contents, getattr(importlib.import_module(module), name)())


def no_such_file(record: ArtefactRecord, path: str) -> SetNotFoundError:
    """Return the error of a path that an artefact has not got."""
    return SetNotFoundError(
        "There is no such file.", where=f"{record.name}: {path[:200]!r}", remedy="Choose one of those that are listed."
    )


def selected(entries: Iterable[Entry], wanted: Sequence[str]) -> tuple[dict[str, Entry], tuple[str, ...]]:
    """Return the files that are meant by paths of files and folders, by path, and the paths that mean none."""
    exact = {path.strip("/") for path in wanted}
    found: dict[str, Entry] = {}
    used: set[str] = set()
    for entry in entries:
        if entry.kind != "file":
            continue
        parts = entry.path.split("/")
        above = {"/".join(parts[:depth]) for depth in range(1, len(parts) + 1)} & exact
        if above:
            used |= above
            found[entry.path] = entry
    return found, tuple(sorted(exact - used))
