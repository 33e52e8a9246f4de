"""A store in a local (or mounted) folder: one folder per set, files 0600, folders 0700."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pydantic import BaseModel
from pydantic import ValidationError as PydanticError

from backup_pipeline.errors import BackupSystemError, MissingFileError, SetNotFoundError, StoreError
from backup_pipeline.model.backup_set import BackupSet, SetState
from backup_pipeline.model.indexed_set import KnownSet
from backup_pipeline.model.manifest import (
    CHECKSUM_NAME,
    DRAFT_NAME,
    MANIFEST_NAME,
    Draft,
    Failure,
    Manifest,
)
from backup_pipeline.model.proof import (
    PROOFS_FOLDER,
    Proof,
    proof_as_bytes,
    proof_file_name,
    read_proof,
    time_of_proof_file,
)
from backup_pipeline.model.record import ArtefactRecord, FileRecord
from backup_pipeline.model.set_id import SetId, is_set_id
from backup_pipeline.model.source_done import SourceDone
from backup_pipeline.rules.clock_ahead import after_those_ahead
from backup_pipeline.stores.contract import ArtefactFile
from backup_pipeline.stores.coordination import Coordination, FolderCoordination
from backup_pipeline.stores.read_manifest import parse_manifest
from backup_pipeline.system.files import (
    PART_SUFFIX,
    AtomicFile,
    make_folder,
    make_folder_in,
    make_folders,
    open_ordinary,
    read_ordinary,
    sha256_of,
    sync_folder,
    translate_os_error,
    write_atomically,
)
from backup_pipeline.system.locks import require_all_held

FILE_MODE = 0o600
FOLDER_MODE = 0o700
_RECORDS = "records"
_FAILED = ".failed.json"
_DONE = ".done.json"
_OTHER_MEANING = ("failed", "done")
_LONGEST_NAME = 180
_LARGEST_MANIFEST = 128 << 20
"""Some 40,000 tables; what is read for a manifest takes ten times as much memory."""
_LARGEST_RECORD = 16 << 20


def _json(value: BaseModel) -> bytes:
    return value.model_dump_json(indent=1, exclude_defaults=False).encode() + b"\n"


def _file_name(key: tuple[str, ...]) -> str:
    """Return a record's file name: the key joined by dots, odd characters percent-encoded so that no two meet.

    A table called `failed` or `done` must not pass for a failure; a name too long for a file system is cut and marked.
    """
    from urllib.parse import quote

    parts = [quote(part.encode("utf-8", "surrogateescape"), safe=" -_").replace(".", "%2E") for part in key]
    if len(parts) > 1 and parts[-1] in _OTHER_MEANING:
        parts[-1] = f"%{ord(parts[-1][0]):02X}{parts[-1][1:]}"
    name = ".".join(parts)
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}+{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}"


def _checked(path: str) -> str:
    """Return a path inside a set as it is. Without pathlib: a set may have very many files."""
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "\0" in path or not any(part not in ("", ".") for part in parts):
        raise StoreError("Not a path inside the set.", where=path, remedy="This is a fault of the program.")
    return path


def _relative(path: str) -> PurePosixPath:
    return PurePosixPath(_checked(path))


class LocalSetWriter:
    """Adds files and records to one unsealed set; see `contract.SetWriter`."""

    def __init__(self, folder: Path, draft: Draft, file_mode: int, folder_mode: int) -> None:
        self._folder = folder
        self._draft = draft
        self._file_mode = file_mode
        self._folder_mode = folder_mode
        self._unsynced: set[Path] = set()
        # Sources are captured side by side.
        self._noting = threading.Lock()
        self._written_by_others = False
        self._tag = ""

    def claimed(self, tag: str) -> None:
        """Write from now on as one of several, under a claim."""
        self._tag = tag

    @property
    def draft(self) -> Draft:
        """What the set says of itself."""
        return self._draft

    @property
    def folder(self) -> Path:
        """The set's folder, for tools that need a real path."""
        self._written_by_others = True
        return self._folder

    def _require_lock(self) -> None:
        """Refuse to write on when the store's lock or the claim, which this process took, is another's by now."""
        require_all_held(self._folder.parent)

    def _place(self, path: str) -> Path:
        place = self._folder / _relative(path)
        self._require_lock()
        self._make_folders(place.parent)
        self._note_unsynced(place.parent)
        return place

    def _note_unsynced(self, *folders: Path) -> None:
        with self._noting:
            self._unsynced.update(folders)

    def _record_place(self, key: tuple[str, ...], ending: str = ".json") -> Path:
        return self._place(f"{_RECORDS}/{_file_name(key)}{ending}")

    def _refuse_links(self, folder: Path) -> None:
        """Refuse to write where a link in the set leads: it is nothing of ours."""
        for part in (folder, *folder.parents):
            if part == self._folder:
                return
            if part.is_symlink():
                raise StoreError(
                    "A link lies where a folder of the set belongs; nothing is written through it.",
                    where=str(part),
                    remedy="Find out who put it there, remove it, then run again.",
                )

    def _make_folders(self, folder: Path) -> None:
        if folder != self._folder:
            self._refuse_links(folder)
        if folder.is_dir():
            return
        if folder == self._folder:
            # Made anew it would lie below the mount point, or hold half of a set.
            raise StoreError(
                "The set's folder is gone.",
                where=str(folder),
                remedy="Was the store unmounted, or the set removed? Put that right, then run again.",
            )
        self._make_folders(folder.parent)
        try:
            make_folder(folder, self._folder_mode)
        except OSError as error:
            raise translate_os_error(error, folder) from error
        sync_folder(folder.parent)

    @property
    def streams(self) -> bool:
        """Whether files leave this machine while they are written."""
        return False

    def create(self, path: str, *, stream: bool = False) -> AbstractContextManager[ArtefactFile]:
        """Write a file at `path`, atomically; it stays here."""
        # Nothing counts before its source is whole: until then names are made durable once for all files.
        place = self._place(path)
        return AtomicFile(place, mode=self._file_mode, name_later=True, tag=self._tag, allowed=self._require_lock)

    def _write(self, place: Path, value: BaseModel, *, name_later: bool = False) -> None:
        data = _json(value)
        write_atomically(place, data, mode=self._file_mode, name_later=name_later, allowed=self._require_lock)

    def file_record(self, path: str, file: ArtefactFile) -> FileRecord:
        """Return the record of a file that was written."""
        return FileRecord(path=path, size=file.size, sha256=file.sha256)

    def open(self, path: str) -> BinaryIO:
        """Open a file that was written, for reading."""
        return _open(self._folder / _relative(path))

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a private folder beside the set's files, so that it lies on a disk that has the room."""
        try:
            folder = Path(tempfile.mkdtemp(prefix=".scratch-", suffix=PART_SUFFIX, dir=self._folder))
        except OSError as error:
            raise translate_os_error(error, self._folder) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def write_record(self, record: ArtefactRecord) -> None:
        """Store an artefact's record and forget its earlier failure."""
        place = self._record_place(record.key)
        earlier = _read_record(place)
        self._write(place, record, name_later=True)
        # Another source may have been done, and all noted so far synced, before these had their names.
        self._note_unsynced(place.parent, *((self._folder / _relative(file.path)).parent for file in record.files))
        if earlier is not None:
            self._drop_files(earlier)
        place.with_name(f"{_file_name(record.key)}{_FAILED}").unlink(missing_ok=True)

    def _drop_files(self, gone: ArtefactRecord) -> None:
        """Remove the files of a record that no longer counts, unless another record has them."""
        kept = {file.path for record in self.records() for file in record.files}
        for file in gone.files:
            if file.path not in kept:
                (self._folder / _relative(file.path)).unlink(missing_ok=True)

    def write_failure(self, failure: Failure) -> None:
        """Store why an artefact is missing; its earlier record no longer counts."""
        self._write(self._record_place(failure.key, _FAILED), failure)

    def drop_source(self, source: str) -> None:
        """Remove the records of a source, and its files."""
        for record in _read_records(self._folder, source):
            self._record_place(record.key).unlink(missing_ok=True)
            self._drop_files(record)

    def _failure_path(self, key: tuple[str, ...]) -> str:
        return f"{_RECORDS}/{_file_name(key)}{_FAILED}"

    def _paths_of(self, source: str) -> list[str]:
        """Return the paths of a source's records, and of what says that it was captured whole."""
        records = [f"{_RECORDS}/{_file_name(record.key)}.json" for record in _read_records(self._folder, source)]
        return [*records, f"{_RECORDS}/{_file_name((source,))}{_DONE}"]

    def _done_place(self, source: str) -> Path:
        return self._place(f"{_RECORDS}/{_file_name((source,))}{_DONE}")

    def begin_source(self, source: str) -> None:
        """Forget that a source was captured whole."""
        self._done_place(source).unlink(missing_ok=True)

    def write_done(self, done: SourceDone) -> None:
        """Store that a source was captured whole; what an earlier try left of it is dropped."""
        for record in _read_records(self._folder, done.source):
            if record.key not in done.keys:
                self._record_place(record.key).unlink(missing_ok=True)
                self._drop_files(record)
        for failure in _read_failures(self._folder, done.source):
            self._record_place(failure.key, _FAILED).unlink(missing_ok=True)
        self._sync_written()
        self._write(self._done_place(done.source), done)

    def _sync_written(self) -> None:
        """Make the names durable of all files that were written here since this was last done."""
        if self._written_by_others:
            self._sync_folders()
            return
        with self._noting:
            folders, self._unsynced = self._unsynced, set()
        try:
            # A folder that was made has its own name in the one above.
            for folder in sorted({self._folder, *folders, *(folder.parent for folder in folders - {self._folder})}):
                sync_folder(folder)
        except BaseException:
            self._note_unsynced(*folders)
            raise

    def _sync_folders(self) -> None:
        """Make the names of all files durable."""
        for folder, _, _ in os.walk(self._folder):
            sync_folder(Path(folder))

    def sources_done(self) -> tuple[SourceDone, ...]:
        """Return the sources that were captured whole, by name."""
        found = sorted((self._folder / _RECORDS).glob(f"*{_DONE}"))
        try:
            return tuple(SourceDone.model_validate_json(read_ordinary(path)) for path in found)
        except (OSError, PydanticError) as error:
            raise StoreError(
                "What says that a source was captured whole cannot be read.",
                where=str(self._folder / _RECORDS),
                remedy="Run the backup again; it makes a new set.",
            ) from error

    def records(self) -> tuple[ArtefactRecord, ...]:
        """Return the records written so far, by key."""
        return _read_records(self._folder)

    def check_file(self, file: FileRecord) -> str:
        """Return what is wrong with a file against its record, reading it again; "" when nothing is."""
        try:
            with self.open(file.path) as stream:
                size, digest = sha256_of(stream)
        except BackupSystemError as error:
            return f"{file.path}: {error.what}"
        if size != file.size:
            return f"{file.path}: {size} bytes on disk, {file.size} recorded"
        return "" if digest == file.sha256 else f"{file.path}: the content is not what was written"

    def seal(self, manifest: Manifest) -> None:
        """Write the manifest, after everything below the set's folder has reached the disk."""
        self._refuse_sealed()
        self._clear_parts()
        self._sync_folders()
        self._publish(self._with_checksums(manifest))

    def _refuse_sealed(self) -> None:
        self._require_lock()
        place = self._folder / MANIFEST_NAME
        if place.exists():
            raise StoreError("The set is sealed already.", where=str(place), remedy="Start a new backup.")

    def _clear_parts(self) -> None:
        """Remove what ended runs have left half-written."""
        for part in list(self._folder.rglob(f".*{PART_SUFFIX}")):
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)

    def _with_checksums(self, manifest: Manifest) -> bytes:
        """Return the manifest's bytes, with the checksums of it and of the records written beside."""
        data = _json(manifest)
        if len(data) > _LARGEST_MANIFEST:
            raise StoreError(
                f"The manifest would have {len(data) / 1e6:,.0f} MB and could not be read again.",
                where=str(self._folder / MANIFEST_NAME),
                remedy="Spread the sources over several plans.",
            )
        # The manifest vouches for every artefact; this vouches for the manifest and the records (`sha256sum -c`).
        records = sorted((self._folder / _RECORDS).glob("*.json"))
        sums = {MANIFEST_NAME: data} | {f"{_RECORDS}/{path.name}": read_ordinary(path) for path in records}
        lines = "".join(f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, content in sums.items())
        self._require_lock()
        write_atomically(self._folder / CHECKSUM_NAME, lines.encode(), mode=self._file_mode)
        return data

    def _publish(self, data: bytes) -> None:
        self._require_lock()
        write_atomically(self._folder / MANIFEST_NAME, data, mode=self._file_mode)


