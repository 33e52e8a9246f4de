"""Encrypting copies anew to the present recipients: chunks under new names first, then the copy's own object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from backup_pipeline.errors import RefusedError, ValidationError
from backup_pipeline.model.progress import Progress
from backup_pipeline.stores.objects.contract import Data
from backup_pipeline.stores.vault.catalog import VaultCatalog
from backup_pipeline.stores.vault.copy_content import CopyContent
from backup_pipeline.stores.vault.copy_object import StoredCopy, encode_copy
from backup_pipeline.stores.vault.encryption import Opener
from backup_pipeline.stores.vault.names import COPIES
from backup_pipeline.stores.vault.reading import CopyReader
from backup_pipeline.stores.vault.sending import ChunkSender, WriterKeys, WriterOptions


@dataclass
class ReencryptResult:
    """What was done: names of copies that are encrypted anew, that were already, and that could not be, with why.

    `sent` chunks of `sent_bytes` as stored were written; those of before stay until `vault clean` removes them.
    """

    done: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    sent: int = 0
    sent_bytes: int = 0


def reencrypt(catalog: VaultCatalog, keys: WriterKeys, opener: Opener, options: WriterOptions) -> ReencryptResult:
    """Encrypt every copy of an earlier generation of recipients to the present ones.

    Copies that are marked for removal are left alone. A copy stays readable throughout: its object is replaced at once,
    when all chunks under it are in the vault; what was done stays done when this is stopped.

    Args:
        catalog: the vault.
        keys: what this machine writes with.
        opener: decrypts the copies of before.
        options: how it is written.

    Raises:
        StoreError: the vault cannot be read or written.
    """
    result = ReencryptResult()
    marks = catalog.marks()
    copies, damaged = catalog.copies()
    result.failed = {bad.name: bad.error.what for bad in damaged}
    for copy in copies:
        if copy.name in marks:
            continue
        if copy.header.generation == catalog.description.generation:
            result.present.append(copy.name)
            continue
        try:
            _reencrypt_one(catalog, keys, opener, options, copy, result)
        except (RefusedError, ValidationError) as error:
            # Damaged, under a lock, or encrypted to another identity: the other copies need not wait for it.
            result.failed[copy.name] = error.what
        else:
            result.done.append(copy.name)
    return result


def _reencrypt_one(
    catalog: VaultCatalog,
    keys: WriterKeys,
    opener: Opener,
    options: WriterOptions,
    copy: StoredCopy,
    result: ReencryptResult,
) -> None:
    content = copy.content(opener, keys.id_key)
    reader = CopyReader(catalog.place, copy, content, opener, keys.id_key)
    where = f"{content.plan}/{content.set_id}"
    sender = ChunkSender(catalog, keys, options, lambda: _read(reader, content, options), where)
    refs, _ = sender.send_all()
    data_chunks = len(copy.header.chunks)
    header = copy.header.model_copy(
        update={
            "generation": catalog.description.generation,
            "chunks": tuple(refs[:data_chunks]),
            "list_chunks": tuple(refs[data_chunks:]),
            "created_at": options.clock(),
            "locked_until": sender.locked_until,
        }
    )
    _, data = encode_copy(header, content, keys.sealer, keys.signer)
    sender.lock_what_opens_it()
    sender.require_recent_announcement()
    catalog.place.put(COPIES + copy.name, data, lock_until=options.lock_until)
    sender.withdraw()
    result.sent += sender.sent
    result.sent_bytes += sender.sent_bytes


def _read(reader: CopyReader, content: CopyContent, options: WriterOptions) -> Iterator[Data]:
    label, total, done = f"reencrypt {content.plan}/{content.set_id}", content.size, 0
    for data in reader.chunks():
        yield data
        done += len(data)
        options.progress(Progress(label, done, total))
    yield from reader.list_chunks()
    options.progress(Progress(label, total, total, finished=True))
