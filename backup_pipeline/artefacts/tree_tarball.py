"""Capture of folder trees into a tarball with its listing, for every kind of source that has folders."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.archives.tarball import (
    EntryKind,
    Member,
    State,
    TarballWriter,
    shown,
)
from backup_pipeline.archives.tarball_beside import TarballReadBeside
from backup_pipeline.archives.tarball_reader import compare_members, read_listing
from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.errors import SourceError, ValidationError
from backup_pipeline.model.base import JsonValue
from backup_pipeline.model.progress import Progress
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord, CheckResult, Severity
from backup_pipeline.rules.collapse import size_check
from backup_pipeline.settings.types import CollapseCheck
from backup_pipeline.system.streams import Sink, compressed_sink, gunzip

NAMED_AT_MOST = 20
"""Paths that a record or an error names one by one; the rest is counted (all are in the listing)."""
LISTING_SUFFIX = ".listing.jsonl.gz"
TARBALL_SUFFIX = ".tar.gz"
_TRIES = 2
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Root:
    """A folder or single file, and the path under which it stands in the tarball ("" for the top)."""

    prefix: str
    place: Path


@dataclass(slots=True)
class _Found:
    """What one capture met."""

    counts: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    allocated: int = 0
    too_long: bool = False
    named: dict[str, list[str]] = field(default_factory=dict)
    by_root: dict[str, Counter[str]] = field(default_factory=dict)
    again: list[tuple[str, str]] = field(default_factory=list)

    def note(self, what: str, path: str) -> None:
        self.counts[what] += 1
        names = self.named.setdefault(what, [])
        if len(names) < NAMED_AT_MOST:
            names.append(shown(path))


def walk(root: Root, unreadable: Callable[[str, OSError], None]) -> Iterator[tuple[str, os.DirEntry[str] | Path]]:
    """Yield path in the tarball and entry of everything below `root`, sorted by name, folders before their content.

    Symbolic links are yielded and not followed (the root itself may be one). Memory grows with the largest folder and
    the depth, not with the tree.
    """
    if root.place.is_file():
        yield root.prefix, root.place
        return
    stack = [_sorted_entries(str(root.place), root.prefix, unreadable)]
    while stack:
        step = next(stack[-1], None)
        if step is None:
            stack.pop()
            continue
        path, entry = step
        yield path, entry
        if entry.is_dir(follow_symlinks=False):
            stack.append(_sorted_entries(entry.path, path, unreadable))


def _sorted_entries(
    folder: str, prefix: str, unreadable: Callable[[str, OSError], None]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    except FileNotFoundError:
        return
    except OSError as error:
        unreadable(prefix or folder, error)
        return
    for entry in entries:
        yield (f"{prefix}/{entry.name}" if prefix else entry.name), entry


def nothing_inside(roots: tuple[Root, ...] | list[Root]) -> bool:
    """Return whether there is no regular file below any of the roots; a folder that cannot be read may hold one."""
    closed: list[str] = []
    for root in roots:
        for _, entry in walk(root, lambda path, error: closed.append(path)):
            if isinstance(entry, Path) or entry.is_file(follow_symlinks=False):
                return False
    return not closed


def capture_tarball(
    context: CaptureContext,
    *,
    key: tuple[str, ...],
    stem: str,
    roots: tuple[Root, ...],
    label: str,
    details: dict[str, JsonValue],
    collapse: CollapseCheck,
) -> ArtefactRecord:
    """Write `<stem>.tar.gz` and `<stem>.listing.jsonl.gz`, re-read both, and store and return the record.

    Where the tarball leaves the machine while it is written it is read on the way instead.

    Raises:
        SourceError: files or folders cannot be read; the first twenty are named. Nothing appears in the set.
    """
    started_at = context.now()
    writer = context.writer
    found = _Found()
    tarball, listing = stem + TARBALL_SUFFIX, stem + LISTING_SUFFIX
    with writer.create(listing) as listing_file, writer.create(tarball, stream=True) as tarball_file:
        beside = TarballReadBeside(tarball_file, tarball) if writer.streams else None
        with beside or contextlib.nullcontext():
            with (
                compressed_sink(listing_file, hashed=writer.streams) as packed,
                TarballWriter(beside or tarball_file) as archive,
            ):
                _write(context, roots, archive, _ListingLines(packed, beside), found)
            _refuse_unreadable(found, label)
        for path, name in archive.lost:
            found.note("attribute", f"{path}: {name}")
        found.allocated = archive.allocated
    files = (writer.file_record(tarball, tarball_file), writer.file_record(listing, listing_file))
    record = ArtefactRecord(
        key=key,
        source=context.source,
        kind=ArtefactKind.FOLDER_TARBALL,
        set_id=writer.draft.set_id,
        files=files,
        source_label=label,
        started_at=started_at,
        finished_at=context.now(),
        details={**details, **_details(found, listing)},
    )
    if beside is None:
        problems = tuple(inspect_tarball(writer.open, record))
    else:
        problems = tuple(_found_beside(beside, tarball, found))
        problems += tuple(_listing_problems(writer.open, listing, packed.content_sha256))
    checks = (_complete(problems, found), _stable(found), _plain(found), _size(context, record, found, collapse))
    record = record.model_copy(update={"checks": checks, "finished_at": context.now()})
    writer.write_record(record)
    return record


class _ListingLines:
    """Where a listing's lines go: into its file, and to whoever reads the tarball beside."""

    def __init__(self, file: Sink, beside: TarballReadBeside | None) -> None:
        self._file = file
        self._beside = beside

    def keep(self, member: Member) -> None:
        self._file.write(member.line())
        if self._beside is not None and member.stored:
            self._beside.expect(member)


