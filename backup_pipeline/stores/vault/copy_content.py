"""The account of a copy: what it is of, and its lists; beside each other in its object, or the lists in chunks.

A list of very many files hardly differs from one copy to the next. So a long one is cut by content into chunks of its
own, which copies share as they share those of the data. Each of them holds a piece of the list, packed with gzip.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Annotated, Literal

from isal import igzip
from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from backup_pipeline.model.base import Frozen
from backup_pipeline.model.proof import PROOFS_FOLDER
from backup_pipeline.model.set_id import SetId, is_set_id
from backup_pipeline.stores.objects.contract import Data

_LARGEST_PLAIN = 4 << 30
_AFTER_FILES = b',"plain_sizes":['


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


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class CopiedFile:
    """One file of the set; its bytes follow those of the file before in the stream.

    With slots: a copy may have very many, and they are held together.
    """

    path: Annotated[str, AfterValidator(_is_path_inside)]
    size: Annotated[int, Field(ge=0)]
    sha256: str


class CopySummary(Frozen):
    """What stands in the object of a copy of version 2: all but the lists.

    Plan, set and paths become folders where a copy is brought back. Whoever can write to the vault can make a whole one
    to the same recipients, so each must be what a site's own can be.
    """

    copy_version: Literal[2] = 2
    plan: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,59}$")]
    set_id: Annotated[SetId, AfterValidator(_is_set)]
    pipeline_version: str = ""


class CopyLists(Frozen):
    """The lists of a copy of version 2; see CopyContent. What hardly differs between copies stands together."""

    files: tuple[CopiedFile, ...]
    plain_sizes: tuple[int, ...]
    manifest: str
    settings: str = ""

    def texts(self) -> tuple[bytes, bytes]:
        """Return the lists as JSON, in two parts that follow each other: the files, and all that comes after them."""
        text = self.model_dump_json().encode()
        border = text.index(_AFTER_FILES)  # In no string: a quotation mark is escaped there.
        return text[:border], text[border:]


class CopyContent(Frozen):
    """The whole account; as JSON it is what the object of a copy of version 1 holds.

    Attributes:
        manifest: the text of manifest.json, which is in no chunk of the data.
        files: every other file of the set but its proofs, in the order of the stream.
        plain_sizes: how many bytes of the stream each chunk of the data holds.
        settings: the site's backup.yaml, which holds no secret.
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

    def summary(self) -> CopySummary:
        """Return what is not a list."""
        return CopySummary.model_construct(plan=self.plan, set_id=self.set_id, pipeline_version=self.pipeline_version)

    def lists(self) -> CopyLists:
        """Return the lists."""
        return CopyLists.model_construct(
            files=self.files,
            plain_sizes=self.plain_sizes,
            manifest=self.manifest,
            settings=self.settings,
        )


def packed(text: bytes) -> bytes:
    """Return bytes as gzip, the same for the same bytes."""
    return igzip.compress(text, compresslevel=1, mtime=0)


def unpacked(pieces: Iterable[Data]) -> bytes:
    """Return what was packed, piece by piece; ValueError where one was cut short or all are larger than an account."""
    found, room = [], _LARGEST_PLAIN
    for piece in pieces:
        unpacking = zlib.decompressobj(wbits=31)
        found.append(unpacking.decompress(piece, room))
        room -= len(found[-1])
        if not unpacking.eof or room <= 0:
            raise ValueError("cut short, or too large")
    return b"".join(found)


def joined(summary: CopySummary, lists: CopyLists) -> CopyContent:
    """Return the whole account of a copy of version 2."""
    return CopyContent(
        plan=summary.plan,
        set_id=summary.set_id,
        manifest=lists.manifest,
        files=lists.files,
        plain_sizes=lists.plain_sizes,
        settings=lists.settings,
        pipeline_version=summary.pipeline_version,
    )
