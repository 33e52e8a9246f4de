"""Checking a vault: without an identity what is stored, with one what it holds."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from backup_pipeline.errors import BackupSystemError, ValidationError
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.model.proof import Finding
from backup_pipeline.stores.objects.contract import ObjectPlace
from backup_pipeline.stores.vault.catalog import StoredChunk, VaultCatalog
from backup_pipeline.stores.vault.copy_object import StoredCopy
from backup_pipeline.stores.vault.encryption import Opener
from backup_pipeline.stores.vault.names import COPIES, chunk_object
from backup_pipeline.stores.vault.reading import CopyReader
from backup_pipeline.stores.vault.stored_chunk import ChunkRef, read_stored_chunk
from backup_pipeline.system.threads import ContextThreadPool

_WORKERS = 4
_BATCH = 64


@dataclass
class VaultCheckResult:
    """What was found.

    Attributes:
        copies, chunks: that were checked; `read_bytes` of them were read as stored.
        decrypted: sets whose copies were decrypted and compared.
        findings: everything that is wrong; `bad_copies` are those that cannot be brought back whole.
        bad_chunks: names of chunks that are missing or not what a copy says.
        unused_chunks: chunks that no copy names, of `unused_bytes`.
        lock: one sentence on what the storage promises; `locks` objects were asked for theirs.
        hidden: objects that somebody deleted or replaced, and that the storage keeps below.
    """

    copies: int = 0
    chunks: int = 0
    read_bytes: int = 0
    decrypted: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    bad_copies: set[str] = field(default_factory=set)
    bad_chunks: set[str] = field(default_factory=set)
    unused_chunks: int = 0
    unused_bytes: int = 0
    lock: str = ""
    locks: int = 0
    hidden: list[str] = field(default_factory=list)

    def add(self, copy: str, subject: str, problem: str, remedy: str = "") -> None:
        """Note what is wrong with a copy."""
        self.bad_copies.add(copy)
        self.findings.append(Finding(subject=subject, problem=problem, remedy=remedy))


def check_stored(
    catalog: VaultCatalog,
    *,
    names: Collection[str] = (),
    sizes_only: bool = False,
    progress: ProgressSink = no_progress,
) -> VaultCheckResult:
    """Check that every copy is signed and whole, and every chunk there with its size and the hash of its stored bytes.

    Args:
        catalog: the vault.
        names: only these copies; all when empty.
        sizes_only: do not read the chunks.
        progress: who watches.
    """
    result = VaultCheckResult()
    copies, damaged = catalog.copies()
    selected = [copy for copy in copies if not names or copy.name in names]
    for bad in damaged:
        if not names or bad.name in names:
            result.add(bad.name, bad.error.where, bad.error.what, bad.error.remedy)
    listed = catalog.chunks()
    users: dict[ChunkRef, list[str]] = {}
    for copy in selected:
        _check_account(copy, result)
        for chunk in dict.fromkeys(copy.header.needed):
            users.setdefault(chunk, []).append(copy.name)
    result.copies, result.chunks = len(selected), len(users)
    present = [chunk for chunk in users if _is_listed(catalog.place, chunk, listed, users[chunk], result)]
    if not names:
        used = {chunk.name for chunk in users}
        unused = [stored.size for name, stored in listed.items() if name not in used]
        result.unused_chunks, result.unused_bytes = len(unused), sum(unused)
    if not sizes_only:
        _read_all(catalog.place, present, users, result, progress)
    return result


def _check_account(copy: StoredCopy, result: VaultCheckResult) -> None:
    try:
        copy.sealed_content()
    except BackupSystemError as error:
        if not error.permanent:
            raise
        result.add(copy.name, error.where, error.what, error.remedy)


def _is_listed(
    place: ObjectPlace, chunk: ChunkRef, listed: dict[str, StoredChunk], users: list[str], result: VaultCheckResult
) -> bool:
    found = listed.get(chunk.name)
    if found is not None and found.size == chunk.size:
        return True
    try:
        read_stored_chunk(place, chunk)  # From below what somebody put there, where a lock keeps it.
    except ValidationError:
        pass
    else:
        return True
    result.bad_chunks.add(chunk.name)
    problem = "A chunk is missing." if found is None else f"A chunk has {found.size:,} bytes instead of {chunk.size:,}."
    for copy in users:
        result.add(copy, f"{place.label}/{chunk_object(chunk.name)}", f"{problem} It is needed by {COPIES}{copy}.")
    return False


def _read_all(
    place: ObjectPlace,
    chunks: list[ChunkRef],
    users: dict[ChunkRef, list[str]],
    result: VaultCheckResult,
    progress: ProgressSink,
) -> None:
    total = sum(chunk.size for chunk in chunks)

    def problem_of(chunk: ChunkRef) -> BackupSystemError | None:
        try:
            read_stored_chunk(place, chunk)
        except ValidationError as error:
            return error
        return None

    with ContextThreadPool(_WORKERS, "vault-check") as pool:
        for batch in _batches(chunks):
            for chunk, error in zip(batch, pool.map(problem_of, batch), strict=True):
                result.read_bytes += chunk.size
                result.bad_chunks |= {chunk.name} if error else set()
                for copy in users[chunk] if error else ():
                    result.add(copy, error.where if error else "", error.what if error else "")
            progress(Progress("check", result.read_bytes, total))
    progress(Progress("check", total, total, finished=True))


def _batches(chunks: list[ChunkRef]) -> Iterator[list[ChunkRef]]:
    for start in range(0, len(chunks), _BATCH):
        yield chunks[start : start + _BATCH]


def check_content(
    catalog: VaultCatalog,
    copies: list[StoredCopy],
    opener: Opener,
    id_key: bytes,
    result: VaultCheckResult,
    progress: ProgressSink = no_progress,
) -> None:
    """Decrypt copies whole and compare every file with what the manifest and the account say.

    Raises:
        RefusedError: the identity opens nothing here.
    """
    for copy in copies:
        try:
            content = copy.content(opener, id_key)
            CopyReader(catalog.place, copy, content, opener, id_key).verify(progress)
            result.decrypted.append(f"{content.plan}/{content.set_id}")
        except BackupSystemError as error:
            if not error.permanent or "identity" in error.what:
                raise
            result.add(copy.name, error.where, error.what, error.remedy)