def _add_files_below(folder: str, above: str, found: list[tuple[str, int]], sizes: Mapping[str, int]) -> None:
    """Add each file's path below a folder, and its size, by path; links are passed over."""
    try:
        with os.scandir(folder) as entries:
            there = sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        # What cannot be read is found missing by those who search for it.
        return
    for entry in there:
        if entry.is_dir(follow_symlinks=False):
            _add_files_below(entry.path, f"{above}{entry.name}/", found, sizes)
        elif entry.is_file(follow_symlinks=False):
            size = sizes.get(path := above + entry.name)
            found.append((path, entry.stat(follow_symlinks=False).st_size if size is None else size))


def _open(place: Path | str) -> BinaryIO:
    try:
        return open_ordinary(place)
    except FileNotFoundError as error:
        raise MissingFileError("The file is missing.", where=str(place), remedy="Use another set.") from error
    except OSError as error:
        raise translate_os_error(error, Path(place)) from error


def _read_record(path: Path) -> ArtefactRecord | None:
    """Return the record at `path`, None where there is none; StoreError for one that cannot be read."""
    try:
        return ArtefactRecord.model_validate_json(read_ordinary(path, at_most=_LARGEST_RECORD))
    except FileNotFoundError:
        return None
    except (OSError, PydanticError) as error:
        raise StoreError(
            "This record cannot be read.",
            where=str(path),
            remedy="Run the backup again; it makes a new set.",
        ) from error


