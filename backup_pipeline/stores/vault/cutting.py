"""A set's files as one stream in path order, cut by content (FastCDC), so that many small files share chunks."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO

from pyfastcdc import FastCDC

from backup_pipeline.errors import ValidationError
from backup_pipeline.model.manifest import MANIFEST_NAME
from backup_pipeline.model.proof import PROOFS_FOLDER
from backup_pipeline.model.set_id import SetId
from backup_pipeline.stores.contract import Store
from backup_pipeline.stores.vault.copy_object import CopiedFile
from backup_pipeline.stores.vault.description import Cutting
from backup_pipeline.system import limits


class SetStream:
    """Reads the files of a sealed set one after the other, hashing each and comparing it with the manifest.

    Args:
        names: paths in the order of the stream.
        open_file: opens one of them.
        expected: SHA-256 in hex by path, for the files that the manifest lists.
        on_bytes: called with the number of bytes read so far.
        where: the set, for errors.
    """

    def __init__(
        self, names: Sequence[str], open_file: Callable[[str], BinaryIO], expected: Mapping[str, str],
        on_bytes: Callable[[int], None], *, where: str,
    ) -> None:  # fmt: skip
        self._names = iter(names)
        self._open = open_file
        self._expected = expected
        self._on_bytes = on_bytes
        self._where = where
        self._file: BinaryIO | None = None
        self._name = ""
        self._size = 0
        self._digest = hashlib.sha256()
        self._read = 0
        self.files: list[CopiedFile] = []

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` as far as the stream goes; 0 only at its end.

        Raises:
            ValidationError: a file is not what the manifest says.
        """
        filled = 0
        while filled < len(buffer):
            if self._file is None and not self._next():
                break
            count = self._file.readinto(buffer[filled:])  # type: ignore[union-attr]
            if not count:
                self._finish()
                continue
            self._digest.update(buffer[filled : filled + count])
            self._size += count
            filled += count
        if filled:
            self._read += filled
            limits.progressed()
            self._on_bytes(self._read)
        return filled

    def _next(self) -> bool:
        name = next(self._names, None)
        if name is None:
            return False
        self._name, self._size, self._digest = name, 0, hashlib.sha256()
        self._file = self._open(name)
        return True

    def _finish(self) -> None:
        self.close()
        found = self._digest.hexdigest()
        if self._expected.get(self._name, found) != found:
            raise ValidationError(
                "The file is not what the manifest says; such a set is not copied.",
                where=f"{self._where}: {self._name}", remedy="backup-pipeline verify names what is damaged; copy "
                "another set.",
            )  # fmt: skip
        self.files.append(CopiedFile(path=self._name, size=self._size, sha256=found))

    def close(self) -> None:
        """Close the file that is being read."""
        if self._file is not None:
            self._file.close()
            self._file = None


def stream_names(store: Store, set_id: SetId) -> tuple[list[str], int]:
    """Return the paths of the set's stream in order and their size: all but the manifest and what was added later."""
    found = [
        (path, size)
        for path, size in store.files(set_id)
        if path != MANIFEST_NAME and not path.startswith(f"{PROOFS_FOLDER}/")
    ]
    return sorted(path for path, _ in found), sum(size for _, size in found)


def cut(stream: SetStream, cutting: Cutting, id_key: bytes) -> Iterator[bytes]:
    """Yield the chunks of a stream. The cuts depend on the id key, so that sizes tell nobody what is there."""
    cutter = FastCDC(
        cutting.average, min_size=cutting.smallest, max_size=cutting.largest,
        normalized_chunking=cutting.normalization, seed=_seed(id_key),
    )  # fmt: skip
    for chunk in cutter.cut_stream(stream):
        yield bytes(chunk.data)


def _seed(id_key: bytes) -> int:
    """Return 63 bits that only holders of the id key know."""
    return int.from_bytes(hmac.digest(id_key, b"cut", "sha256")[:8], "big") >> 1
