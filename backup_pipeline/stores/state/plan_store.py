"""The store of a plan whose sets are in a vault alone and what is known of them in a database: for any worker.

A worker's folder holds what it captures until that is sent, and of sets what it was asked for. What belongs together
comes into the database together, as one document: a set's draft, what a source gave when it was captured whole, the
seal, a result. Such a document is written in the transaction that finds the worker's locks still its own.
"""

from __future__ import annotations

import json
import logging
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.errors import BackupSystemError, StoreError
from backup_pipeline.model.backup_set import BackupSet
from backup_pipeline.model.indexed_set import KnownSet
from backup_pipeline.model.manifest import (
    CHECKSUM_NAME,
    DRAFT_NAME,
    MANIFEST_NAME,
    Draft,
    Failure,
    Manifest,
)
from backup_pipeline.model.proof import PROOFS_FOLDER, Proof, proof_file_name
from backup_pipeline.model.set_id import SetId, is_set_id
from backup_pipeline.model.source_done import SourceDone
from backup_pipeline.settings.server_databases import KNOWN_FOLDER
from backup_pipeline.stores.coordination import Coordination
from backup_pipeline.stores.local import LocalSetWriter
from backup_pipeline.stores.state.database import StateDatabase
from backup_pipeline.stores.state.locks import DatabaseCoordination
from backup_pipeline.stores.state.shared_files import SharedFiles
from backup_pipeline.stores.vault.plan_store import (
    SEALING,
    SENT_FOLDER,
    UPLOADS,
    PlanVault,
    VaultPlanStore,
    VaultSetWriter,
)
from backup_pipeline.system.files import make_folders, read_ordinary, write_atomically, write_for_this_boot
from backup_pipeline.system.locks import boot_id

LOG = logging.getLogger("backup")
_BROUGHT = ".brought.part"
_BOOT = ""
_BESIDE = (f"{KNOWN_FOLDER}/*.json", "restores/*.json")
_LOGS = ("backup_log.txt",)
_DRAFT = "draft"
_SEAL = "manifest"
_SEALING = "sealing"
_SOURCE = "source/"
_FAILURE = "failure/"


def _packed(folder: Path, paths: Iterable[str], names: Mapping[str, str] | None = None) -> bytes:
    """Return files of a folder as one document; `names` gives those that are called otherwise there."""
    names = names or {}
    texts = {names.get(path, path): read_ordinary(folder / path).decode() for path in sorted(paths)}
    return zlib.compress(json.dumps(texts).encode())


class SharedSet:
    """One set's documents, and what of them is in the folder.

    Args:
        database: where they are.
        coordination: the plan's locks, on which changes depend.
        folder: of the set, on this worker.
        file_mode: of files.
        folder_mode: of folders.
    """

    def __init__(
        self,
        database: StateDatabase,
        coordination: DatabaseCoordination,
        folder: Path,
        file_mode: int,
        folder_mode: int,
    ) -> None:
        self._database = database
        self._coordination = coordination
        self._folder = folder
        self._file_mode = file_mode
        self._folder_mode = folder_mode
        self.scope = f"{coordination.scope}/{folder.name}"

    def bring(self, versions: Mapping[str, int] | None = None) -> bool:
        """Bring the folder up to date; False, and nothing is left of what was brought, when there is no such set."""
        versions = self._database.versions(self.scope) if versions is None else versions
        if not versions:
            if (self._folder / _BROUGHT).exists():
                shutil.rmtree(self._folder, ignore_errors=True)
            return False
        brought = self._brought()
        if {name: entry[0] for name, entry in brought.items()} == dict(versions) and self._folder.is_dir():
            return True
        make_folders(self._folder, self._folder_mode)
        found = self._database.read(self.scope, [n for n, at in versions.items() if brought.get(n, (0,))[0] != at])
        for name in [name for name in brought if name in found or name not in versions]:
            for path, written in brought.pop(name)[1].items():
                place = self._folder / path
                # One that was written here since is another's.
                if place.exists() and place.stat().st_mtime_ns == written:
                    place.unlink()
        for name, (version, data) in sorted(found.items()):
            brought[name] = (version, dict(self._unpacked(data)))
        self._note(brought)
        return True

    def _unpacked(self, data: bytes) -> Iterator[tuple[str, int]]:
        for path, text in json.loads(zlib.decompress(data)).items():
            place = self._folder / path
            if not place.resolve().is_relative_to(self._folder.resolve()):
                raise StoreError("Not a path inside the set.", where=path, remedy="Who writes to this database?")
            make_folders(place.parent, self._folder_mode)
            # Hundreds of files, which are fetched again after a crash of the machine: none is waited for.
            write = write_for_this_boot if boot_id() else write_atomically
            write(place, text.encode(), mode=self._file_mode)
            yield path, place.stat().st_mtime_ns

    def _brought(self) -> dict[str, tuple[int, dict[str, int]]]:
        try:
            found = json.loads(read_ordinary(self._folder / _BROUGHT))
            # What was brought before the machine was started may be damaged: it is brought again, under no version.
            same = found.pop(_BOOT, "") == boot_id()
            return {name: (int(version) if same else 0, dict(paths)) for name, (version, paths) in found.items()}
        except (OSError, ValueError):
            return {}

    def _note(self, brought: Mapping[str, tuple[int, Mapping[str, int]]]) -> None:
        noted = {**brought, _BOOT: boot_id()}
        write_atomically(self._folder / _BROUGHT, json.dumps(noted).encode(), mode=self._file_mode)

    def put(self, documents: Mapping[str, bytes | None]) -> None:
        """Write or remove documents of the set, if this process still has the locks that it took."""
        held = self._coordination.held
        self._database.write(self.scope, documents, held_in=self._coordination.scope, held=held)

    def names(self, beginning: str) -> list[str]:
        """Return the names of documents with a beginning."""
        return [name for name in self._database.versions(self.scope) if name.startswith(beginning)]


