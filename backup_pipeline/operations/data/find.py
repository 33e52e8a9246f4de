"""Files found by name over the sets of a plan and its copies in vaults: which content of a file is in which sets.

Reads records and listings; the content of files is not read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from backup_pipeline.archives.tarball import shown
from backup_pipeline.artefacts.contents import Entry, contents_of, no_such_file
from backup_pipeline.artefacts.types import artefact_types
from backup_pipeline.errors import BackupSystemError, RefusedError, SetNotFoundError
from backup_pipeline.model.backup_set import SetState
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.data.browse import log_access
from backup_pipeline.operations.retention.in_use import reading
from backup_pipeline.operations.sites.copy_records import vault_record
from backup_pipeline.operations.sites.stores import open_sets, open_store
from backup_pipeline.rules.quantities import counted
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.contract import Store
from backup_pipeline.system.files import AtomicFile

MOST = 1000
"""Files that a search finds at most."""
_NAMED = 3

Place = tuple[str, SetId]
"""`PLAN` or `VAULT:PLAN`, and a set there."""


@dataclass(frozen=True)
class Version:
    """One content of a file.

    Attributes:
        entry: the file as its newest set lists it.
        sets: where it is, the newest first.
    """

    entry: Entry
    sets: tuple[Place, ...]

    @property
    def name(self) -> str:
        """`PLACE/SET` of the newest set that has it."""
        return "/".join(self.sets[0])


@dataclass(frozen=True)
class FoundFile:
    """A file of an artefact, in all the sets that have it.

    Attributes:
        artefact: name of the artefact that holds it.
        path: in the artefact; it may be hostile.
        versions: its different contents, the newest first.
        gone_in: the set after the last one that has it, where the source was captured without it; None where the newest
            set that was searched has it.
        comes_back: whether it can be restored by itself; otherwise its content can be saved.
    """

    plan: str
    source: str
    artefact: str
    path: str
    versions: tuple[Version, ...]
    gone_in: SetId | None
    comes_back: bool


@dataclass(frozen=True)
class Search:
    """What a search found: files that are gone first, then by when they were last seen.

    Attributes:
        searched: how many sets were searched.
        left: how many older sets were not, because the time was over.
        not_searched: what else could not be searched, and why.
    """

    files: tuple[FoundFile, ...]
    searched: int
    left: int
    not_searched: tuple[str, ...]


@dataclass
class _Artefact:
    """What was found of an artefact of a plan so far, set by set from the newest on."""

    comes_back: bool
    held: list[SetId] = field(default_factory=list)
    files: dict[str, dict[tuple[str, int], tuple[Entry, list[Place]]]] = field(default_factory=dict)


class _Searching:
    """A search of one plan. What was read of an artefact serves for each set whose artefact has the same bytes."""

    def __init__(self, site: Site, means: Callable[[str], bool]) -> None:
        self._site, self._means = site, means
        self._read: dict[tuple[str, ...], list[Entry]] = {}
        self.found: dict[tuple[str, str], _Artefact] = {}
        self.notes: list[str] = []
        self.searched = 0

    def search(self, place: str, set_id: SetId) -> None:
        """Search one set; what cannot be read of it is noted."""
        try:
            with reading(self._site, place, set_id, "find") as store:
                known = store.read(set_id)
                if known.state is not SetState.COMPLETE:
                    return
                for record in known.records:
                    self._search_artefact(place, set_id, record, store)
            self.searched += 1
        except SetNotFoundError:
            return  # retention removes it
        except RefusedError:
            raise
        except BackupSystemError as error:
            self.notes.append(f"{place}/{set_id}: {error.what}")

    def _search_artefact(self, place: str, set_id: SetId, record: ArtefactRecord, store: Store) -> None:
        contents = contents_of(record)
        if contents is None:
            return
        same = tuple(file.sha256 for file in record.files)
        if same not in self._read:
            entries = contents.entries(lambda path: store.open(set_id, path), record)
            try:
                self._read[same] = list(self._meant(entries))
            except RefusedError:
                raise
            except BackupSystemError as error:
                self.notes.append(f"{place}/{set_id} {record.name}: {error.what}")
                return
        restorer = artefact_types()[record.kind]
        found = self.found.setdefault((record.source, record.name), _Artefact(bool(restorer.restore_some)))
        found.held.append(set_id)
        for entry in self._read[same]:
            content = (entry.digest or str(entry.modified_ns), entry.size)
            versions = found.files.setdefault(entry.path, {})
            versions.setdefault(content, (entry, []))[1].append((place, set_id))
        if sum(len(one.files) for one in self.found.values()) > MOST:
            raise _too_many()

    def _meant(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        count = 0
        for entry in entries:
            if entry.kind == "file" and self._means(entry.path):
                count += 1
                if count > MOST:
                    raise _too_many()
                yield entry


def _too_many() -> RefusedError:
    return RefusedError(
        f"More than {MOST:,} files have such a name.",
        where="the name to find",
        remedy="Give more of the name, or a part of the path with a slash, as in invoices/2026.",
    )


def find_files(
    site: Site, plans: Sequence[str], means: Callable[[str], bool], *, vaults: bool = True, seconds: float | None = None
) -> Search:
    """Search all sealed sets of some plans, the newest first.

    Args:
        site: the site.
        plans: plans of the settings.
        means: whether a path is looked for (see `rules.file_patterns`).
        vaults: whether sets of which only a copy in a vault is left are searched as well.
        seconds: after so long no further set is begun; at least one is searched.

    Raises:
        RefusedError: more than `MOST` files are meant.
        SettingsError: no such plan.
        StoreError: a store cannot be read.
    """
    ends = None if seconds is None else time.monotonic() + seconds
    files: list[FoundFile] = []
    notes: list[str] = []
    searched = left = 0
    for plan in plans:
        searching = _Searching(site, means)
        places = _places(site, plan, notes, vaults=vaults)
        for number, (place, set_id) in enumerate(places):
            if ends is not None and searched + number and time.monotonic() > ends:
                left += len(places) - number
                break
            searching.search(place, set_id)
        searched += searching.searched
        notes += searching.notes
        files += _files(plan, searching.found)
    return Search(_ordered(files), searched, left, _shortened(notes))


def find_in_set(site: Site, place: str, set_id: SetId, means: Callable[[str], bool]) -> Search:
    """Search one set; see `find_files`."""
    searching = _Searching(site, means)
    searching.search(place, set_id)
    files = _files(place.rpartition(":")[2], searching.found)
    return Search(_ordered(files), searching.searched, 0, tuple(searching.notes))


def _places(site: Site, plan: str, notes: list[str], *, vaults: bool) -> list[Place]:
    """Return the sets of a plan, the newest first; of those that are here as well no copy is read."""
    found = dict.fromkeys(open_store(site, plan).sealed_ids(), plan)
    for vault in dict.fromkeys(one.to for one in site.plan(plan).copies) if vaults else ():
        for set_id in _copies(site, vault, plan, found, notes):
            found.setdefault(set_id, f"{vault}:{plan}")
    return [(found[set_id], set_id) for set_id in sorted(found, reverse=True)]


def _copies(site: Site, vault: str, plan: str, here: Collection[SetId], notes: list[str]) -> Sequence[SetId]:
    # Vaults need libraries that are not installed everywhere.
    from backup_pipeline.operations.status.vault_listing import has_identity

    try:
        if has_identity(site, vault):
            return open_sets(site, f"{vault}:{plan}").sealed_ids()
        only_there = {one.set_id for one in vault_record(site, vault).copies.get(plan, ())} - set(here)
        if only_there:
            notes.append(
                f"{counted(len(only_there), 'set')} of {plan}: only a copy in {vault} is left, and no identity that "
                "opens it is named here (--identity FILE, or VAULT_IDENTITY_FILE in .env)."
            )
    except BackupSystemError as error:
        notes.append(f"copies of {plan} in {vault}: {error.what}")
    return ()


def _files(plan: str, found: dict[tuple[str, str], _Artefact]) -> Iterator[FoundFile]:
    for (source, name), artefact in found.items():
        for path, contents in artefact.files.items():
            versions = [Version(entry, tuple(places)) for entry, places in contents.values()]
            versions.sort(key=lambda one: one.sets[0][1], reverse=True)
            after = artefact.held.index(versions[0].sets[0][1]) - 1
            gone_in = artefact.held[after] if after >= 0 else None
            comes_back = artefact.comes_back and path.isprintable()
            yield FoundFile(plan, source, name, path, tuple(versions), gone_in, comes_back)


def _ordered(files: Iterable[FoundFile]) -> tuple[FoundFile, ...]:
    """Return what is gone first, then what was seen last, then by path."""
    found = sorted(files, key=lambda file: (file.plan, file.path))
    found.sort(key=lambda file: file.versions[0].sets[0][1], reverse=True)
    return tuple(sorted(found, key=lambda file: file.gone_in is None))


def _shortened(notes: Sequence[str]) -> tuple[str, ...]:
    more = len(notes) - _NAMED
    return (*notes[:_NAMED], f"and {more} more") if more > 0 else tuple(notes)


def save_version(site: Site, file: FoundFile, version: Version, target: Path, *, who: str, now: datetime) -> None:
    """Write a version's content to a new file, whole or not at all; the access is logged.

    Raises:
        RefusedError: there is something at the target already.
        ValidationError: the artefact is damaged.
        StoreError: the target cannot be written.
    """
    if os.path.lexists(target):
        raise RefusedError("There is something already.", where=str(target), remedy="Name a file that is not there.")
    place, set_id = version.sets[0]
    with reading(site, place, set_id, "find") as store:
        record = next(one for one in store.read(set_id).records if one.name == file.artefact)
        contents = contents_of(record)
        if contents is None:
            raise no_such_file(record, file.path)
        log_access(site, place, set_id, f"{record.name}: file {shown(file.path)}", who, now)
        with AtomicFile(target.absolute(), mode=0o600) as written:
            for piece in contents.read(lambda path: store.open(set_id, path), record, file.path):
                written.write(piece)
