"""The contract of every store: sets of files as streams. A local folder fulfils it now; object storage can.

What a file holds is not known here. Every implementation passes the same tests (test_store_contract).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.backup_set import BackupSet
from backup_pipeline.model.indexed_set import KnownSet
from backup_pipeline.model.manifest import Draft, Failure, Manifest
from backup_pipeline.model.proof import Proof
from backup_pipeline.model.record import ArtefactRecord, FileRecord
from backup_pipeline.model.set_id import SetId
from backup_pipeline.model.source_done import SourceDone
from backup_pipeline.stores.coordination import Coordination

LOCK_NAME = ".backup.lock"
"""File beside the sets of a plan that whoever adds or removes sets has locked."""


class ArtefactFile(Protocol):
    """A file of a set that is being written: bytes in, hashed; appears complete or not at all."""

    @property
    def size(self) -> int:
        """Bytes written so far."""

    @property
    def sha256(self) -> str:
        """SHA-256 in hex of the bytes written so far."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Write all of `data`."""

    def tell(self) -> int:
        """Return the number of bytes written."""


class SetWriter(Protocol):
    """The one way to add to a set that is not sealed yet."""

    @property
    def draft(self) -> Draft:
        """What the set says of itself."""

    @property
    def streams(self) -> bool:
        """Whether a file that is created with `stream` leaves this machine, and cannot be opened again."""

    def create(self, path: str, *, stream: bool = False) -> AbstractContextManager[ArtefactFile]:
        """Write a file at `path` (relative, forward slashes). Left with an exception, nothing appears.

        Args:
            path: in the set.
            stream: the file will not be opened again by this writer, so that it may leave while it is written.
        """

    def file_record(self, path: str, file: ArtefactFile) -> FileRecord:
        """Return the record of a file that was written."""

    def open(self, path: str) -> BinaryIO:
        """Open a file that was written, for reading (seekable)."""

    def scratch(self) -> AbstractContextManager[Path]:
        """Give a private folder for files on the way; removed when left, and with the seal whatever happens."""

    def claimed(self, tag: str) -> None:
        """Write from now on as one of several, under a claim whose tag marks the files that are not complete."""

    def write_record(self, record: ArtefactRecord) -> None:
        """Store an artefact's record, replacing that key's and its recorded failure."""

    def write_failure(self, failure: Failure) -> None:
        """Store why an artefact is missing."""

    def write_done(self, done: SourceDone) -> None:
        """Store that a source was captured whole; its records of other keys and its failures are dropped."""

    def begin_source(self, source: str) -> None:
        """Forget that a source was captured whole: it is about to be captured (again)."""

    def sources_done(self) -> tuple[SourceDone, ...]:
        """Return the sources that were captured whole, by name."""

    def records(self) -> tuple[ArtefactRecord, ...]:
        """Return the records written so far, by key."""

    def check_file(self, file: FileRecord) -> str:
        """Return what is wrong with a file that was written, against its record; "" when nothing is."""

    def seal(self, manifest: Manifest) -> None:
        """Write the manifest. Nothing can be added afterwards."""


class Store(Protocol):
    """Where the sets of one plan live."""

    @property
    def label(self) -> str:
        """Where it is, for people; no secret."""

    def begin(self, draft: Draft) -> SetWriter:
        """Make the set's place and write its draft; StoreError when the set exists."""

    def reopen(self, set_id: SetId) -> SetWriter:
        """Return the writer of an unsealed set, to complete it; StoreError when sealed."""

    def ids(self) -> tuple[SetId, ...]:
        """Return the ids of all sets, oldest first."""

    def sealed_ids(self) -> tuple[SetId, ...]:
        """Return the ids of the sealed sets, oldest first; cheap, nothing is read."""

    def read(self, set_id: SetId) -> BackupSet:
        """Return a set with manifest, records, failures and proofs; SetNotFoundError."""

    def sets(self) -> Iterator[BackupSet]:
        """Yield every set, oldest first."""

    def open(self, set_id: SetId, path: str) -> BinaryIO:
        """Open a file of a set for reading (seekable)."""

    def path_of(self, set_id: SetId, path: str = "") -> Path | None:
        """Return the real path of a set or of a file in it, for tools that need one; None where there is none."""

    def files(self, set_id: SetId, sizes: Mapping[str, int] | None = None) -> Iterator[tuple[str, int]]:
        """Yield path and size of every file of the set, manifest and records included, by path.

        Args:
            set_id: the set.
            sizes: bytes of files by path, as far as they are known: a store need not ask for these again.
        """

    def unexpected_entries(self, set_id: SetId) -> Iterator[str]:
        """Yield the paths of what stands in the set's place and is neither file nor folder (links), by path."""

    def add_proof(self, set_id: SetId, proof: Proof) -> Proof:
        """Add a verification's or drill's result to a sealed set; return it as it was kept (`after_those_ahead`)."""

    def remove(self, set_id: SetId) -> None:
        """Remove a set: manifest first, then its files; resumable."""

    def trouble(self) -> BackupSystemError | None:
        """Return what kept files from being read and says nothing against them (a network, credentials), or None."""

    def free_bytes(self) -> int | None:
        """Return the free space, where the store can say."""


class PlanStore(Store, Protocol):
    """The store that a plan's backups are written to, on this machine, with room for locks and logs beside the sets."""

    @property
    def plan(self) -> str:
        """The plan's name."""

    @property
    def artefacts_elsewhere(self) -> bool:
        """Whether the artefacts of sealed sets are not in the folder."""

    def free_here(self) -> int:
        """Return the free bytes of the folder's disk, on which files lie until they are sealed or sent."""

    @property
    def coordination(self) -> Coordination:
        """What processes that use this store agree by."""

    @property
    def folder(self) -> Path:
        """The folder of the sets, and of locks, marks and logs beside them."""

    @property
    def file_mode(self) -> int:
        """Mode of every file in the store."""

    @property
    def folder_mode(self) -> int:
        """Mode of every folder in the store."""

    def listed_sets(self) -> list[KnownSet]:
        """Return every set, oldest first, those that did not change since as they were read the last time."""

    def prepare(self) -> None:
        """Make the store's folder; StoreError when that is not possible."""

    def share(self, there: Mapping[str, int] | None = None) -> None:
        """Exchange what is beside the sets with other workers, where no disk is shared; `there` says what they have."""

    def path_of(self, set_id: SetId, path: str = "") -> Path:
        """Return the real path of a set or of a file in it."""
