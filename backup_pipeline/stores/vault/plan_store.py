"""The store of a plan whose only store is a vault: artefacts go there, what is known of them stays in a folder too.

The folder holds the plan's lock and log, and of each set draft, records, manifest and proofs, so that sets are listed
and retention decides without an identity. The machine that writes cannot decrypt what it has sent. So a file that the
capture reads again is in the folder until its record is written, and a small one until the seal; what is only written
(dumps, tarballs) leaves while it is written. A chunk counts when its stored bytes were read back and are those sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError as PydanticError

from backup_pipeline.errors import BackupSystemError, MissingFileError, RefusedError, StoreError
from backup_pipeline.model.base import Frozen
from backup_pipeline.model.manifest import MANIFEST_NAME, Draft, Manifest
from backup_pipeline.model.proof import PROOFS_FOLDER
from backup_pipeline.model.record import ArtefactRecord, FileRecord
from backup_pipeline.model.set_id import SetId
from backup_pipeline.stores.contract import ArtefactFile
from backup_pipeline.stores.local import LocalSetWriter, LocalStore
from backup_pipeline.stores.objects.contract import DataView
from backup_pipeline.stores.read_manifest import parse_manifest
from backup_pipeline.stores.vault.copy_content import CopiedFile
from backup_pipeline.stores.vault.cutting import SetStream
from backup_pipeline.stores.vault.sending import ChunkSender, SentChunk
from backup_pipeline.stores.vault.store import VaultStore
from backup_pipeline.stores.vault.streamed_file import StreamedFile
from backup_pipeline.stores.vault.upload_notes import UploadNotes
from backup_pipeline.stores.vault.write_copy import CopyPieces, VaultWriter
from backup_pipeline.system.files import make_folder, read_ordinary, write_atomically

KEPT_BELOW = 1 << 20
"""Files of fewer bytes are sent with the seal, cut together, so that many small ones cost few requests."""
SENT_FOLDER = ".sent.part"
UPLOADS = "uploads"
SEALING = "manifest.json"


class SentFile(Frozen):
    """A file of an unsealed set that is in the vault and not on this machine any more, or several that went together.

    Attributes:
        path: in the set.
        size: in bytes.
        sha256: SHA-256 in hex of its bytes.
        chunks: its chunks in order, and of what follows.
        following: the files after it that its chunks hold.
    """

    path: str
    size: int
    sha256: str
    chunks: tuple[SentChunk, ...]
    following: tuple[CopiedFile, ...] = ()

    @property
    def files(self) -> tuple[CopiedFile, ...]:
        """All files that its chunks hold, in order."""
        return CopiedFile(path=self.path, size=self.size, sha256=self.sha256), *self.following


@dataclass(frozen=True)
class PlanVault:
    """What a plan's store needs of its vault.

    Args:
        name: the vault's name in the settings.
        open_writer: gives a writer that keeps its notes in a file; refuses before a byte leaves.
        open_copies: gives the plan's copies, where an identity is.
        mark: marks a set's copy for removal, where there is one.
        settings: the text of backup.yaml.
        kept_below: see KEPT_BELOW.
    """

    name: str
    open_writer: Callable[[UploadNotes], VaultWriter]
    open_copies: Callable[[], VaultStore]
    mark: Callable[[SetId], None]
    settings: Callable[[], str]
    kept_below: int = KEPT_BELOW


class VaultSetWriter(LocalSetWriter):
    """Adds files and records to one unsealed set; see `contract.SetWriter`."""

    def __init__(self, folder: Path, draft: Draft, modes: tuple[int, int], vault: PlanVault) -> None:
        super().__init__(folder, draft, *modes)
        self._vault = vault
        self._where = f"{draft.plan}/{draft.set_id}"
        self.sent = SentFiles(folder / SENT_FOLDER)
        self._lock = threading.Lock()
        # Opened now: what is wrong with the vault is known before anything is captured.
        # What an earlier run sent and never sealed is found again, whether this one completes it or begins anew.
        earlier = tuple(sorted(folder.parent.glob(f"*/{SENT_FOLDER}/{UPLOADS}*")))
        self._writer = vault.open_writer(UploadNotes(folder / SENT_FOLDER / UPLOADS, earlier))
        self._writer.require_unmarked(draft.plan, draft.set_id)
        self._sender: ChunkSender | None = None

    @property
    def streams(self) -> bool:
        """Whether files leave this machine while they are written."""
        return True

    def create(self, path: str, *, stream: bool = False) -> AbstractContextManager[ArtefactFile]:
        """Write a file at `path`: here, or one that is large and not read again into the vault at once."""
        if not stream:
            return super().create(path)
        place = self._place(path)

        def note(size: int, sha256: str, chunks: tuple[SentChunk, ...]) -> None:
            self._require_lock()
            self.sent.note(SentFile(path=path, size=size, sha256=sha256, chunks=chunks), self._file_mode)
            place.unlink(missing_ok=True)

        return StreamedFile(
            self._writer.large_from,
            lambda: super(VaultSetWriter, self).create(path),
            lambda growing: self._sending().send(self._writer.cut_growing(growing)),
            note,
        )

    def _sending(self) -> ChunkSender:
        with self._lock:
            self._sender = self._sender or self._writer.sender(self._where, tuple, read_back=True)
            return self._sender

    def open(self, path: str) -> BinaryIO:
        """Open a file that was written, for reading; StoreError for one that was sent: it cannot be read here."""
        try:
            return super().open(path)
        except MissingFileError:
            if self.sent.find(path) is None:
                raise
            raise StoreError(
                "The file is in the vault already, and this machine cannot read it there.",
                where=f"{self._where}/{path}",
                remedy="This is a fault of the program.",
            ) from None

    def write_record(self, record: ArtefactRecord) -> None:
        """Send the artefact's large files, and store its record."""
        for file in record.files:
            if file.size < self._vault.kept_below:
                self.sent.forget(file.path)
            elif (self._folder / file.path).exists():
                self._send(file)
        super().write_record(record)

    def _send(self, file: FileRecord) -> None:
        if problem := super().check_file(file):
            raise StoreError(problem, where=self._where, remedy="Inspect the disk, then run the backup again.")
        stream = SetStream(
            {file.path: file.size}, super().open, {file.path: file.sha256}, lambda done: None, where=self._where
        )
        try:
            chunks = tuple(self._sending().send(self._writer.cut(stream, self._sending().is_known)))
        finally:
            stream.close()
        self._require_lock()
        self.sent.note(SentFile(path=file.path, size=file.size, sha256=file.sha256, chunks=chunks), self._file_mode)
        (self._folder / file.path).unlink()

    def send_together(self, files: Iterable[FileRecord]) -> None:
        """Send files that are still here, cut together, so that nothing of them is needed from this machine again."""
        here = sorted((file for file in files if (self._folder / file.path).exists()), key=lambda file: file.path)
        if not here:
            return
        digests = {file.path: file.sha256 for file in here}
        stream = SetStream(
            {file.path: file.size for file in here}, super().open, digests, lambda done: None, where=self._where
        )
        try:
            chunks = tuple(self._sending().send(self._writer.cut(stream, self._sending().is_known)))
        finally:
            stream.close()
        first, *following = stream.files
        sent = SentFile(
            path=first.path, size=first.size, sha256=first.sha256, chunks=chunks, following=tuple(following)
        )
        self.sent.note(sent, self._file_mode)
        for file in here:
            (self._folder / file.path).unlink()

    def _drop_files(self, gone: ArtefactRecord) -> None:
        super()._drop_files(gone)
        kept = {file.path for record in self.records() for file in record.files}
        for file in gone.files:
            if file.path not in kept:
                self.sent.forget(file.path)

    def check_file(self, file: FileRecord) -> str:
        """Return what is wrong with a file against its record: read again here, or as it was when it was sent.

        Its chunks were read back from the vault then. That they are there is found out once more before the seal.
        """
        here = (self._folder / file.path).exists()
        sent = None if here else self.sent.find(file.path)
        if sent is None:
            return super().check_file(file)
        if (file.size, file.sha256) not in {(one.size, one.sha256) for one in sent.files if one.path == file.path}:
            return f"{file.path}: what was sent is not what was recorded"
        return ""

    def seal(self, manifest: Manifest) -> None:
        """Send what is left, make the copy visible once the vault has every chunk, then write the manifest here."""
        self._refuse_sealed()
        data = self._with_checksums(manifest)
        if self._writer.has_copy(manifest.plan, manifest.set_id):
            data = self._manifest_of_copy(manifest)
        else:
            self._commit(manifest, data)
        self._publish(data)
        self._clear_parts()
        for record in manifest.artefacts:
            for file in record.files:
                (self._folder / file.path).unlink(missing_ok=True)
        _remove_empty(self._folder)

    def _manifest_of_copy(self, manifest: Manifest) -> bytes:
        """Return the manifest with which a run that was killed right then has made the copy visible."""
        try:
            data = read_ordinary(self._folder / SENT_FOLDER / SEALING)
        except OSError:
            data = b""
        made, _ = parse_manifest(data, manifest.set_id)
        if made is None or made.artefacts != manifest.artefacts:
            raise RefusedError(
                "The vault has a copy of this set already, with other artefacts.",
                where=self._where,
                remedy="Make a new backup; the copy there stays readable.",
            )
        self._with_checksums(made)
        return data

    def _is_only_there(self, file: CopiedFile, wanted: Collection[str]) -> bool:
        return file.path in wanted and not (self._folder / file.path).exists()

    def _note_seal(self, data: bytes) -> None:
        """Keep the manifest with which the copy is about to become visible."""
        self.sent.make(self._folder_mode)
        write_atomically(self._folder / SENT_FOLDER / SEALING, data, mode=self._file_mode)

    def _commit(self, manifest: Manifest, data: bytes) -> None:
        wanted = {file.path: file.sha256 for record in manifest.artefacts for file in record.files}
        sent = [one for one in self.sent.all() if all(self._is_only_there(file, wanted) for file in one.files)]
        here = dict(sorted((path, size) for path, size in _present(self._folder) if path != MANIFEST_NAME))
        streams: list[SetStream] = []

        def read() -> Iterator[DataView | SentChunk]:
            for one in sent:
                yield from one.chunks
            stream = SetStream(here, super(VaultSetWriter, self).open, wanted, lambda done: None, where=self._where)
            streams[:] = [stream]
            try:
                yield from self._writer.cut(stream, sender.is_known)
            finally:
                stream.close()

        def files() -> list[CopiedFile]:
            return [file for one in sent for file in one.files] + streams[0].files

        plan, set_id, settings = manifest.plan, manifest.set_id, self._vault.settings()
        whole = CopyPieces(self._writer, plan, set_id, data.decode(), settings, read, files)
        sender = self._writer.sender(self._where, whole.read, read_back=True)
        refs, _ = sender.send_all()
        self._note_seal(data)
        if not self._writer.commit(whole.content, refs, sender):
            raise StoreError("A copy of this set appeared meanwhile.", where=self._where, remedy="Make a new backup.")


