"""A kind of source from another package that is a database: a ledger of keys and values, restored, undone and drilled
by itself. `docs/adding-a-source.md` walks through this file.

A ledger is a folder with generations (`000001.jsonl`) and the file CURRENT, which names the live one, as LevelDB has.
Writing CURRENT anew is the swap.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Literal

from backup_pipeline.artefacts.capture import CaptureContext, utc_now
from backup_pipeline.artefacts.drilling import DrillArea, DrillBeside, Drills, SealedPart
from backup_pipeline.artefacts.restorer import Application, Restorer, RestoreSource
from backup_pipeline.artefacts.types import ArtefactType, OpenFile
from backup_pipeline.errors import RefusedError, SourceError, ValidationError
from backup_pipeline.model.drill_outcome import DrillOutcome
from backup_pipeline.model.progress import ProgressSink
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.restore import RestoreMode, RestorePlan, RestoreResult, TableChange, Undo
from backup_pipeline.rules.environment import EnvironmentFault
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import SourceSettings
from backup_pipeline.sources.kind import Key, SiteSource, SourceKind, path_faults

Entries = dict[str, str]


class LedgerSource(SourceSettings):
    """A ledger of keys and values."""

    kind: Literal["ledger"]
    path: Path
    """Its folder."""


class LedgerKind(SourceKind[LedgerSource]):
    """A ledger of keys and values."""

    name: ClassVar[str] = "ledger"
    settings: ClassVar[type[SourceSettings]] = LedgerSource
    artefact_types: ClassVar[Mapping[str, ArtefactType]] = {
        "ledger": ArtefactType(
            labels=frozenset({"json"}),
            description="Every entry of the live generation.",
            checks={},
            inspect=f"{__name__}:inspect",
            restorer=f"{__name__}:LedgerRestorer",
            is_database=True,
        )
    }

    def artefacts(self, source: SiteSource[LedgerSource]) -> Sequence[tuple[Key, str]]:
        """Return the ledger's key."""
        return [((source.name, "entries"), "ledger")]

    def capture(
        self, source: SiteSource[LedgerSource], context: CaptureContext, selected: frozenset[Key] | None
    ) -> Iterator[ArtefactRecord]:
        """Capture the live generation."""
        started, entries = utc_now(), Ledger(source.settings.path).entries()
        name = f"{source.name}_ledger.jsonl.gz"
        with context.writer.create(name) as file:
            file.write(gzip.compress(_lines(entries)))
        record = ArtefactRecord(
            key=(source.name, "entries"),
            source=source.name,
            kind="ledger",
            set_id=context.writer.draft.set_id,
            files=(context.writer.file_record(name, file),),
            rows=len(entries),
            source_label=str(source.settings.path),
            started_at=started,
            finished_at=utc_now(),
            details={"digest": _digest(entries)},
        )
        context.writer.write_record(record)
        yield record

    def place(self, source: SiteSource[LedgerSource]) -> None:
        """Return None: it is a database."""

    def environment_faults(self, source: SiteSource[LedgerSource]) -> Iterator[EnvironmentFault]:
        """Yield what is wrong with its folder."""
        return path_faults(source.name, source.settings.path)


