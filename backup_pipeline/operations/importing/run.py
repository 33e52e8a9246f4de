"""Importing backups of other tools as sets of a plan: copied, read to their end, counted, sealed; originals stay."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from backup_pipeline.artefacts.capture import CaptureContext, utc_now
from backup_pipeline.errors import BackupSystemError, RefusedError
from backup_pipeline.model.backup_set import BackupSet, SetState
from backup_pipeline.model.base import JsonValue
from backup_pipeline.model.manifest import Draft
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.set_id import SetId, set_id_at
from backup_pipeline.model.source_done import SourceDone
from backup_pipeline.operations.backup.seal import seal
from backup_pipeline.operations.importing.find import Candidate, PassedOver, candidates, digest_of
from backup_pipeline.operations.sites.stores import open_store, plan_lock
from backup_pipeline.rules.backup_names import NamedSource, source_of, stem_of
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.kind import BackupToImport
from backup_pipeline.sources.registry import kind_of
from backup_pipeline.stores.contract import PlanStore

RUN_ID = "import"
_SHA256_DIGITS = 64
# What a script dumps one after the other belongs together.
_TOGETHER = timedelta(minutes=10)


@dataclass(frozen=True)
class ImportRequest:
    """What is to be imported.

    Attributes:
        plan: whose sets they become.
        places: files and folders.
        source: of all of them; by their names when "".
        timezone: of times in names that say none; the site's when "".
        dry_run: find and judge by names only, write nothing.
    """

    plan: str
    places: tuple[Path, ...]
    source: str = ""
    timezone: str = ""
    dry_run: bool = False


@dataclass(frozen=True)
class ImportedSet:
    """A set that was, or would be, made: its name, and what it is made of, by source."""

    set_id: SetId
    partial: bool
    parts: Mapping[str, Candidate]
    rows: int = 0
    size: int = 0


@dataclass
class ImportOutcome:
    """What an import did.

    Attributes:
        made: the sets.
        known: what was imported before, or lies there twice.
        passed_over: what is no backup, or was refused.
        inferred: the source of each backup that is not named after it alone, and why it was taken for that.
    """

    made: list[ImportedSet] = field(default_factory=list)
    known: list[Path] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)
    inferred: dict[Path, NamedSource] = field(default_factory=dict)

    @property
    def refused(self) -> list[PassedOver]:
        """Backups that could not be imported."""
        return [one for one in self.passed_over if one.refused]


def import_backups(site: Site, request: ImportRequest, *, progress: ProgressSink = no_progress) -> ImportOutcome:
    """Import what is a backup of one of the plan's sources; each set is sealed whole or does not appear.

    Raises:
        SettingsError: an unknown plan, source or time zone, or a place that does not exist.
        LockError: another process writes to the plan's store.
    """
    plan = site.plan(request.plan)
    if site.vault_of(request.plan):
        raise RefusedError(
            "The sets of this plan are in a vault alone.",
            where=request.plan,
            remedy="Import into a plan whose store is a folder, with copies in the vault.",
        )
    if request.source and request.source not in plan.sources:
        site.source(request.source)
        raise RefusedError(
            f"The plan has no source {request.source}.", where=request.plan, remedy=f"It has {', '.join(plan.sources)}."
        )
    store = open_store(site, request.plan)
    outcome = ImportOutcome()
    if request.dry_run:
        _Import(site, request, store, outcome, progress).run()
        return outcome
    with plan_lock(site, request.plan, "import"):
        _Import(site, request, store, outcome, progress).run()
    return outcome


class _Import:
    def __init__(
        self, site: Site, request: ImportRequest, store: PlanStore, outcome: ImportOutcome, progress: ProgressSink
    ) -> None:
        self._site, self._request, self._store, self._outcome = site, request, store, outcome
        self._progress = progress
        # Dumps are of the databases of a server, never of the list of them.
        self._names = [name for name in site.plan(request.plan).sources if not site.is_server(name)]
        self._sources = [kind_of(site, name) for name in self._names]
        self._digests: dict[Path, str] = {}

    def run(self) -> None:
        zone = ZoneInfo(self._request.timezone or self._site.settings.timezone)
        named: list[tuple[str, Candidate]] = []
        known = _imported_before(self._store)
        found = []
        for one in candidates(self._request.places, zone, self._forms_of):
            if isinstance(one, PassedOver):
                self._outcome.passed_over.append(one)
            else:
                found.append(one)
        # The same backup may lie there under several names, daily and weekly: the one whose name says most is taken.
        for one in sorted(found, key=lambda each: (each.time.origin != "name", not each.time.exact, str(each.path))):
            digest = digest_of(one.path)
            # What was imported with --source is known, though its name still does not say of which source it is.
            if (digest, "") in known and not _differs_from_its_checksum(one.path, digest):
                self._outcome.known.append(one.path)
                continue
            parts = [(source, part) for part in self._parts(one) if (source := self._source(part)) is not None]
            if not parts:
                continue
            if _differs_from_its_checksum(one.path, digest):
                self._refuse(one, "is not what the checksum beside it says: damaged, or changed", "Import another one.")
                continue
            self._digests[one.path] = digest
            unknown = [each for each in parts if (digest, each[1].part) not in known]
            known |= {(digest, part.part) for _, part in unknown}
            named += unknown
            if not unknown:
                self._outcome.known.append(one.path)
        for group in _groups(named):
            self._import(group)

    def _parts(self, one: Candidate) -> Iterator[Candidate]:
        """Yield a candidate, or each of those that its file holds; what cannot be imported is passed over."""
        kinds = {kind.name: kind for kind, _ in self._sources}
        for name, form in one.forms.items():
            try:
                parts = kinds[name].backup_parts(one.path, form)
            except BackupSystemError as error:
                if not error.permanent:
                    raise
                self._refuse(one, error.what, error.remedy)
                return
            for part in parts or ():
                each = replace(one, part=part.name)
                if part.excluded and part.remedy:
                    self._refuse(each, part.excluded, part.remedy)
                elif part.excluded:
                    self._outcome.passed_over.append(PassedOver(one.path, part.excluded, part=part.name))
                else:
                    yield each
            if parts is not None:
                return
        yield one

    def _forms_of(self, path: Path) -> dict[str, str]:
        """Return what a file or folder is, by the kinds of the plan's sources."""
        kinds = {kind.name: kind for kind, _ in self._sources}
        return {name: form for name, kind in kinds.items() if (form := kind.backup_form(path)) is not None}

    def _source(self, one: Candidate) -> str | None:
        """Return the source that a candidate is of; it is passed over with the reason where there is none."""
        fitting = {s.name: kind.backup_names(s) for kind, s in self._sources if kind.name in one.forms}
        if one.part:
            return self._source_of_part(one, fitting)
        if self._request.source:
            if self._request.source in fitting:
                return self._request.source
            self._outcome.passed_over.append(PassedOver(one.path, f"is no backup of {self._request.source}"))
            return None
        named = source_of([stem_of(name) for name in (one.path.name, *one.above)], fitting)
        if named is None:
            remedy = f"Import it by itself, with --source and one of: {', '.join(fitting)}."
            self._refuse(one, "does not say which of the plan's sources it is of", remedy)
            return None
        if named.why:
            self._outcome.inferred[one.path] = named
        return named.source

    def _source_of_part(self, one: Candidate, fitting: Mapping[str, Sequence[str]]) -> str | None:
        """Return the source whose database it is by the exact name: nothing is guessed where names are in the file."""
        found = [name for name, names in fitting.items() if one.part in names]
        found = found or [name for name in fitting if name == one.part]
        if self._request.source:
            if self._request.source in found:
                return self._request.source
            self._outcome.passed_over.append(
                PassedOver(one.path, f"is no backup of {self._request.source}", part=one.part)
            )
        elif len(found) == 1:
            return found[0]
        else:
            why = f"is the database of {' and of '.join(found)}" if found else "no source of the plan is this database"
            self._refuse(one, why, "Add a source with it to the plan, or name the ones that you want with --source.")
        return None

    def _refuse(self, one: Candidate, why: str, remedy: str) -> None:
        self._outcome.passed_over.append(PassedOver(one.path, why, remedy, refused=True, part=one.part))

    def _import(self, group: Mapping[str, Candidate]) -> None:
        """Make one set; a part that is damaged is refused, and the others make the set."""
        set_id = self._free_id(min(one.time.at for one in group.values()))
        wanted = self._names
        if self._request.dry_run:
            self._outcome.made.append(ImportedSet(set_id, set(group) != set(wanted), group))
            return
        with tempfile.TemporaryDirectory(prefix="bp-import-") as folder:
            left, files = dict(group), self._split(group.values(), Path(folder))
            while left:
                failed = self._attempt(set_id, left, files, partial=set(left) != set(wanted))
                if failed is None:
                    return
                del left[failed]

    def _split(self, group: Iterable[Candidate], folder: Path) -> dict[tuple[Path, str], tuple[Path, Path]]:
        """Split the files that hold several backups; return (file, part) → its file, and what all of them need."""
        wanted: dict[Path, list[Candidate]] = {}
        for one in group:
            if one.part:
                wanted.setdefault(one.path, []).append(one)
        kinds = {kind.name: kind for kind, _ in self._sources}
        files: dict[tuple[Path, str], tuple[Path, Path]] = {}
        for number, (path, parts) in enumerate(wanted.items()):
            into = folder / str(number)
            into.mkdir()
            kind, form = next(iter(parts[0].forms.items()))
            split, beside = kinds[kind].split_backup(path, form, {one.part for one in parts}, into)
            files |= {(path, part): (file, beside) for part, file in split.items()}
        return files

    def _attempt(
        self,
        set_id: SetId,
        group: Mapping[str, Candidate],
        files: Mapping[tuple[Path, str], tuple[Path, Path]],
        *,
        partial: bool,
    ) -> str | None:
        """Return the source whose backup was refused, with nothing left of the set; None when it was sealed."""
        sources = tuple(sorted(group))
        draft = Draft(
            set_id=set_id,
            plan=self._request.plan,
            root_run_id=RUN_ID,
            sources=sources,
            partial=partial,
            started_at=min(one.time.at for one in group.values()),
        )
        writer = self._store.begin(draft)
        source = sources[0]
        try:
            for source in sources:
                started = utc_now()
                context = CaptureContext(writer=writer, source=source, progress=self._progress)
                records = self._records(context, group[source], files)
                keys = tuple(record.key for record in records)
                writer.write_done(SourceDone(source=source, keys=keys, started_at=started, finished_at=utc_now()))
            manifest = seal(writer, run_id=RUN_ID, now=utc_now(), progress=self._progress)
        except BackupSystemError as error:
            self._store.remove(set_id)
            if not error.permanent:
                raise
            self._refuse(group[source], error.what, error.remedy)
            return source
        except BaseException:
            self._store.remove(set_id)
            raise
        rows = sum(record.rows_in_dump for record in manifest.artefacts)
        self._outcome.made.append(ImportedSet(set_id, partial, group, rows, manifest.size))
        return None

    def _records(
        self, context: CaptureContext, one: Candidate, files: Mapping[tuple[Path, str], tuple[Path, Path]]
    ) -> Sequence[ArtefactRecord]:
        origin: dict[str, JsonValue] = {
            "path": os.fsencode(one.path).decode("utf-8", "backslashreplace"),
            "sha256": self._digests[one.path],
            "time": one.time.at.isoformat(),
            "time_from": one.time.origin,
            "time_zone_assumed": one.time.zone,
        }
        name = os.fsencode(one.label).decode("utf-8", "backslashreplace")
        kind, source = kind_of(self._site, context.source)
        form = one.forms[kind.name]
        backup = BackupToImport(one.path, form, f"imported from {name}", origin)
        if one.part:
            path, beside = files[one.path, one.part]
            backup = replace(
                backup, path=path, origin={**origin, "part": one.part, "form": form}, part=one.part, beside=beside
            )
        return kind.import_backup(source, context, backup)

    def _free_id(self, moment: datetime) -> SetId:
        """Return the set's name: its second, or the next one that no set has. What a killed import left is removed."""
        taken = {*self._store.ids(), *(one.set_id for one in self._outcome.made)}
        while (set_id := set_id_at(moment)) in taken:
            if set_id in self._store.ids() and _is_left_over(self._store.read(set_id)):
                if not self._request.dry_run:
                    self._store.remove(set_id)
                return set_id
            moment += timedelta(seconds=1)
        return set_id