class VaultPlanStore(LocalStore):
    """See `contract.Store`.

    Args:
        folder: what is known of the sets, on this machine.
        plan: the plan.
        vault: where its artefacts are.
        file_mode: of files.
        folder_mode: of folders.
    """

    artefacts_elsewhere = True

    def __init__(self, folder: Path, plan: str, vault: PlanVault, *, file_mode: int, folder_mode: int) -> None:
        super().__init__(folder, plan, file_mode=file_mode, folder_mode=folder_mode)
        self._vault = vault
        self._copies: VaultStore | None = None

    @property
    def label(self) -> str:
        """The vault, and the folder of what is known."""
        return f"vault {self._vault.name} (what is known of the sets: {self.folder})"

    def begin(self, draft: Draft) -> LocalSetWriter:
        """Make the set's folder and write its draft; refuses before, where the vault cannot be written."""
        try:
            return super().begin(draft)
        except BackupSystemError:
            with contextlib.suppress(OSError):  # only while nothing is in it
                (self.folder / draft.set_id).rmdir()
            raise

    def writer_at(self, folder: Path, draft: Draft) -> VaultSetWriter:
        """Return the writer of an unsealed set."""
        return VaultSetWriter(folder, draft, (self.file_mode, self.folder_mode), self._vault)

    def copies(self) -> VaultStore:
        """Return the plan's copies, as the identity of the site's environment opens them; as the vault raises."""
        if self._copies is None:
            self._copies = self._vault.open_copies()
        return self._copies

    def open(self, set_id: SetId, path: str) -> BinaryIO:
        """Open a file of a set for reading: here what is known, in the vault what was captured."""
        try:
            return super().open(set_id, path)
        except MissingFileError:
            if self.read(set_id).manifest is None:
                raise
        return self.copies().open(set_id, path)

    def files(self, set_id: SetId, sizes: Mapping[str, int] | None = None) -> Iterator[tuple[str, int]]:
        """Yield path and size of every file of the set, by path: as the copy has them, once it is sealed."""
        folder = self.path_of(set_id)
        if (folder / MANIFEST_NAME).is_file():
            proofs = [(path, size) for path, size in super().files(set_id) if path.startswith(f"{PROOFS_FOLDER}/")]
            yield from sorted([*self.copies().files(set_id), *proofs])
            return
        sent = {file.path: file.size for one in SentFiles(folder / SENT_FOLDER).all() for file in one.files}
        yield from sorted((sent | dict(_present(folder))).items())

    def free_bytes(self) -> int | None:
        """Return None: nobody knows how much room a vault has."""
        return None

    def remove(self, set_id: SetId) -> None:
        """Mark the set's copy for removal, then remove what is known of it."""
        self.path_of(set_id)
        self._vault.mark(set_id)
        super().remove(set_id)


