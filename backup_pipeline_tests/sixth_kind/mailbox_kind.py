"""A kind of source from another package: a mailbox file (mbox). `docs/adding-a-source.md` walks through this file."""

from __future__ import annotations

import mailbox
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from backup_pipeline.artefacts.capture import CaptureContext, utc_now
from backup_pipeline.artefacts.types import ArtefactType, FilesRestore, OpenFile, RestoredFiles
from backup_pipeline.errors import SourceError, ValidationError
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactRecord, CheckResult
from backup_pipeline.rules.environment import EnvironmentFault
from backup_pipeline.settings.types import SourceSettings
from backup_pipeline.sources.kind import Key, SiteSource, SourceKind, path_faults
from backup_pipeline.system.file_swap import restoring, swap
from backup_pipeline.system.streams import compressed_sink, gunzip

_CHUNK = 1 << 20


class MailboxSource(SourceSettings):
    """A mailbox in one file (mbox)."""

    kind: Literal["mailbox"]
    path: Path
    """The file."""


class MailboxKind(SourceKind[MailboxSource]):
    """A mailbox in one file (mbox)."""

    name: ClassVar[str] = "mailbox"
    settings: ClassVar[type[SourceSettings]] = MailboxSource
    artefact_types: ClassVar[Mapping[str, ArtefactType]] = {
        "mailbox": ArtefactType(
            labels=frozenset({"email"}),
            description="Every message of the mailbox.",
            checks={"messages_readable": "Every message has a header."},
            inspect=f"{__name__}:inspect",
            restore=f"{__name__}:restore",
            drill=f"{__name__}:drill",
        )
    }

    def artefacts(self, source: SiteSource[MailboxSource]) -> Sequence[tuple[Key, str]]:
        """Return the mailbox's key."""
        return [((source.name, "mailbox"), "mailbox")]

    def capture(
        self, source: SiteSource[MailboxSource], context: CaptureContext, selected: frozenset[Key] | None
    ) -> Iterator[ArtefactRecord]:
        """Capture the file, compressed."""
        path = source.settings.path
        started = utc_now()
        if not path.is_file():
            raise SourceError("There is no such mailbox.", where=str(path), remedy="Correct `path` of the source.")
        headless, count = _count(path)
        name = f"{source.name}.mbox.gz"
        with context.writer.create(name) as file, path.open("rb") as original, compressed_sink(file) as sink:
            while piece := original.read(_CHUNK):
                sink.write(piece)
        record = ArtefactRecord(
            key=(source.name, "mailbox"),
            source=source.name,
            kind="mailbox",
            set_id=context.writer.draft.set_id,
            files=(context.writer.file_record(name, file),),
            rows=count,
            source_label=str(path),
            started_at=started,
            finished_at=utc_now(),
            checks=(
                CheckResult(name="messages_readable", passed=not headless, summary=f"{count} messages, {headless} bad"),
            ),
        )
        context.writer.write_record(record)
        yield record

    def place(self, source: SiteSource[MailboxSource]) -> Path:
        """Return the file."""
        return source.settings.path

    def environment_faults(self, source: SiteSource[MailboxSource]) -> Iterator[EnvironmentFault]:
        """Yield what is wrong with the file."""
        return path_faults(source.name, source.settings.path)


def _count(path: Path) -> tuple[int, int]:
    """Return how many messages have no header, and how many there are."""
    box = mailbox.mbox(path, create=False)
    try:
        messages = [len(message.keys()) for message in box]
    finally:
        box.close()
    return sum(1 for headers in messages if not headers), len(messages)


def _unpack(open_file: OpenFile, record: ArtefactRecord, target: Path) -> int:
    """Write the mailbox to `target` and count its messages; ValidationError when they are not the captured ones."""
    name = record.files[0].path
    with open_file(name) as packed, target.open("xb") as out:
        for piece in gunzip(packed, name=name):
            out.write(piece)
    _, count = _count(target)
    if count != record.rows:
        raise ValidationError(f"{count} messages of {record.rows}.", where=name, remedy="Use another set.")
    return target.stat().st_size


def inspect(open_file: OpenFile, record: ArtefactRecord) -> Iterator[Finding]:
    """Yield what is wrong with a sealed mailbox."""
    with tempfile.TemporaryDirectory(prefix="mailbox-") as folder:
        try:
            _unpack(open_file, record, Path(folder) / "mbox")
        except ValidationError as error:
            yield Finding(subject=record.name, problem=error.what, remedy=error.remedy)


def drill(restore: FilesRestore) -> RestoredFiles:
    """Unpack the mailbox into an empty place."""
    return RestoredFiles(restore.target, (), 1, _unpack(restore.open_file, restore.record, restore.target))


def restore(restore: FilesRestore) -> RestoredFiles:
    """Put the mailbox in its place; what is there is kept beside it."""
    with restoring(restore.target, now=restore.now) as (real, new):
        size = _unpack(restore.open_file, restore.record, new)
        done = swap(real, restore.now, label=restore.record.set_id)
    return RestoredFiles(done.target, done.kept, 1, size)
