"""A copy as one object: a plain signed header that names its chunks, then the encrypted account of the set.

    backup-pipeline vault copy 1 <bytes of the header> <bytes of the content>
    <header: one line of JSON>
    <signature: one line of JSON>
    <content: age(gzip(JSON)); gzip(JSON) where the vault is not encrypted>

One object, so that no header ever stands beside the content of another attempt. In a copy of version 2 the header names
chunks that hold the lists of the account, too, which are long where there are many files.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator

from pydantic import AwareDatetime
from pydantic import ValidationError as PydanticError

from backup_pipeline.errors import RefusedError, StoreError, ValidationError
from backup_pipeline.model.base import Frozen
from backup_pipeline.model.manifest import MANIFEST_NAME
from backup_pipeline.stores.objects.contract import Data, ObjectPlace
from backup_pipeline.stores.vault.copy_content import CopyContent, CopyLists, CopySummary, joined, packed, unpacked
from backup_pipeline.stores.vault.description import Description
from backup_pipeline.stores.vault.encryption import Opener, Sealer
from backup_pipeline.stores.vault.locks import earlier_versions
from backup_pipeline.stores.vault.names import COPIES, copy_name
from backup_pipeline.stores.vault.signing import Signer, is_public_key, is_signed
from backup_pipeline.stores.vault.stored_chunk import ChunkRef, read_plain_chunk
from backup_pipeline.system.threads import ContextThreadPool

COPY_VERSION = 2
"""The latest version; 1 is written still, where the lists are short, and read for ever."""
_SIGNED_FOR = "backup-pipeline vault copy {}"
_WORKERS = 6
_FIRST_LINE = re.compile(rb"backup-pipeline vault copy (\d{1,6}) (\d{1,12}) (\d{1,12})\n")
_FIRST_READ = 64 << 10
_LARGEST_SIGNATURE_LINE = 1024
_LARGEST_CONTENT = 1 << 30


class CopyHeader(Frozen):
    """The plain part: enough to check and to clean without an identity.

    Attributes:
        vault: the vault's id: a copy that was carried from another vault is known by it.
        copy_name: the object's name, for a copy that was put under another one.
        generation: of the recipients (see Description).
        content_sha256: SHA-256 in hex of the encrypted account.
        locked_until: until when the storage was asked to forbid deletion of the copy and all its chunks.
        chunks: the chunks of the set's stream, in order; one may be there several times.
        list_chunks: the chunks of the lists, in order, in a copy of version 2; none in one of version 1.
    """

    vault: str
    copy_name: str
    generation: int
    created_at: AwareDatetime
    content_sha256: str
    locked_until: AwareDatetime | None = None
    chunks: tuple[ChunkRef, ...]
    list_chunks: tuple[ChunkRef, ...] = ()

    @property
    def version(self) -> int:
        """The version of the copy."""
        return 2 if self.list_chunks else 1

    @property
    def needed(self) -> tuple[ChunkRef, ...]:
        """Every chunk without which the copy cannot be brought back."""
        return self.chunks + self.list_chunks

    @property
    def stored_size(self) -> int:
        """Bytes of its chunks in the vault, each counted once."""
        return sum({chunk.name: chunk.size for chunk in self.needed}.values())


def encode_copy(header: CopyHeader, content: CopyContent, sealer: Sealer, signer: Signer) -> tuple[CopyHeader, bytes]:
    """Return the header with the content's digest, and the object's bytes.

    Where the header names chunks of the lists, they are in these, and the copy is of version 2.
    """
    inside = content.summary() if header.list_chunks else content
    sealed = sealer.seal(packed(inside.model_dump_json().encode()))
    header = header.model_copy(update={"content_sha256": hashlib.sha256(sealed).hexdigest()})
    line = header.model_dump_json(exclude=None if header.list_chunks else {"list_chunks"}).encode()
    signature = {"key": signer.public, "signature": signer.sign(_SIGNED_FOR.format(header.version), line)}
    first = f"backup-pipeline vault copy {header.version} {len(line)} {len(sealed)}\n".encode()
    return header, first + line + b"\n" + json.dumps(signature).encode() + b"\n" + sealed


class ListChunks:
    """Plain chunks of lists, the latest of them kept: most of them are in many copies.

    Args:
        place: the vault's place.
        opener: decrypts.
        id_key: checks that a chunk is the one that its id stands for.
        keep_bytes: at most so many bytes are kept.
    """

    def __init__(self, place: ObjectPlace, opener: Opener, id_key: bytes, keep_bytes: int = 32 << 20) -> None:
        self._place = place
        self._opener = opener
        self._id_key = id_key
        self._room = keep_bytes
        self._kept: OrderedDict[ChunkRef, Data] = OrderedDict()
        self._lock = threading.Lock()
        # Several copies may be read at once: together they have no more requests under way than one.
        self._permits = threading.Semaphore(_WORKERS)

    def read(self, chunks: Collection[ChunkRef]) -> Iterator[Data]:
        """Yield chunks in order, brought down by several threads; as read_plain_chunk raises."""
        with ContextThreadPool(min(_WORKERS, max(1, len(chunks))), "vault-list") as pool:
            yield from pool.map(self._chunk, chunks)

    def _chunk(self, chunk: ChunkRef) -> Data:
        with self._lock:
            if (known := self._kept.get(chunk)) is not None:
                self._kept.move_to_end(chunk)
                return known
        with self._permits:
            data = read_plain_chunk(self._place, chunk, self._opener, self._id_key)
        with self._lock:
            if chunk not in self._kept:
                self._kept[chunk] = data
                self._room -= len(data)
            while self._room < 0:
                self._room += len(self._kept.popitem(last=False)[1])
        return data


class StoredCopy:
    """Reads one copy; the header first, with as few requests as it takes.

    Args:
        place: the vault's place.
        description: the vault's.
        name: the copy's.
        trusted: public keys whose copies count; the vault's own list when empty.
        read: reads `length` bytes from `start` on of another version than the one that readers of the name get.

    Raises:
        StoreError: it is damaged or of a later version.
        RefusedError: it is not signed, signed by somebody else, or belongs elsewhere.
        ObjectNotFoundError: it is not there.
    """

    def __init__(
        self,
        place: ObjectPlace,
        description: Description,
        name: str,
        trusted: Collection[str] = (),
        *,
        read: Callable[[int, int], bytes] | None = None,
    ) -> None:
        self._read = read or (lambda start, length: place.get_range(COPIES + name, start, length))
        self.hidden = read is not None
        self._place = place
        self.name = name
        self.where = f"{place.label}/{COPIES}{name}"
        start = self._read(0, _FIRST_READ)
        first = _FIRST_LINE.match(start)
        if first is None:
            raise StoreError("This is no copy, or its beginning is damaged.", where=self.where, remedy=_DAMAGED)
        version, length, self._content_size = (int(text) for text in first.groups())
        if not 1 <= version <= COPY_VERSION:
            raise StoreError(
                f"Copies of version {version} are not known to this release (it reads up to {COPY_VERSION}).",
                where=self.where,
                remedy="Install the release that wrote it.",
            )
        self._signed_for = _SIGNED_FOR.format(version)
        if length > _LARGEST_CONTENT:
            raise StoreError("The copy's header is larger than any can be.", where=self.where, remedy=_DAMAGED)
        begin = first.end()
        wanted = begin + length + 1 + _LARGEST_SIGNATURE_LINE
        if len(start) < wanted and len(start) == _FIRST_READ:
            start += self._read(len(start), wanted - len(start))
        line, rest = start[begin : begin + length], start[begin + length :]
        signature, feed, _ = rest[1:].partition(b"\n")
        if rest[:1] != b"\n" or not feed:
            raise StoreError("The copy was cut short.", where=self.where, remedy=_DAMAGED)
        self._content_start = begin + length + 1 + len(signature) + 1
        self.signed_by = self._verified(line, signature, trusted or description.signed_by)
        self.header = self._parsed(line, description)
        if self.header.version != version:
            raise StoreError("The copy's header is not of its version.", where=self.where, remedy=_DAMAGED)

    def _verified(self, line: bytes, signature: bytes, trusted: Collection[str]) -> str:
        try:
            document = json.loads(signature)
            key, value = str(document["key"]), str(document["signature"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RefusedError("The copy is not signed.", where=self.where, remedy=_FOREIGN) from error
        if not is_public_key(key):  # It may hold anything, and is shown below.
            raise RefusedError("The copy is not signed.", where=self.where, remedy=_FOREIGN)
        if key not in trusted:
            raise RefusedError(f"The copy is signed by another key ({key[:60]}).", where=self.where, remedy=_UNKNOWN)
        if not is_signed(key, self._signed_for, line, value):
            raise RefusedError("The copy's signature is not right.", where=self.where, remedy=_FOREIGN)
        return key

    def _parsed(self, line: bytes, description: Description) -> CopyHeader:
        try:
            header = CopyHeader.model_validate_json(line)
        except PydanticError as error:
            raise StoreError("The copy's header cannot be read.", where=self.where, remedy=_DAMAGED) from error
        if header.vault != description.vault:
            raise RefusedError("This copy was carried here from another vault.", where=self.where, remedy=_FOREIGN)
        if header.copy_name != self.name:
            raise RefusedError(
                f"This is the copy {header.copy_name} under another name.", where=self.where, remedy=_FOREIGN
            )
        return header

    def sealed_content(self) -> bytes:
        """Return the encrypted account, as its signed digest says it is.

        Raises:
            ValidationError: it was changed or cut short.
        """
        if self._content_size > _LARGEST_CONTENT:
            raise StoreError("The copy's account is larger than any can be.", where=self.where, remedy=_DAMAGED)
        sealed = self._read(self._content_start, self._content_size + 1)
        if self._is_content(sealed):
            return sealed
        for _, data in earlier_versions(self._place, COPIES + self.name):
            kept = data[self._content_start :]
            if self._is_content(kept):
                return kept
        raise ValidationError("The copy's account was changed or cut short.", where=self.where, remedy=_DAMAGED)

    def _is_content(self, sealed: bytes) -> bool:
        return hashlib.sha256(sealed).hexdigest() == self.header.content_sha256

    def content(self, opener: Opener, id_key: bytes, chunks: ListChunks | None = None) -> CopyContent:
        """Return the decrypted account.

        Args:
            opener: decrypts.
            id_key: the key of the names.
            chunks: reads chunks of lists; of several copies, some of them only once.

        Raises:
            RefusedError: the identity is another's, or the copy says that it is of another set than its name.
            StoreError, ValidationError: it is damaged.
        """
        text = self._text([opener.open(self.sealed_content(), name=self.where)])
        try:
            if self.header.list_chunks:
                summary = CopySummary.model_validate_json(text)
                self._require_name(id_key, summary)
                chunks = chunks or ListChunks(self._place, opener, id_key)
                lists = self._text(chunks.read(self.header.list_chunks))
                content = joined(summary, CopyLists.model_validate_json(lists))
            else:
                content = CopyContent.model_validate_json(text)
                self._require_name(id_key, content)
        except PydanticError as error:
            raise self._unreadable() from error
        whole = sum(file.size for file in content.files)
        if len(content.plain_sizes) != len(self.header.chunks) or sum(content.plain_sizes) != whole:
            raise StoreError("The copy's files and chunks do not agree.", where=self.where, remedy=_DAMAGED)
        if any(file.path == MANIFEST_NAME for file in content.files):
            raise StoreError("The copy holds two manifests.", where=self.where, remedy=_DAMAGED)
        return content

    def _text(self, pieces: Iterable[Data]) -> bytes:
        try:
            return unpacked(pieces)
        except (ValueError, zlib.error) as error:
            raise self._unreadable() from error

    def _unreadable(self) -> StoreError:
        return StoreError("The copy's account cannot be read.", where=self.where, remedy=_DAMAGED)

    def _require_name(self, id_key: bytes, content: CopyContent | CopySummary) -> None:
        if copy_name(id_key, content.plan, content.set_id) != self.name:
            raise RefusedError(
                f"This copy is of {content.plan}/{content.set_id}, which its name does not stand for.",
                where=self.where,
                remedy=_FOREIGN,
            )


_DAMAGED = "Use another copy, and copy the set again where it still is."
_UNKNOWN = (
    "If your kit names this key, or another machine of yours has it, list it in `signers` of the vault's settings (in "
    "a recovery: one more --signer). Otherwise use another copy, then find out who writes to the vault."
)
_FOREIGN = "Use another copy, then find out who writes to the vault."