def _present(folder: Path) -> Iterator[tuple[str, int]]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not path.is_symlink() and inside.parts[0] != SENT_FOLDER and not _is_part(inside):
            yield inside.as_posix(), path.stat().st_size


def _is_part(path: Path) -> bool:
    return any(part.startswith(".") and part.endswith(".part") for part in path.parts)


def _remove_empty(folder: Path) -> None:
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()


class SentFiles:
    """Which files of an unsealed set are in the vault: one small file for each, beside the records."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._together: dict[str, SentFile] | None = None

    def make(self, mode: int = 0o700) -> None:
        """Make the folder."""
        if not self._folder.is_dir():
            make_folder(self._folder, mode, exist_ok=True)

    def _place(self, path: str) -> Path:
        return self._folder / f"{hashlib.sha256(path.encode('utf-8', 'surrogateescape')).hexdigest()}.json"

    def note(self, file: SentFile, mode: int) -> None:
        """Note a file."""
        self._together = None
        self.make()
        write_atomically(self._place(file.path), file.model_dump_json().encode(), mode=mode)

    def find(self, path: str) -> SentFile | None:
        """Return what is noted of a file, or of those that it was sent with."""
        try:
            return SentFile.model_validate_json(read_ordinary(self._place(path), at_most=1 << 30))
        except (OSError, PydanticError):
            if self._together is None:
                self._together = {file.path: one for one in self.all() for file in one.following}
            return self._together.get(path)

    def names(self, files: Iterable[FileRecord]) -> list[str]:
        """Return the names of the notes of files."""
        found = {self._place(one.path).name for file in files if (one := self.find(file.path)) is not None}
        return sorted(found)

    def forget(self, path: str) -> None:
        """Forget a file: it is written again, or its record is gone."""
        self._together = None
        self._place(path).unlink(missing_ok=True)

    def all(self) -> list[SentFile]:
        """Return all that are noted, by path."""
        places = self._folder.glob("*.json") if self._folder.is_dir() else ()
        found = [
            SentFile.model_validate_json(read_ordinary(place, at_most=1 << 30))
            for place in places
            if place.name != SEALING
        ]
        return sorted(found, key=lambda one: one.path)
