"""Copying a sealed set into a vault: cut, hashed, encrypted, sent by several threads; visible last, only whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from backup_pipeline import __version__
from backup_pipeline.errors import RefusedError, StoreError
from backup_pipeline.model.manifest import MANIFEST_NAME, Manifest
from backup_pipeline.model.progress import Progress
from backup_pipeline.model.set_id import SetId
from backup_pipeline.stores.contract import Store
from backup_pipeline.stores.objects.contract import DataView
from backup_pipeline.stores.objects.errors import PlaceFullError, PlaceRefusedError
from backup_pipeline.stores.vault.catalog import VaultCatalog
from backup_pipeline.stores.vault.copy_content import CopiedFile, CopyContent, packed
from backup_pipeline.stores.vault.copy_object import COPY_VERSION, CopyHeader, encode_copy
from backup_pipeline.stores.vault.cutting import (
    ChunkSource,
    SetStream,
    cut,
    cut_growing,
    cut_lists,
    large_from,
    stream_files,
)
from backup_pipeline.stores.vault.names import COPIES, copy_name
from backup_pipeline.stores.vault.recovery_files import make_recovery_read
from backup_pipeline.stores.vault.sending import (
    ChunkSender,
    Pieces,
    SentChunk,
    WriterKeys,
    WriterOptions,
    is_listed,
)
from backup_pipeline.stores.vault.stored_chunk import ChunkRef


@dataclass(frozen=True)
class CopyResult:
    """What a copy did.

    Attributes:
        copy: its name in the vault.
        already_there: the set had a copy; nothing was sent.
        size: bytes of the set.
        chunks: chunks of the set; `sent` of them were sent, `sent_bytes` as stored.
    """

    copy: str
    already_there: bool
    size: int
    chunks: int
    sent: int
    sent_bytes: int


class VaultWriter:
    """Copies sets into a vault; holds nothing that could decrypt them.

    Args:
        catalog: the vault.
        keys: what encrypts, signs and names.
        options: how.
    """

    def __init__(self, catalog: VaultCatalog, keys: WriterKeys, options: WriterOptions | None = None) -> None:
        self._catalog = catalog
        self._keys = keys
        self._options = options or WriterOptions()

    def copy(self, store: Store, plan: str, set_id: SetId, *, settings: str = "") -> CopyResult:
        """Copy a sealed set; one that is there already is left alone, unless it lacks chunks: then it is mended.

        Raises:
            RefusedError: the set is not sealed, or its copy is marked for removal or not ours.
            ValidationError: a file is not what the set's manifest says.
            StoreError: the vault cannot be written; what was sent is not sent again by the next try.
        """
        known = store.read(set_id)
        if known.manifest is None:
            raise RefusedError(
                f"The set is {known.state}; only sealed sets are copied.",
                where=f"{plan}/{set_id}",
                remedy="backup-pipeline list shows the sets.",
            )
        self.require_unmarked(plan, set_id)
        name = copy_name(self._keys.id_key, plan, set_id)
        there = self.has_copy(plan, set_id)
        if there and self._is_whole(name):
            return self._present(name, known.manifest.size)
        with store.open(set_id, MANIFEST_NAME) as file:
            manifest = file.read().decode()
        source = _SetChunks(self, store, set_id, known.manifest, f"{plan}/{set_id}")
        whole = CopyPieces(self, plan, set_id, manifest, settings, source.read, lambda: source.files)
        sender = self.sender(f"{plan}/{set_id}", whole.read)
        source.is_known = sender.is_known
        refs, _ = sender.send_all()
        size = whole.content.size
        if not self.commit(whole.content, refs, sender, replace=there):
            return self._present(name, size)
        return CopyResult(name, False, size, len(refs), sender.sent, sender.sent_bytes)

    def require_unmarked(self, plan: str, set_id: SetId) -> None:
        """Refuse a set whose copy is marked for removal."""
        if copy_name(self._keys.id_key, plan, set_id) in self._catalog.marks():
            raise RefusedError(
                "The copy of this set is marked for removal.",
                where=f"{plan}/{set_id}",
                remedy="It can be copied again when `vault clean` has removed it, 72 hours after it was marked.",
            )

    def has_copy(self, plan: str, set_id: SetId) -> bool:
        """Return whether the set has a copy."""
        return self._catalog.place.info(COPIES + copy_name(self._keys.id_key, plan, set_id)) is not None

    def sender(self, where: str, read: Callable[[], Pieces], *, read_back: bool = False) -> ChunkSender:
        """Return what sends the chunks of one copy; see ChunkSender."""
        return ChunkSender(self._catalog, self._keys, self._options, read, where, read_back=read_back)

    def cut(self, stream: SetStream, is_known: Callable[[DataView], bool]) -> Iterator[memoryview]:
        """Yield a stream's chunks, as this vault cuts; `is_known`: whether the vault has a chunk of these bytes."""
        return cut(stream, self._catalog.description.cutting, self._keys.id_key, is_known)

    def cut_growing(self, stream: ChunkSource) -> Iterator[memoryview]:
        """Yield the chunks of a file of `large_from` bytes or more while it is written."""
        return cut_growing(stream, self._catalog.description.cutting, self._keys.id_key)

    def list_pieces(self, content: CopyContent) -> Iterator[bytes]:
        """Yield the plain chunks of a copy's lists; none where they are short, and stand in its object.

        None either where the vault's own `recover.py` would not read such a copy, and cannot be replaced.
        """
        lists = content.lists().texts()
        if sum(map(len, lists)) < self._options.lists_apart_from or not make_recovery_read(
            self._catalog.place, COPY_VERSION
        ):
            return
        for piece in cut_lists(lists, self._catalog.description.cutting, self._keys.id_key):
            yield packed(piece)

    @property
    def large_from(self) -> int:
        """From how many bytes on a file is cut on its own."""
        return large_from(self._catalog.description.cutting)

    def commit(self, content: CopyContent, refs: list[ChunkRef], sender: ChunkSender, *, replace: bool = False) -> bool:
        """Make a copy visible whose chunks were sent; False when there is one already that is not to be replaced.

        Args:
            content: its account.
            refs: its chunks in order: those of the data, then those of the lists, if any.
            sender: what has sent them.
            replace: whether one that is there is written over.
        """
        data_chunks = len(content.plain_sizes)
        name = copy_name(self._keys.id_key, content.plan, content.set_id)
        header = CopyHeader(
            vault=self._catalog.description.vault,
            copy_name=name,
            content_sha256="",
            chunks=tuple(refs[:data_chunks]),
            list_chunks=tuple(refs[data_chunks:]),
            generation=self._catalog.description.generation,
            created_at=self._options.clock(),
            locked_until=sender.locked_until,
        )
        _, data = encode_copy(header, content, self._keys.sealer, self._keys.signer)
        sender.lock_what_opens_it()
        sender.require_recent_announcement()
        created = replace
        if replace:
            self._catalog.place.put(COPIES + name, data, lock_until=self._options.lock_until)
        else:
            created = self._catalog.place.create(COPIES + name, data, lock_until=self._options.lock_until)
        sender.withdraw()
        if created:
            self._keys.notes.clear()
        return created

    def _is_whole(self, name: str) -> bool:
        """Return whether a copy's chunks are listed and no check found one of them bad; a damaged header is not whole.

        Raises:
            RefusedError: the copy is not the site's own.
        """
        try:
            header = self._catalog.copy(name).header
        except (PlaceRefusedError, PlaceFullError):
            raise
        except StoreError as error:
            if not error.permanent:
                raise
            return False
        listed = self._catalog.chunks()
        return all(is_listed(listed, chunk) and chunk.name not in self._keys.bad_chunks for chunk in header.needed)

    def _present(self, name: str, size: int) -> CopyResult:
        found = self._catalog.copy(name)
        return CopyResult(name, True, size, len(found.header.needed), 0, 0)


