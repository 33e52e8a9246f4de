"""A copy as one object: a plain signed header that names its chunks, then the encrypted account of the set.

    backup-pipeline vault copy 1 <bytes of the header> <bytes of the content>
    <header: one line of JSON>
    <signature: one line of JSON>
    <content: age(gzip(JSON)); gzip(JSON) where the vault is not encrypted>

One object, so that no header ever stands beside the content of another attempt.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Collection
from typing import Annotated, Literal, NamedTuple

from isal import igzip
from pydantic import AfterValidator, AwareDatetime, Field
from pydantic import ValidationError as PydanticError

from backup_pipeline.errors import RefusedError, StoreError, ValidationError
from backup_pipeline.model.base import Frozen
from backup_pipeline.model.manifest import MANIFEST_NAME
from backup_pipeline.model.proof import PROOFS_FOLDER
from backup_pipeline.model.set_id import SetId, is_set_id
from backup_pipeline.stores.objects.contract import Data, ObjectPlace
from backup_pipeline.stores.vault.description import Description
from backup_pipeline.stores.vault.encryption import Opener, Sealer
from backup_pipeline.stores.vault.locks import earlier_versions
from backup_pipeline.stores.vault.names import COPIES, copy_name, is_chunk_name
from backup_pipeline.stores.vault.signing import Signer, is_public_key, is_signed

COPY_VERSION = 1
_SIGNED_FOR = "backup-pipeline vault copy 1"
_FIRST_LINE = re.compile(rb"backup-pipeline vault copy (\d{1,6}) (\d{1,12}) (\d{1,12})\n")
_FIRST_READ = 64 << 10
_LARGEST_SIGNATURE_LINE = 1024
_LARGEST_CONTENT = 1 << 30
_LARGEST_PLAIN_CONTENT = 4 << 30


def _is_chunk(name: str) -> str:
    if not is_chunk_name(name):
        raise ValueError("not a chunk's name")
    return name


class ChunkRef(NamedTuple):
    """A chunk as it is stored: its name, its size in bytes, and the SHA-256 in hex of its stored bytes."""

    name: Annotated[str, AfterValidator(_is_chunk)]
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CopyHeader(Frozen):
    """The plain part: enough to check and to clean without an identity.

    Attributes:
        vault: the vault's id: a copy that was carried from another vault is known by it.
        copy_name: the object's name, for a copy that was put under another one.
        generation: of the recipients (see Description).
        content_sha256: SHA-256 in hex of the encrypted account.
        locked_until: until when the storage was asked to forbid deletion of the copy and all its chunks.
        chunks: the chunks of the set's stream, in order; one may be there several times.
    """

    vault: str
    copy_name: str
    generation: int
    created_at: AwareDatetime
    content_sha256: str
    locked_until: AwareDatetime | None = None
    chunks: tuple[ChunkRef, ...]

    @property
    def stored_size(self) -> int:
        """Bytes of its chunks in the vault, each counted once."""
        return sum({chunk.name: chunk.size for chunk in self.chunks}.values())


def _is_path_inside(text: str) -> str:
    # Without pathlib: a copy may have very many files.
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if text.startswith("/") or ".." in parts or not parts or "\0" in text or "\\" in text:
        raise ValueError("not a path inside a set")
    if parts[0] == PROOFS_FOLDER:
        raise ValueError("proofs are not copied: what is brought back has to be proven again")
    return text


def _is_set(text: str) -> str:
    if not is_set_id(text):
        raise ValueError("not a set's name")
    return text


class CopiedFile(Frozen):
    """One file of the set; its bytes follow those of the file before in the stream."""

    path: Annotated[str, AfterValidator(_is_path_inside)]
    size: int = Field(ge=0)
    sha256: str


class CopyContent(Frozen):
    """The encrypted part.

    Attributes:
        manifest: the text of manifest.json, which is in no chunk.
        files: every other file of the set but its proofs, in the order of the stream.
        plain_sizes: how many bytes of the stream each chunk of the header holds.
        settings: the site's backup.yaml, which holds no secret.

    Plan, set and paths become folders where a copy is brought back. Whoever can write to the vault can make a whole one
    to the same recipients, so each must be what a site's own can be.
    """

    copy_version: Literal[1] = 1
    plan: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,59}$")]
    set_id: Annotated[SetId, AfterValidator(_is_set)]
    manifest: str
    files: tuple[CopiedFile, ...]
    plain_sizes: tuple[int, ...]
    settings: str = ""
    pipeline_version: str = ""

    @property
    def size(self) -> int:
        """Bytes of the set without its proofs."""
        return sum(file.size for file in self.files) + len(self.manifest.encode())


def encode_copy(header: CopyHeader, content: CopyContent, sealer: Sealer, signer: Signer) -> tuple[CopyHeader, bytes]:
    """Return the header with the content's digest, and the object's bytes."""
    packed = igzip.compress(content.model_dump_json().encode(), compresslevel=1, mtime=0)
    sealed = sealer.seal(packed)
    header = header.model_copy(update={"content_sha256": hashlib.sha256(sealed).hexdigest()})
    line = header.model_dump_json().encode()
    signature = {"key": signer.public, "signature": signer.sign(_SIGNED_FOR, line)}
    first = f"backup-pipeline vault copy {COPY_VERSION} {len(line)} {len(sealed)}\n".encode()
    return header, first + line + b"\n" + json.dumps(signature).encode() + b"\n" + sealed


def _unpacked(packed: Data) -> bytes:
    """Return what was packed with gzip; ValueError where it was cut short or is larger than an account can be."""
    unpacking = zlib.decompressobj(wbits=31)
    plain = unpacking.decompress(packed, _LARGEST_PLAIN_CONTENT)
    if not unpacking.eof:
        raise ValueError("cut short, or too large")
    return plain


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
        if version != COPY_VERSION:
            raise StoreError(
                f"Copies of version {version} are not known to this release (it reads up to {COPY_VERSION}).",
                where=self.where,
                remedy="Install the release that wrote it.",
            )
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
        if not is_signed(key, _SIGNED_FOR, line, value):
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

    def content(self, opener: Opener, id_key: bytes) -> CopyContent:
        """Return the decrypted account.

        Raises:
            RefusedError: the identity is another's, or the copy says that it is of another set than its name.
            StoreError, ValidationError: it is damaged.
        """
        packed = opener.open(self.sealed_content(), name=self.where)
        try:
            content = CopyContent.model_validate_json(_unpacked(packed))
        except (ValueError, zlib.error) as error:
            raise StoreError("The copy's account cannot be read.", where=self.where, remedy=_DAMAGED) from error
        if copy_name(id_key, content.plan, content.set_id) != self.name:
            raise RefusedError(
                f"This copy is of {content.plan}/{content.set_id}, which its name does not stand for.",
                where=self.where,
                remedy=_FOREIGN,
            )
        whole = sum(file.size for file in content.files)
        if len(content.plain_sizes) != len(self.header.chunks) or sum(content.plain_sizes) != whole:
            raise StoreError("The copy's files and chunks do not agree.", where=self.where, remedy=_DAMAGED)
        if any(file.path == MANIFEST_NAME for file in content.files):
            raise StoreError("The copy holds two manifests.", where=self.where, remedy=_DAMAGED)
        return content


_DAMAGED = "Use another copy, and copy the set again where it still is."
_UNKNOWN = (
    "If your kit names this key, or another machine of yours has it, list it in `signers` of the vault's settings (in "
    "a recovery: one more --signer). Otherwise use another copy, then find out who writes to the vault."
)
_FOREIGN = "Use another copy, then find out who writes to the vault."
