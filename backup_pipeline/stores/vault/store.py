"""The copies of one plan in a vault as a store of the contract, for reading; only what is read comes down."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from backup_pipeline.errors import (
    BackupSystemError,
    MissingFileError,
    RefusedError,
    SetNotFoundError,
    StoreError,
    ValidationError,
)
from backup_pipeline.model.backup_set import BackupSet, SetState
from backup_pipeline.model.manifest import MANIFEST_NAME, Draft
from backup_pipeline.model.proof import Proof
from backup_pipeline.model.set_id import SetId, is_set_id
from backup_pipeline.stores.contract import SetWriter
from backup_pipeline.stores.objects.errors import ObjectNotFoundError
from backup_pipeline.stores.read_manifest import parse_manifest
from backup_pipeline.stores.vault.copy_content import CopyContent
from backup_pipeline.stores.vault.copy_files import PLACE_TROUBLE, ChunkCache, CopyFiles
from backup_pipeline.stores.vault.encryption import OtherRecipientsError
from backup_pipeline.stores.vault.names import copy_name, plan_tag, tag_of
from backup_pipeline.stores.vault.proofs import StoredProof, proof_names, stored_proofs
from backup_pipeline.stores.vault.reading import CopyReader
from backup_pipeline.stores.vault.vault import VaultReader
from backup_pipeline.system.threads import ContextThreadPool

LOG = logging.getLogger("vault")
_AT_ONCE = 8
KeepProof = Callable[[str, Proof], None]


class VaultStore:
    """See `contract.Store`.

    Args:
        vault: the vault's name in the settings.
        reader: the vault, opened with an identity.
        plan: the plan.
        keep_proof: called with a copy's name and a result that is to be kept with it; None refuses to keep any.
        scratch: private folder for chunks that may be read again; None keeps only the latest few, in memory.
        keep_bytes: at most so many bytes are kept there.
    """

    def __init__(
        self,
        vault: str,
        reader: VaultReader,
        plan: str,
        *,
        keep_proof: KeepProof | None = None,
        scratch: Path | None = None,
        keep_bytes: int | None = None,
    ) -> None:
        self.vault = vault
        self.plan = plan
        self._reader = reader
        self._keep_proof = keep_proof
        self._scratch = scratch
        self._keep_bytes = keep_bytes
        self._trouble: BackupSystemError | None = None
        self._open: dict[SetId, tuple[CopyReader, ChunkCache, CopyFiles]] = {}

    @property
    def label(self) -> str:
        """The vault's name and place."""
        return f"{self.vault} ({self._reader.place.label})"

    @property
    def name(self) -> str:
        """`VAULT:PLAN`, which begins the names of its sets."""
        return f"{self.vault}:{self.plan}"

    def begin(self, draft: Draft) -> SetWriter:
        """Refuse: sets are copied here, or written by the plan whose store this vault is."""
        raise self._only_read()

    def reopen(self, set_id: SetId) -> SetWriter:
        """Refuse: copies are whole."""
        raise self._only_read()

    def remove(self, set_id: SetId) -> None:
        """Refuse: copies are marked for removal, and cleaned after a time of grace."""
        self._copy_name(set_id)
        raise RefusedError(
            "A copy in a vault is not removed at once.",
            where=f"{self.name}/{set_id}",
            remedy=f"backup-pipeline vault clean {self.vault} applies the vault's retention.",
        )

    def _only_read(self) -> StoreError:
        return StoreError(
            "Copies in a vault are only read here.",
            where=self.label,
            remedy=f"backup-pipeline vault copy {self.vault} copies a set.",
        )

    def ids(self) -> tuple[SetId, ...]:
        """Return the ids of the plan's copies, oldest first; one listing, no copy is read."""
        return tuple(sorted(self._names()))

    def sealed_ids(self) -> tuple[SetId, ...]:
        """Return the same: only sealed sets are copied."""
        return self.ids()

    def _names(self) -> dict[SetId, str]:
        key = self._reader.id_key
        tag = plan_tag(key, self.plan)
        found = {}
        for name in self._reader.catalog.copy_names():
            set_id = SetId(name.rpartition("-")[0])
            if tag_of(name) == tag and is_set_id(set_id) and copy_name(key, self.plan, set_id) == name:
                found[set_id] = name
        return found

    def _copy_name(self, set_id: SetId) -> str:
        if not is_set_id(set_id):
            raise self._no_such(set_id)
        return copy_name(self._reader.id_key, self.plan, set_id)

    def _no_such(self, set_id: str) -> SetNotFoundError:
        return SetNotFoundError(
            "The vault has no copy of such a set.",
            where=f"{self.name}/{set_id}",
            remedy=f"backup-pipeline list {self.name} shows its copies.",
        )

    def _opened(self, set_id: SetId) -> tuple[CopyReader, ChunkCache, CopyFiles]:
        if set_id not in self._open:
            name = self._copy_name(set_id)
            try:
                copy = self._reader.catalog.copy(name)
            except ObjectNotFoundError as error:
                raise self._no_such(set_id) from error
            reader = self._reader.reader(copy)
            folder = None
            if self._scratch is not None:
                folder = self._scratch / name
                folder.mkdir(mode=0o700, exist_ok=True)
            cache = ChunkCache(reader, folder, self._keep_bytes, self._note_trouble)
            self._open[set_id] = (reader, cache, CopyFiles(reader, cache))
        return self._open[set_id]

    def _note_trouble(self, error: BackupSystemError) -> None:
        self._trouble = self._trouble or error

    def trouble(self) -> BackupSystemError | None:
        """Return the first error of the vault's place, which says nothing against the set; None without one."""
        return self._trouble

    def read(self, set_id: SetId) -> BackupSet:
        """Return a set from its copy and the proofs beside it; no chunk of its data is read. A bad copy is damaged."""
        return self._read(set_id, lambda: self._opened(set_id)[0].content)

    def _read(
        self, set_id: SetId, content_of: Callable[[], CopyContent], proofs: Sequence[str] | None = None
    ) -> BackupSet:
        try:
            content = content_of()
        except (SetNotFoundError, OtherRecipientsError, *PLACE_TROUBLE):
            raise
        except BackupSystemError as error:
            if not error.permanent:
                raise
            return BackupSet(set_id, self.plan, SetState.DAMAGED, problem=f"{error.where}: {error.what}")
        manifest, problem = parse_manifest(content.manifest.encode(), set_id)
        found, damaged = self._proofs(set_id, proofs)
        if manifest is None:
            return BackupSet(set_id, self.plan, SetState.DAMAGED, proofs=found, problem=problem)
        return BackupSet(
            set_id,
            self.plan,
            SetState.COMPLETE,
            manifest,
            None,
            manifest.artefacts,
            (),
            found,
            damaged_proofs=damaged,
        )

    def _proofs(self, set_id: SetId, names: Sequence[str] | None = None) -> tuple[tuple[Proof, ...], tuple[str, ...]]:
        place, known = self._reader.place, self._reader.description
        if names is None:
            names = proof_names(place, self._copy_name(set_id))
        found, damaged = [], []
        for _, proof in stored_proofs(place, known, names, self._reader.catalog.trusted):
            if not isinstance(proof, StoredProof):
                # Whoever can write there can put anything there: it says nothing, for or against.
                LOG.warning("a proof does not count: %s", proof)
                continue
            try:
                found.append(proof.content(self._reader.opener, set_id))
            except RefusedError as error:  # encrypted to recipients of another time
                LOG.warning("a proof cannot be read with this identity: %s", error)
            except ValidationError:
                damaged.append(proof.file_name)
        return tuple(sorted(found, key=lambda one: one.finished_at)), tuple(damaged)

    def sets(self) -> Iterator[BackupSet]:
        """Yield every set that the identity opens, oldest first; copies of other recipients are passed over."""
        proofs: dict[str, list[str]] = {}
        for name in proof_names(self._reader.place):
            proofs.setdefault(name.partition("/")[0], []).append(name)

        def read(copy: tuple[SetId, str]) -> BackupSet | None:
            set_id, name = copy

            def content() -> CopyContent:
                return self._reader.content(self._reader.catalog.copy(name))

            try:
                return self._read(set_id, content, proofs.get(name, []))
            except OtherRecipientsError as error:
                LOG.warning("%s/%s: %s", self.name, set_id, error.what)
            except ObjectNotFoundError:
                pass  # cleaned meanwhile
            return None

        # Some at a time: hundreds of small objects one after the other would take as many times the way to the vault.
        names = sorted(self._names().items())
        with ContextThreadPool(_AT_ONCE, "vault-list") as pool:
            for begin in range(0, len(names), _AT_ONCE):
                yield from filter(None, pool.map(read, names[begin : begin + _AT_ONCE]))

    def open(self, set_id: SetId, path: str) -> BinaryIO:
        """Open a file of a set for reading (seekable); only the chunks that are read come down."""
        pure = PurePosixPath(path)
        reader, _, files = self._opened(set_id)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\0" in path:
            raise StoreError("Not a path inside the set.", where=path, remedy="This is a fault of the program.")
        if path == MANIFEST_NAME:
            return io.BytesIO(reader.content.manifest.encode())
        if path not in files:
            where = f"{self.name}/{set_id}/{path}"
            raise MissingFileError("The file is missing.", where=where, remedy="Use another set.")
        return files.open(path)

    def path_of(self, set_id: SetId, path: str = "") -> Path | None:
        """Return None: there is no file before it was brought down."""
        self._copy_name(set_id)
        return None

    def files(self, set_id: SetId, sizes: Mapping[str, int] | None = None) -> Iterator[tuple[str, int]]:
        """Yield path and size of every file of the set, by path."""
        content = self._opened(set_id)[0].content
        listed = [(file.path, file.size) for file in content.files]
        yield from sorted([*listed, (MANIFEST_NAME, len(content.manifest.encode()))])

    def unexpected_entries(self, set_id: SetId) -> Iterator[str]:
        """Yield nothing: a copy holds files alone."""
        self._copy_name(set_id)
        yield from ()

    def add_proof(self, set_id: SetId, proof: Proof) -> Proof:
        """Put a verification's or drill's result beside the copy, signed and encrypted.

        Raises:
            StoreError: neither the vault nor this machine can keep it.
        """
        if self._keep_proof is None:
            raise self._only_read()
        self._keep_proof(self._copy_name(set_id), proof)
        return proof

    def free_bytes(self) -> int | None:
        """Return None: nobody knows how much room a vault has."""
        return None

    def close(self) -> None:
        """Stop what is being brought down."""
        for _, cache, _ in self._open.values():
            cache.close()
        self._open.clear()