def _found_beside(beside: TarballReadBeside, tarball: str, found: _Found) -> Iterator[Finding]:
    for each in beside.wrong:
        yield Finding(subject=f"{tarball}: {shown(each.path)}", problem=each.wrong)
    members = found.counts["file"] + found.counts["folder"] + found.counts["superseded"]
    if not beside.wrong and beside.compared != members:
        yield Finding(subject=tarball, problem=f"{beside.compared} members were read where {members} were written.")


def _listing_problems(open_file: Callable[[str], BinaryIO], listing: str, expected: str | None) -> Iterator[Finding]:
    """Yield what is wrong with a listing that is read again: its content is not what was written."""
    digest = hashlib.sha256()
    try:
        with open_file(listing) as file:
            for piece in gunzip(file, name=listing):
                digest.update(piece)
    except ValidationError as error:
        yield Finding(subject=error.where, problem=error.what)
        return
    if digest.hexdigest() != expected:
        yield Finding(subject=listing, problem="The content is not what was written.")


def _write(
    context: CaptureContext, roots: tuple[Root, ...], archive: TarballWriter, lines: _ListingLines, found: _Found
) -> None:
    def unreadable(path: str, error: OSError) -> None:
        found.too_long = found.too_long or error.errno == errno.ENAMETOOLONG
        short = path if len(path) <= _SHOWN else f"{path[: _SHOWN // 2]}…{path[-_SHOWN // 2 :]}"
        found.note("unreadable", f"{short} ({error.strerror})")

    for root in roots:
        here = found.by_root.setdefault(root.prefix, Counter())
        if root.prefix and root.place.is_dir():
            _keep(archive.add_folder(root.prefix, root.place.stat(), root.place), lines, found, here)
        for path, entry in walk(root, unreadable):
            if found.counts["unreadable"]:
                # There will be no tarball: only find out what else cannot be read, so that one message names all.
                _inspect(path, entry, unreadable)
                continue
            member = _add(archive, path, entry, unreadable)
            if member is not None:
                _keep(member, lines, found, here)
                if member.state is State.SUPERSEDED:
                    found.again.append((path, str(entry if isinstance(entry, Path) else entry.path)))
                if found.counts["file"] % 256 == 0 or member.size > (1 << 20):
                    context.progress(Progress(context.source, found.bytes))
    if not found.counts["unreadable"]:
        for path, place in found.again:
            _again(archive, path, place, lines, found)
    context.progress(Progress(context.source, found.bytes, finished=True))


def _add(
    archive: TarballWriter, path: str, entry: os.DirEntry[str] | Path, unreadable: Callable[[str, OSError], None]
) -> Member | None:
    try:
        if isinstance(entry, Path) or entry.is_file(follow_symlinks=False):
            member = archive.add_file(path, entry if isinstance(entry, Path) else entry.path)
            if member.state is State.CHANGED and archive.large(member):
                # It is in the stream already; it goes in once more at the end, and that one counts.
                return replace(member, state=State.SUPERSEDED)
            return member
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            return archive.add_folder(path, status, entry.path)
        return Member(path, EntryKind.LINK if stat.S_ISLNK(status.st_mode) else EntryKind.SPECIAL)
    except FileNotFoundError:
        return Member(path, EntryKind.VANISHED)
    except OSError as error:
        unreadable(path, error)
        return None


def _inspect(path: str, entry: os.DirEntry[str] | Path, unreadable: Callable[[str, OSError], None]) -> None:
    regular = isinstance(entry, Path) or entry.is_file(follow_symlinks=False)
    if regular and not os.access(entry, os.R_OK):
        unreadable(path, PermissionError(13, "Permission denied"))


def _again(archive: TarballWriter, path: str, place: str, lines: _ListingLines, found: _Found) -> None:
    for attempt in range(1, _TRIES + 1):
        try:
            member = archive.add_file(path, place)
        except OSError:
            # Gone or locked by now; the line before already says that this copy does not count.
            member = Member(path, EntryKind.VANISHED)
        if member.state is State.CHANGED and attempt < _TRIES:
            member = replace(member, state=State.SUPERSEDED)
        _keep(member, lines, found, Counter())
        if member.state is not State.SUPERSEDED:
            return