def _is_left_over(known: BackupSet) -> bool:
    """Return whether a set is what a killed import left; nobody writes it, since this process has the plan's lock."""
    return known.state is SetState.INCOMPLETE and known.draft is not None and known.draft.root_run_id == RUN_ID


def _groups(named: Sequence[tuple[str, Candidate]]) -> Iterator[dict[str, Candidate]]:
    """Yield what makes one set each: of different sources, and made one after the other."""
    group: dict[str, Candidate] = {}
    for source, one in sorted(named, key=lambda each: (each[1].time.at, each[0], str(each[1].path))):
        first = min((each.time.at for each in group.values()), default=one.time.at)
        if group and (source in group or one.time.at - first > _TOGETHER):
            yield group
            group = {}
        group[source] = one
    if group:
        yield group


def _differs_from_its_checksum(path: Path, digest: str) -> bool:
    """Return whether a file has a checksum beside it (`shop.dump.sha256`, as of pg_back) that does not fit."""
    beside = path.with_name(f"{path.name}.sha256")
    if path.is_dir() or beside.is_symlink() or not beside.is_file():
        return False
    with beside.open("rb") as file:
        said = file.read(_SHA256_DIGITS).decode("ascii", "replace").lower()
    return all(one in "0123456789abcdef" for one in said) and len(said) == _SHA256_DIGITS and said != digest


def _imported_before(store: PlanStore) -> set[tuple[str, str]]:
    """Return the digests of all that was imported into a store, each with the part of its file."""
    found = set()
    for set_id in store.sealed_ids():
        known = store.read(set_id)
        for record in known.records:
            if record.imported is not None:
                found.add((str(record.imported.get("sha256")), str(record.imported.get("part", ""))))
    return found