class SharedSetWriter(VaultSetWriter):
    """Adds files and records to one unsealed set; see `contract.SetWriter`."""

    def __init__(self, folder: Path, draft: Draft, modes: tuple[int, int], vault: PlanVault, shared: SharedSet) -> None:
        super().__init__(folder, draft, modes, vault)
        self._shared = shared

    def begin_source(self, source: str) -> None:
        """Forget what was captured of a source, everywhere."""
        self._shared.put({f"{_SOURCE}{source}": None})
        super().begin_source(source)
        self.drop_source(source)

    def write_failure(self, failure: Failure) -> None:
        """Store why an artefact is missing."""
        super().write_failure(failure)
        place = self._failure_path(failure.key)
        self._shared.put({f"{_FAILURE}{'.'.join(failure.key)}": _packed(self._folder, [place])})

    def write_done(self, done: SourceDone) -> None:
        """Send what is left of a source's files, then make known to all that it was captured whole."""
        records = [record for record in self.records() if record.source == done.source and record.key in done.keys]
        files = [file for record in records for file in record.files]
        self.send_together(files)
        super().write_done(done)
        paths = [*self._paths_of(done.source), *(f"{SENT_FOLDER}/{name}" for name in self.sent.names(files))]
        uploads = f"{SENT_FOLDER}/{UPLOADS}"
        if (self._folder / uploads).exists():
            paths.append(uploads)
        document = _packed(self._folder, paths, {uploads: f"{uploads}.{done.source}"})
        over = [*self._shared.names(f"{_FAILURE}{done.source}."), *self._shared.names(f"{_FAILURE}{done.source}")]
        self._shared.put({**dict.fromkeys(over), f"{_SOURCE}{done.source}": document})

    def _note_seal(self, data: bytes) -> None:
        super()._note_seal(data)
        self._shared.put({_SEALING: _packed(self._folder, [f"{SENT_FOLDER}/{SEALING}"])})

    def seal(self, manifest: Manifest) -> None:
        """Make the copy visible, then the seal known to all."""
        super().seal(manifest)
        over = [*self._shared.names(_SOURCE), *self._shared.names(_FAILURE), _SEALING]
        document = _packed(self._folder, [MANIFEST_NAME, CHECKSUM_NAME])
        self._shared.put({**dict.fromkeys(over), _SEAL: document})