def _keep(member: Member, lines: _ListingLines, found: _Found, here: Counter[str]) -> None:
    lines.keep(member)
    if member.state is State.SUPERSEDED:
        found.counts["superseded"] += 1
        return
    if member.kind is EntryKind.FILE:
        found.counts["file"] += 1
        found.bytes += member.size
        here["files"] += 1
        here["bytes"] += member.size
        if member.state is State.CHANGED:
            found.note("changed", member.path)
    elif member.kind is EntryKind.FOLDER:
        found.counts["folder"] += 1
    else:
        found.note(member.kind.value, member.path)


def _refuse_unreadable(found: _Found, label: str) -> None:
    if count := found.counts["unreadable"]:
        named = found.named["unreadable"]
        rest = f" and {count - len(named)} more" if count > len(named) else ""
        raise SourceError(
            f"{count} files or folders cannot be read: {', '.join(named)}{rest}.",
            where=label,
            remedy="A path is longer than the system allows: shorten folders' names, or make a deeper folder a source "
            "of its own."
            if found.too_long
            else "Give this user the right to read them, or run as one who may.",
        )


def _details(found: _Found, listing: str) -> dict[str, JsonValue]:
    counts = found.counts
    return {
        "listing": listing,
        "members": counts["file"] + counts["folder"] + counts["superseded"],
        "files": counts["file"],
        "folders": counts["folder"],
        "bytes": found.bytes,
        "allocated_bytes": min(found.allocated, found.bytes),
        "by_bucket": {name: dict(each) for name, each in found.by_root.items() if name},
        "skipped": counts[EntryKind.LINK] + counts[EntryKind.SPECIAL],
        "changed": list(found.named.get("changed", [])),
        "vanished": list(found.named.get(EntryKind.VANISHED, [])),
    }


def _complete(problems: tuple[Finding, ...], found: _Found) -> CheckResult:
    return CheckResult(
        name="tarball_complete",
        passed=not problems,
        summary=problems[0].problem if problems else "Every member was re-read and equals the listing.",
        table=tuple({"file": each.subject, "problem": each.problem} for each in problems[:NAMED_AT_MOST]),
        numbers={"files": found.counts["file"], "folders": found.counts["folder"], "bytes": found.bytes},
    )


def _named(found: _Found, *kinds: str) -> tuple[dict[str, JsonValue], ...]:
    return tuple({"path": path, "what": kind} for kind in kinds for path in found.named.get(kind, []))


def _stable(found: _Found) -> CheckResult:
    changed, vanished = found.counts["changed"], found.counts[EntryKind.VANISHED]
    return CheckResult(
        name="folder_stable",
        passed=not changed and not vanished,
        severity=Severity.WARN,
        summary=f"{changed} files changed each time they were read, {vanished} vanished before they were.",
        table=_named(found, "changed", EntryKind.VANISHED),
        numbers={"changed": changed, "vanished": vanished},
    )


def _plain(found: _Found) -> CheckResult:
    links, special = found.counts[EntryKind.LINK], found.counts[EntryKind.SPECIAL]
    attributes = found.counts["attribute"]
    summary = f"{links} symbolic links and {special} sockets, pipes or devices are not captured."
    if attributes:
        summary += f" {attributes} extended attributes cannot be kept."
    return CheckResult(
        name="folder_only_files",
        passed=not links and not special and not attributes,
        severity=Severity.WARN,
        summary=summary,
        table=_named(found, EntryKind.LINK, EntryKind.SPECIAL, "attribute"),
        numbers={"links": links, "special": special, "attributes": attributes},
    )


def _size(context: CaptureContext, record: ArtefactRecord, found: _Found, collapse: CollapseCheck) -> CheckResult:
    before = context.previous.record(*record.key) if context.previous else None
    known = before.details.get("bytes") if before else None
    size = known if isinstance(known, int) else None
    return size_check(found.bytes, size, drop=collapse.drop, severity=collapse.severity)


def inspect_tarball(open_file: Callable[[str], BinaryIO], record: ArtefactRecord) -> Iterator[Finding]:
    """Yield what is wrong with a tarball: structure, and every member's size, time, mode and SHA-256 by the listing."""
    tarball, listing = (file.path for file in record.files)
    with open_file(tarball) as archive, open_file(listing) as lines:
        try:
            members = 0
            for problem in compare_members(archive, tarball, read_listing(lines, listing)):
                if problem.wrong:
                    yield Finding(subject=f"{tarball}: {shown(problem.path)}", problem=problem.wrong)
                members += 1
        except ValidationError as error:
            yield Finding(subject=error.where, problem=error.what)
            return
    if (known := record.details.get("members")) is not None and known != members:
        yield Finding(subject=listing, problem=f"{members} members where the record says {known}.")
