"""Chunks as they lie in a vault: what a copy's header says of one, and reading it back."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field

from backup_pipeline.errors import ValidationError
from backup_pipeline.stores.objects.contract import Data, ObjectPlace
from backup_pipeline.stores.objects.errors import ObjectNotFoundError
from backup_pipeline.stores.vault.encryption import Opener
from backup_pipeline.stores.vault.locks import earlier_versions
from backup_pipeline.stores.vault.names import chunk_id, chunk_object, is_chunk_name, keyed

_REMEDY = "Use another copy, and copy the set again where it still is."


def _is_chunk(name: str) -> str:
    if not is_chunk_name(name):
        raise ValueError("not a chunk's name")
    return name


class ChunkRef(NamedTuple):
    """A chunk as it is stored: its name, its size in bytes, and the SHA-256 in hex of its stored bytes."""

    name: Annotated[str, AfterValidator(_is_chunk)]
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def read_stored_chunk(place: ObjectPlace, chunk: ChunkRef) -> bytes:
    """Return a chunk's stored bytes, as its copy's header says they are.

    Where somebody deleted or replaced it and the storage keeps the version below under its lock, that one is read.

    Raises:
        ValidationError: it is missing, cut short or changed; the chunk is named.
    """
    name = chunk_object(chunk.name)
    try:
        data = place.get(name)
        problem = _problem(data, chunk)
    except ObjectNotFoundError:
        data, problem = b"", "A chunk is missing."
    if not problem:
        return data
    for _, kept in earlier_versions(place, name):
        if not _problem(kept, chunk):
            return kept
    raise ValidationError(problem, where=f"{place.label}/{name}", remedy=_REMEDY)


def read_plain_chunk(
    place: ObjectPlace, chunk: ChunkRef, opener: Opener, id_key: bytes, size: int | None = None
) -> Data:
    """Return a chunk's plain bytes, which its id stands for.

    Args:
        place: the vault's place.
        chunk: as the copy's signed header names it.
        opener: decrypts.
        id_key: the key of the ids.
        size: how many plain bytes it holds, where the copy says that.

    Raises:
        ValidationError: it is missing, changed, or another chunk than its id says.
    """
    name = chunk_object(chunk.name)

    def is_right(plain: Data) -> bool:
        return size in (None, len(plain)) and keyed(id_key, plain) == chunk_id(chunk.name)

    # The signed header names the id, which stands for the plain bytes: where they are right, the hash of the stored
    # bytes can say no more. It says what is wrong, and which version below is right, where they are not.
    with contextlib.suppress(ObjectNotFoundError):
        plain = opener.plain_or_none(place.get(name))
        if plain is not None and is_right(plain):
            return plain
    where = f"{place.label}/{name}"
    plain = opener.open(read_stored_chunk(place, chunk), name=where)
    if not is_right(plain):
        raise ValidationError("The chunk holds other bytes than its id stands for.", where=where, remedy=_REMEDY)
    return plain


def _problem(data: bytes, chunk: ChunkRef) -> str:
    if len(data) != chunk.size:
        return f"A chunk has {len(data):,} bytes, its copy says {chunk.size:,}."
    return "" if hashlib.sha256(data).hexdigest() == chunk.sha256 else "A chunk was changed."