class Ledger:
    """A client of a ledger."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def live(self) -> str:
        """The name of the live generation."""
        try:
            return (self.folder / "CURRENT").read_text("utf-8").strip()
        except FileNotFoundError:
            raise SourceError("Not a ledger.", where=str(self.folder), remedy="Correct `path`.") from None

    def entries(self, generation: str = "") -> Entries:
        """Return the entries of a generation, of the live one by default."""
        lines = (self.folder / (generation or self.live)).read_text("utf-8").splitlines()
        return dict(json.loads(line) for line in lines)

    def add(self, entries: Entries) -> str:
        """Write a new generation that is not live yet; return its name."""
        newest = max((path.stem for path in self.folder.glob("*.jsonl")), default="0")
        name = f"{int(newest) + 1:06}.jsonl"
        (self.folder / name).write_bytes(_lines(entries))
        return name

    def switch(self, generation: str) -> None:
        """Make a generation the live one."""
        new = self.folder / "CURRENT.new"
        new.write_text(generation, "utf-8")
        new.replace(self.folder / "CURRENT")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other restores away."""
        with (self.folder / "LOCK").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class LedgerRestorer(Restorer):
    """Restores a ledger as a new generation, compared and switched to; the old one is kept."""

    name: ClassVar[str] = "ledger"

    def plan(self, selection: RestoreSource, progress: ProgressSink) -> RestorePlan:
        """Count what would become of the entries."""
        ledger = _ledger(selection.site, selection.source)
        wanted, have = _read(selection.open, selection.records[0]), ledger.entries()
        options = selection.options
        reasons = [
            *(["a ledger is restored as a whole"] if options.mode is RestoreMode.UPSERT else []),
            *(["a ledger is restored in its place"] if options.into else []),
        ]
        shared = wanted.keys() & have.keys()
        equal = sum(1 for key in shared if wanted[key] == have[key])
        state = [selection.set_id, options.model_dump(mode="json"), ledger.live, _digest(wanted), _digest(have)]
        return RestorePlan(
            plan_id=hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16],
            set_id=selection.set_id,
            plan=selection.plan_name,
            source=selection.source,
            options=options,
            target=str(ledger.folder),
            confirm=ledger.folder.name,
            exists=True,
            tables=(
                TableChange(
                    table="entries",
                    backup=len(wanted),
                    target=len(have),
                    insert=len(wanted) - len(shared),
                    update=len(shared) - equal,
                    unchanged=equal,
                    only_in_target=len(have) - len(shared),
                ),
            ),
            steps=("write a new generation and compare it", "make an emergency backup set", "switch to it"),
            reasons_against=tuple(reasons),
        )

    def apply(self, selection: RestoreSource, application: Application) -> RestoreResult:
        """Write a generation, compare it, switch to it."""
        ledger = _ledger(selection.site, selection.source)
        with ledger.locked():
            plan = self.plan(selection, application.progress)
            application.check(plan)
            selection.check_files()
            wanted, kept = _read(selection.open, selection.records[0]), ledger.live
            new = ledger.add(wanted)
            if ledger.entries(new) != wanted:
                (ledger.folder / new).unlink()
                raise ValidationError("The new generation differs.", where=new, remedy="Nothing was changed.")
            undo = Undo(kind="database", live=plan.confirm, kept=kept)
            result = application.begun(selection, plan, self.name).model_copy(
                update={
                    "restored": new,
                    "emergency_set": application.journal.emergency_set(),
                    "undo": undo,
                    "tables": plan.tables,
                    "swapping": True,
                }
            )
            application.journal.keep(result)
            ledger.switch(new)
            return application.journal.keep(result.model_copy(update={"swapping": False, "finished_at": utc_now()}))

    def state_of_swap(self, site: Site, result: RestoreResult) -> Literal["swapped", "absent"]:
        """Return whether what was restored is live."""
        return "swapped" if _ledger(site, result.source).live == result.restored else "absent"

    def undo(self, site: Site, result: RestoreResult, now: datetime, begin: Callable[[str], None]) -> None:
        """Switch back to the generation from before."""
        ledger = _ledger(site, result.source)
        with ledger.locked():
            if not (ledger.folder / result.undo.kept).exists():
                raise RefusedError("The old generation is gone.", where=result.undo.kept, remedy="Restore a set.")
            begin(result.restored)
            ledger.switch(result.undo.kept)

    def drop_kept(self, site: Site, source: str, confirm: str) -> tuple[str, ...]:
        """Remove every generation that is not live."""
        ledger = _ledger(site, source)
        if confirm != ledger.folder.name:
            raise RefusedError("Not confirmed.", where=source, remedy=f"Confirm with --confirm {ledger.folder.name}")
        with ledger.locked():
            old = sorted(path.name for path in ledger.folder.glob("*.jsonl") if path.name != ledger.live)
            for name in old:
                (ledger.folder / name).unlink()
        return tuple(old)

    def drills(self, area: DrillArea) -> Drills:
        """Return drills into ledgers of their own."""
        return LedgerDrills(area)


class LedgerDrills(Drills):
    """Drills of ledgers: a new ledger in the scratch folder, read again and compared with the record."""

    def __init__(self, area: DrillArea) -> None:
        self._area = area

    def drill(self, part: SealedPart, beside: DrillBeside | None) -> DrillOutcome:
        """Restore the entries, compare them."""
        began, record = time.monotonic(), part.records[0]
        ledger = Ledger(self._area.folder / record.source)
        ledger.folder.mkdir()
        ledger.switch(ledger.add(_read(part.open_file, record)))
        entries = ledger.entries()
        outcome = DrillOutcome(numbers={"tables": 1, "rows": len(entries)})
        if _digest(entries) != record.details["digest"]:
            outcome.findings.append(Finding(subject=record.name, problem="its entries are not those captured"))
        outcome.numbers["restore_seconds"] = round(time.monotonic() - began, 3)
        return outcome


def inspect(open_file: OpenFile, record: ArtefactRecord) -> Iterator[Finding]:
    """Yield what is wrong with a sealed ledger."""
    if (found := len(_read(open_file, record))) != record.rows:
        yield Finding(subject=record.name, problem=f"holds {found} entries, the record says {record.rows}")


def _ledger(site: Site, source: str) -> Ledger:
    settings = site.source(source)
    if not isinstance(settings, LedgerSource):
        raise RefusedError("The source is not a ledger any more.", where=source, remedy="Name its `path` again.")
    return Ledger(settings.path)


def _lines(entries: Entries) -> bytes:
    return "".join(json.dumps([key, value]) + "\n" for key, value in sorted(entries.items())).encode()


def _digest(entries: Entries) -> str:
    return hashlib.sha256(_lines(entries)).hexdigest()


def _read(open_file: OpenFile, record: ArtefactRecord) -> Entries:
    with open_file(record.files[0].path) as packed, gzip.open(packed, "rt", encoding="utf-8") as lines:
        return dict(json.loads(line) for line in lines)