class SharedPlanStore(VaultPlanStore):
    """See `contract.Store`.

    Args:
        folder: of this worker.
        plan: the plan.
        vault: where the artefacts are.
        database: where what is known of the sets is.
        file_mode: of files.
        folder_mode: of folders.
    """

    def __init__(
        self,
        folder: Path,
        plan: str,
        vault: PlanVault,
        database: StateDatabase,
        *,
        file_mode: int,
        folder_mode: int,
    ) -> None:
        super().__init__(folder, plan, vault, file_mode=file_mode, folder_mode=folder_mode)
        self._database = database
        self._met = False
        self._shared_locks = DatabaseCoordination(database, plan)
        self._beside = SharedFiles(
            database, plan, folder, patterns=_BESIDE, logs=_LOGS, modes=(self.file_mode, self.folder_mode)
        )

    def prepare(self) -> None:
        """Make this worker's folder, with what others have left beside the sets."""
        super().prepare()
        self.share()

    def _adopt(self) -> None:
        """Make the sets known to all that this folder had sealed before it met the database for the first time."""
        if self._met or self._beside.met:
            return
        self._met = True
        try:
            there = self._database.all_versions(f"{self.plan}/")
            for set_id in super().ids():
                folder = self.folder / set_id
                # One that was brought here and is there no more was removed by another worker.
                known = f"{self.plan}/{set_id}" in there or (folder / _BROUGHT).exists()
                if not known and (folder / MANIFEST_NAME).is_file():
                    proofs = [f"{PROOFS_FOLDER}/{path.name}" for path in (folder / PROOFS_FOLDER).glob("*.json")]
                    documents = {name: _packed(folder, [name]) for name in proofs}
                    seal = [name for name in (MANIFEST_NAME, CHECKSUM_NAME) if (folder / name).exists()]
                    self._set(set_id).put({**documents, _SEAL: _packed(folder, seal)})
                    LOG.info("the set %s/%s is known to all workers now", self.plan, set_id)
        except BackupSystemError as error:
            LOG.warning("sets of %s that only this folder knows are not made known: %s", self.plan, error)

    def share(self, there: Mapping[str, int] | None = None) -> None:
        """Make what is beside the sets alike on all workers; logged, no more, where the database does not answer."""
        self._adopt()
        try:
            self._beside.share(there)
        except BackupSystemError as error:
            LOG.warning("what is known of %s is not shared: %s", self.plan, error)

    @property
    def label(self) -> str:
        """The vault, and the database of what is known."""
        return f"vault {self._vault.name} (what is known of the sets: {self._database.target.label})"

    @property
    def coordination(self) -> Coordination:
        """The plan's locks in the database."""
        return self._shared_locks

    def _set(self, set_id: SetId) -> SharedSet:
        modes = self.file_mode, self.folder_mode
        return SharedSet(self._database, self._shared_locks, self.folder / set_id, *modes)

    def begin(self, draft: Draft) -> LocalSetWriter:
        """Make the set known to all."""
        folder = self.folder / draft.set_id
        if folder.is_dir() and not (folder / MANIFEST_NAME).exists() and draft.set_id not in self.ids():
            # Its process was killed before it made the set known: nobody can go on with it.
            shutil.rmtree(folder, ignore_errors=True)
        writer = super().begin(draft)
        try:
            self._set(draft.set_id).put({_DRAFT: _packed(folder, [DRAFT_NAME])})
        except BaseException:
            # Known to nobody, it would keep this worker from the set that another one begins for the same run.
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return writer

    def writer_at(self, folder: Path, draft: Draft) -> SharedSetWriter:
        """Return the writer of an unsealed set."""
        modes = self.file_mode, self.folder_mode
        return SharedSetWriter(folder, draft, modes, self._vault, self._set(draft.set_id))

    def _ids(self, name: str) -> tuple[SetId, ...]:
        self._adopt()
        found = (scope.rpartition("/")[2] for scope in self._database.scopes(f"{self.plan}/", name))
        return tuple(SetId(each) for each in sorted(found) if is_set_id(each))

    def ids(self) -> tuple[SetId, ...]:
        """Return the ids of all sets, oldest first."""
        return self._ids("")

    def sealed_ids(self) -> tuple[SetId, ...]:
        """Return the ids of the sealed sets, oldest first."""
        return self._ids(_SEAL)

    def read(self, set_id: SetId) -> BackupSet:
        """Return a set as it is known to all."""
        if is_set_id(set_id):
            self._set(set_id).bring()
        return super().read(set_id)

    def path_of(self, set_id: SetId, path: str = "") -> Path:
        """Return the path of a set, or of a file in it, on this worker."""
        place = super().path_of(set_id, path)
        if not (self.folder / set_id).is_dir():
            self._set(set_id).bring()
        return place

    def open(self, set_id: SetId, path: str) -> BinaryIO:
        """Open a file of a set for reading."""
        if is_set_id(set_id):
            self._set(set_id).bring()
        return super().open(set_id, path)

    def listed_sets(self) -> list[KnownSet]:
        """Return every set, oldest first; what this worker lacks comes with one question for all."""
        self.prepare()
        for scope, versions in self._database.all_versions(f"{self.plan}/").items():
            if is_set_id(name := scope.rpartition("/")[2]):
                self._set(SetId(name)).bring(versions)
        return super().listed_sets()

    def add_proof(self, set_id: SetId, proof: Proof) -> Proof:
        """Add a result to a set, for all."""
        proof = super().add_proof(set_id, proof)
        name = f"{PROOFS_FOLDER}/{proof_file_name(proof)}"
        self._database.write(f"{self.plan}/{set_id}", {name: _packed(self.path_of(set_id), [name])})
        return proof

    def remove(self, set_id: SetId) -> None:
        """Mark the set's copy for removal, then forget what is known of it."""
        super().remove(set_id)
        self._database.drop(f"{self.plan}/{set_id}")