def _read_records(folder: Path, source: str | None = None) -> tuple[ArtefactRecord, ...]:
    """Return the records of a set, or of one source in it: the names of files begin with the source's."""
    found = []
    for path in sorted((folder / _RECORDS).glob(f"{_beginning(source)}*.json")):
        if path.name == Path(DRAFT_NAME).name or path.name.endswith((_FAILED, _DONE)):
            continue
        # One that is gone by now was dropped by another process, which writes its own source to this set.
        record = _read_record(path)
        if record is not None and source in (None, record.source):
            found.append(record)
    return tuple(sorted(found, key=lambda record: record.key))


def _read_failures(folder: Path, source: str | None = None) -> tuple[Failure, ...]:
    found = []
    for path in sorted((folder / _RECORDS).glob(f"{_beginning(source)}*{_FAILED}")):
        with contextlib.suppress(OSError, PydanticError):
            failure = Failure.model_validate_json(read_ordinary(path))
            if source in (None, failure.key[0]):
                found.append(failure)
    return tuple(found)


def _beginning(source: str | None) -> str:
    return "" if source is None else glob.escape(_file_name((source,)))


class LocalStore:
    """The sets of one plan in `folder`; see `contract.Store`.

    Args:
        folder: `<store>/<plan>`, or the plan's own store. Made when the first set begins.
        plan: the plan's name.
    """

    artefacts_elsewhere = False
    """Whether the artefacts of sealed sets are not in the folder."""

    def __init__(self, folder: Path, plan: str, *, file_mode: int = FILE_MODE, folder_mode: int = FOLDER_MODE) -> None:
        self.folder = folder
        self.plan = plan
        self._file_mode = file_mode
        self._folder_mode = folder_mode
        self._coordination = FolderCoordination(folder, file_mode, folder_mode)

    @property
    def coordination(self) -> Coordination:
        """What processes that use this store agree by."""
        return self._coordination

    @property
    def file_mode(self) -> int:
        """Mode of every file in the store."""
        return self._file_mode

    @property
    def folder_mode(self) -> int:
        """Mode of every folder in the store."""
        return self._folder_mode

    @property
    def label(self) -> str:
        """The folder's path."""
        return str(self.folder)

    def prepare(self) -> None:
        """Make the store's folder; StoreError when that is not possible."""
        if not self.folder.is_dir():
            make_folders(self.folder, self._folder_mode)

    def share(self, there: Mapping[str, int] | None = None) -> None:
        """Do nothing: who uses this store has its folder."""

    def path_of(self, set_id: SetId, path: str = "") -> Path:
        """Return the real path of a set or of a file in it, for tools that need one."""
        if not is_set_id(set_id):
            raise self._no_such(set_id)
        folder = self.folder / set_id
        return folder / _relative(path) if path else folder

    def _no_such(self, set_id: str) -> SetNotFoundError:
        return SetNotFoundError(
            "No such backup set.", where=f"{self.plan}/{set_id}", remedy="backup-pipeline list shows the sets."
        )

    def begin(self, draft: Draft) -> LocalSetWriter:
        """Make the set's folder and write its draft."""
        self.prepare()
        folder = self.folder / draft.set_id
        try:
            make_folder(folder, self._folder_mode, exist_ok=False)
        except FileExistsError as error:
            raise StoreError("This set exists already.", where=str(folder), remedy="Run again.") from error
        except OSError as error:
            raise translate_os_error(error, folder) from error
        sync_folder(self.folder)
        writer = self.writer_at(folder, draft)
        write_atomically(writer._place(DRAFT_NAME), _json(draft), mode=self._file_mode)
        return writer

    def reopen(self, set_id: SetId) -> LocalSetWriter:
        """Return the writer of an unsealed set."""
        known = self.read(set_id)
        if known.state is not SetState.INCOMPLETE or known.draft is None:
            raise StoreError(
                f"The set is {known.state} and cannot be completed.",
                where=f"{self.plan}/{set_id}",
                remedy="Start a new backup.",
            )
        return self.writer_at(self.folder / set_id, known.draft)

    def writer_at(self, folder: Path, draft: Draft) -> LocalSetWriter:
        """Return the writer of an unsealed set."""
        return LocalSetWriter(folder, draft, self._file_mode, self._folder_mode)

    def ids(self) -> tuple[SetId, ...]:
        """Return the ids of all sets, oldest first."""
        try:
            names = [entry.name for entry in os.scandir(self.folder) if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise translate_os_error(error, self.folder) from error
        return tuple(SetId(name) for name in sorted(names) if is_set_id(name))

    def sealed_ids(self) -> tuple[SetId, ...]:
        """Return the ids of the sets that have a manifest, oldest first; nothing is read."""
        return tuple(set_id for set_id in self.ids() if (self.folder / set_id / MANIFEST_NAME).is_file())

    def read(self, set_id: SetId) -> BackupSet:
        """Return a set as it is on disk."""
        folder = self.folder / set_id
        if not is_set_id(set_id) or not folder.is_dir():
            raise self._no_such(set_id)
        manifest, problem, digest = self._read_manifest(folder)
        draft = None
        with contextlib.suppress(OSError, PydanticError):
            draft = Draft.model_validate_json(read_ordinary(folder / DRAFT_NAME))
        if manifest is not None:
            proofs, damaged = self._read_proofs(folder, set_id)
            return BackupSet(
                set_id,
                self.plan,
                SetState.COMPLETE,
                manifest,
                draft,
                manifest.artefacts,
                (),
                proofs,
                damaged_proofs=damaged,
                manifest_sha256=digest,
            )
        state = SetState.DAMAGED if problem else SetState.INCOMPLETE
        records: tuple[ArtefactRecord, ...] = ()
        try:
            records = _read_records(folder)
        except StoreError as error:
            problem = problem or str(error)
        failures = _read_failures(folder)
        return BackupSet(set_id, self.plan, state, None, draft, records, failures, (), problem, manifest_sha256=digest)

    def _read_manifest(self, folder: Path) -> tuple[Manifest | None, str, str]:
        """Return the manifest, or why there is none that counts; and the SHA-256 of its file."""
        path = folder / MANIFEST_NAME
        try:
            data = read_ordinary(path, at_most=_LARGEST_MANIFEST)
        except FileNotFoundError:
            return None, "", ""
        except OSError as error:
            return None, str(translate_os_error(error, path)), ""
        return *parse_manifest(data, SetId(folder.name)), hashlib.sha256(data).hexdigest()

    def _read_proofs(self, folder: Path, set_id: SetId) -> tuple[tuple[Proof, ...], tuple[str, ...]]:
        """Return the results, and the names of files that hold none any more."""
        found, damaged = [], []
        try:
            paths = sorted((folder / PROOFS_FOLDER).iterdir())
        except OSError:
            return (), ()
        for path in (path for path in paths if path.suffix == ".json"):
            try:
                found.append(read_proof(read_ordinary(path, at_most=_LARGEST_MANIFEST), set_id))
            except (OSError, ValueError):  # pydantic's and json's errors among them
                damaged.append(path.name)
        return tuple(found), tuple(damaged)

    def sets(self) -> Iterator[BackupSet]:
        """Yield every set, oldest first."""
        for set_id in self.ids():
            with contextlib.suppress(SetNotFoundError):
                yield self.read(set_id)

    def listed_sets(self) -> list[KnownSet]:
        """Return every set, oldest first, by the index beside them where it holds a set as it is."""
        from backup_pipeline.stores.set_index import listed_sets

        return listed_sets(self)

    def open(self, set_id: SetId, path: str) -> BinaryIO:
        """Open a file of a set for reading."""
        if not is_set_id(set_id):
            raise self._no_such(set_id)
        return _open(f"{self.folder}/{set_id}/{_checked(path)}")

    def files(self, set_id: SetId, sizes: Mapping[str, int] | None = None) -> Iterator[tuple[str, int]]:
        """Yield path and size of every file of the set, by path; see contract.Store."""
        found: list[tuple[str, int]] = []
        _add_files_below(str(self.path_of(set_id)), "", found, sizes or {})
        yield from found

    def unexpected_entries(self, set_id: SetId) -> Iterator[str]:
        """Yield the paths of links, sockets and devices in the set's folder, by path."""
        folder = self.path_of(set_id)
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                yield path.relative_to(folder).as_posix()

    def add_proof(self, set_id: SetId, proof: Proof) -> Proof:
        """Add a result to the set's `proofs/` folder, after those that are there; return it as it was kept."""
        parent = self.path_of(set_id)
        folder = parent / PROOFS_FOLDER
        try:
            # A link in its place is nothing of ours, and what is written must not go where it leads. The verification
            # that is recorded now has named it.
            if folder.is_symlink():
                folder.unlink()
            make_folder_in(parent, PROOFS_FOLDER, self._folder_mode)
            there = [time_of_proof_file(path.name) for path in folder.glob("*.json")]
        except OSError as error:
            raise translate_os_error(error, folder) from error
        proof = after_those_ahead(proof, there, datetime.now(UTC))
        write_atomically(folder / proof_file_name(proof), proof_as_bytes(proof), mode=self._file_mode)
        return proof

    def remove(self, set_id: SetId) -> None:
        """Remove a set, manifest first so that a half-removed set never passes for a whole one."""
        folder = self.path_of(set_id)
        try:
            (folder / MANIFEST_NAME).unlink(missing_ok=True)
            sync_folder(folder)
            for entry in list(folder.iterdir()):
                if entry.name != _RECORDS:
                    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            # Last what says why the set was made: an interrupted removal is still known for what it was.
            shutil.rmtree(folder)
            sync_folder(self.folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise translate_os_error(error, folder) from error

    def trouble(self) -> BackupSystemError | None:
        """Return None: what cannot be read from a folder is damage of it."""
        return None

    def free_bytes(self) -> int | None:
        """Return the free space of the file system."""
        return self.free_here()

    def free_here(self) -> int:
        """Return the free space of the disk on which files are written."""
        folder = self.folder
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free