class CopyPieces:
    """Everything that a copy sends: the chunks of its data, then those of its lists.

    Args:
        writer: what writes it.
        plan: the set's plan.
        set_id: the set.
        manifest: the text of its manifest.json.
        settings: the text of backup.yaml.
        read: gives the chunks of the data in order.
        files: the files in them, known when they were read.
    """

    content: CopyContent
    """The account, as the last reading found it."""

    def __init__(
        self,
        writer: VaultWriter,
        plan: str,
        set_id: SetId,
        manifest: str,
        settings: str,
        read: Callable[[], Pieces],
        files: Callable[[], Iterable[CopiedFile]],
    ) -> None:
        self._writer = writer
        self._plan, self._set_id = plan, set_id
        self._manifest, self._settings = manifest, settings
        self._read = read
        self._files = files

    def read(self) -> Iterator[DataView | SentChunk]:
        """Yield them in order."""
        sizes = []
        for piece in self._read():
            sizes.append(piece.size if isinstance(piece, SentChunk) else len(piece))
            yield piece
        self.content = CopyContent(
            plan=self._plan,
            set_id=self._set_id,
            manifest=self._manifest,
            files=tuple(self._files()),
            plain_sizes=tuple(sizes),
            settings=self._settings,
            pipeline_version=__version__,
        )
        yield from self._writer.list_pieces(self.content)


class _SetChunks:
    """The chunks of a set on disk; `files` is what the last reading found."""

    is_known: Callable[[DataView], bool]
    """Whether the vault has a chunk of these bytes."""

    def __init__(self, writer: VaultWriter, store: Store, set_id: SetId, manifest: Manifest, where: str) -> None:
        self._writer = writer
        self._store = store
        self._set_id = set_id
        files = [file for record in manifest.artefacts for file in record.files]
        self._expected = {file.path: file.sha256 for file in files}
        self._sizes = {file.path: file.size for file in files}
        self._where = where
        self.files: list[CopiedFile] = []

    def read(self) -> Iterator[memoryview]:
        listed = stream_files(self._store, self._set_id, self._sizes)
        total = sum(listed.values())
        show = self._writer._options.progress
        label = f"copy {self._where}"
        stream = SetStream(
            listed,
            lambda path: self._store.open(self._set_id, path),
            self._expected,
            lambda done: show(Progress(label, done, total)),
            where=self._where,
            folder=str(self._store.path_of(self._set_id) or ""),
        )
        try:
            yield from self._writer.cut(stream, self.is_known)
        finally:
            stream.close()
            show(Progress(label, total, total, finished=True))
        self.files = stream.files
