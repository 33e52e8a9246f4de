"""Files inside tarballs and ZIP archives of sets: their tree, and the content of one of them."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import UTC, datetime

from backup_pipeline.archives.tarball import CHUNK, EntryKind, State
from backup_pipeline.archives.tarball_reader import read_listing, read_members
from backup_pipeline.archives.zipfiles import entry_mode, read_entries, zip_directory
from backup_pipeline.artefacts.contents import Entry, no_such_file
from backup_pipeline.artefacts.types import OpenFile
from backup_pipeline.errors import ValidationError
from backup_pipeline.model.record import ArtefactRecord

_KINDS = {EntryKind.FILE: "file", EntryKind.FOLDER: "directory", EntryKind.LINK: "link"}


class TarballContents:
    """A tarball with its listing."""

    def entries(self, open_file: OpenFile, record: ArtefactRecord) -> Iterator[Entry]:
        """Yield the members from the listing, which is small; the tarball is not read."""
        _, listing = _two_files(record)
        with open_file(listing) as lines:
            for member in read_listing(lines, listing):
                if member.kind is not EntryKind.VANISHED and member.state is not State.SUPERSEDED:
                    kind = _KINDS.get(member.kind, "other")
                    yield Entry(member.path, kind, member.size, member.mtime_ns, member.sha256)  # type: ignore[arg-type]

    def read(self, open_file: OpenFile, record: ArtefactRecord, path: str) -> Iterator[bytes]:
        """Yield a file's content; the tarball is read up to it."""
        tarball, listing = _two_files(record)
        # Of a file that changed while it was captured the last copy counts.
        with open_file(listing) as lines:
            copies = [m.state for m in read_listing(lines, listing) if m.kind is EntryKind.FILE and m.path == path]
        if State.WHOLE not in copies and State.CHANGED not in copies:
            raise no_such_file(record, path)
        number = next(n for n, state in enumerate(copies) if state is not State.SUPERSEDED)
        with open_file(tarball) as archive:
            for member, content in read_members(archive, tarball):
                if member.path != path or content is None:
                    continue
                if number == 0:
                    while piece := content.read(CHUNK):
                        yield piece
                    return
                number -= 1
        raise ValidationError("The tarball lacks a file of its listing.", where=tarball, remedy="Use another set.")


class ZipContents:
    """The ZIP of a repository's files."""

    def entries(self, open_file: OpenFile, record: ArtefactRecord) -> Iterator[Entry]:
        """Yield the entries from the archive's directory."""
        name = record.files[0].path
        with open_file(name) as archive:
            for info in zip_directory(archive, name):
                mode = entry_mode(info)
                kind = "directory" if info.is_dir() else "link" if stat.S_ISLNK(mode) else "file"
                moment = datetime(*info.date_time, tzinfo=UTC) if _is_moment(info.date_time) else None
                when = int(moment.timestamp()) * 1_000_000_000 if moment else None
                mark = f"crc32 {info.CRC:08x}" if kind == "file" else ""
                yield Entry(info.filename.rstrip("/"), kind, info.file_size, when, mark=mark)  # type: ignore[arg-type]

    def read(self, open_file: OpenFile, record: ArtefactRecord, path: str) -> Iterator[bytes]:
        """Yield a file's content."""
        name = record.files[0].path
        with open_file(name) as archive:
            for info, content in read_entries(archive, name, only=path):
                left = info.file_size
                while piece := content.read(CHUNK):
                    left -= len(piece)
                    if left < 0:
                        raise ValidationError("An entry is longer than it says.", where=name, remedy="Use another set.")
                    yield piece
                return
        raise no_such_file(record, path)


def _two_files(record: ArtefactRecord) -> tuple[str, str]:
    if len(record.files) != 2:
        raise ValidationError(
            "The record does not name a tarball and its listing.", where=record.name, remedy="Use another set."
        )
    return record.files[0].path, record.files[1].path


def _is_moment(parts: tuple[int, int, int, int, int, int]) -> bool:
    try:
        datetime(*parts, tzinfo=UTC)
    except ValueError:
        return False
    return True
