"""The output of `backup`: progress lines and a table, or one JSON document."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from backup_pipeline.cli.common import config_argument, console, shown_progress
from backup_pipeline.cli.tables import new_table, print_table
from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.manifest import Manifest
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.model.record import ArtefactRecord, facts_of, facts_text
from backup_pipeline.model.set_id import SetId
from backup_pipeline.model.source_done import SourceDone
from backup_pipeline.operations.backup.run import RunObserver
from backup_pipeline.rules.quantities import bytes_text
from backup_pipeline.system.locks import Holder

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from backup_pipeline.operations.sites.known_databases import DatabaseChange
    from backup_pipeline.orchestration.launch import RunOutcome


_FAILED_SHOWN = 5
_DATABASES_SHOWN = 8
_REPAIR = (
    "The set is sealed and holds the data as it is, since that is all there is; it does not count as a good one. "
    "Repair the rows or keys that are named, then back up again."
)


class Gathering(RunObserver):
    """Remembers what happened, and passes it to a sink."""

    def __init__(self) -> None:
        self.sink: ProgressSink = no_progress
        self.set_id: SetId | None = None
        self.resumed = False
        self.sources: tuple[str, ...] = ()
        self.records: list[ArtefactRecord] = []
        self.done: list[SourceDone] = []
        self.manifest: Manifest | None = None

    def progress(self, event: Progress) -> None:
        """Pass it on to the sink."""
        self.sink(event)

    def set_opened(self, set_id: SetId, sources: tuple[str, ...], *, resumed: bool) -> None:
        """Remember the set."""
        self.set_id, self.sources, self.resumed = set_id, sources, resumed

    def artefact_done(self, record: ArtefactRecord) -> None:
        """Remember the artefact."""
        self.records.append(record)

    def source_done(self, done: SourceDone) -> None:
        """Remember the source."""
        self.done.append(done)

    def sealed(self, manifest: Manifest) -> None:
        """Remember the manifest."""
        self.manifest = manifest


def showing(sink: ProgressSink) -> RunObserver:
    """Return a watcher that passes progress on to `sink` and says nothing else."""
    observer = Gathering()
    observer.sink = sink
    return observer


class _Lines(Gathering):
    """Prints one line per source, fit for a hook's output."""

    def __init__(self, plan: str, *, verbose: bool = False) -> None:
        super().__init__()
        self._plan = plan
        self.verbose = verbose
        self._out = console(stderr=True)

    def waiting(self, holder: Holder) -> None:
        self._out.print(f"waiting for {holder.describe()}", markup=False)

    def set_opened(self, set_id: SetId, sources: tuple[str, ...], *, resumed: bool) -> None:
        super().set_opened(set_id, sources, resumed=resumed)
        self._out.print(f"{'completing' if resumed else 'backup'} {self._plan}/{set_id}", markup=False)

    def source_started(self, source: str) -> None:
        # The first figures of a database come when its snapshot is taken: until then this says what is waited for.
        self.sink(Progress(source, 0, unit=""))

    @property
    def in_terminal(self) -> bool:
        """Whether a person has read the line of each source."""
        return self._out.is_terminal

    def artefact_done(self, record: ArtefactRecord) -> None:
        super().artefact_done(record)
        if not self.verbose:
            return
        rows = "" if record.rows is None else f", {record.rows:,} rows"
        for file in record.files:
            self._out.print(f"      {file.path} {bytes_text(file.size)}{rows}", markup=False)
        for check in record.checks:
            mark = "ok" if check.passed else check.severity.value.lower()
            self._out.print(f"      {record.name}: {check.name} {mark}: {check.summary}", markup=False)

    def source_done(self, done: SourceDone) -> None:
        super().source_done(done)
        self.sink(Progress(done.source, 0, unit="", finished=True))
        records = [record for record in self.records if record.source == done.source]
        size = bytes_text(sum(record.size for record in records))
        seconds = (done.finished_at - done.started_at).total_seconds()
        checks = [check for record in records for check in record.checks]
        worse = [check for check in checks if not check.passed]
        facts = facts_of(records).get(done.source)
        rows = sum(record.rows or 0 for record in records)
        note = f", {rows:,} rows" if rows and self.in_terminal else ""
        note += f": {facts_text(facts)}" if facts else ""
        note += f", {len(worse)} checks not passed" if worse else ""
        self._out.print(f"{self._place(done.source)} {done.source} … {size} in {seconds:.1f} s{note}", markup=False)

    def source_failed(self, source: str, error: BaseException) -> None:
        self.sink(Progress(source, 0, unit="", finished=True))
        self._out.print(f"{self._place(source)} {source} … failed", style="red", markup=False)

    def _place(self, source: str) -> str:
        """Return which of the sources it is; several are captured at one time, and end in any order."""
        number = self.sources.index(source) + 1 if source in self.sources else len(self.sources)
        return f"[{number}/{len(self.sources)}]"


class TextReport:
    """Progress and lines on standard error while it runs; the summary on standard output."""

    def __init__(
        self, plan: str, sources: tuple[str, ...], *, verbose: bool = False, store: Path | None = None
    ) -> None:
        self._plan = plan
        self._store = store
        self._lines = _Lines(plan, verbose=verbose)
        self._lines.sources = sources
        self._stack = ExitStack()

    @property
    def observer(self) -> RunObserver:
        """The run's observer."""
        return self._lines

    @property
    def gathered(self) -> Gathering:
        """What has happened so far."""
        return self._lines

    def __enter__(self) -> Self:
        self._lines.sink = self._stack.enter_context(shown_progress())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def databases_changed(self, changes: Sequence[DatabaseChange]) -> None:
        """Print which databases of servers are new, and which are gone."""
        errors = console(stderr=True)
        for change in changes[:_DATABASES_SHOWN]:
            errors.print(change.text, markup=False)
        if len(changes) > _DATABASES_SHOWN:
            errors.print(f"and {len(changes) - _DATABASES_SHOWN} more databases", markup=False)

    def failed(self, error: BackupSystemError) -> dict[str, Any]:
        """Never called: the command line reports errors itself."""
        raise error

    def finished(self, outcome: RunOutcome, store: Path, vault: str = "") -> dict[str, Any]:
        """Print the table of what was captured, or why it was not; return the exit code."""
        from backup_pipeline.orchestration.launch import exit_code_of

        out, errors = console(), console(stderr=True)
        if self._lines.records:
            self._print_records(out)
        manifest = self._lines.manifest
        if manifest is not None:
            seconds = (manifest.sealed_at - manifest.started_at).total_seconds()
            kind = "sealed (partial)" if manifest.partial else "sealed"
            out.print(
                f"{self._plan}/{manifest.set_id} {kind}: {len(manifest.artefacts)} artefacts, {manifest.rows:,} rows, "
                f"{bytes_text(manifest.size)} in {seconds:.1f} s",
                markup=False,
            )
            where = f"{vault}:{self._plan}/{manifest.set_id}" if vault else f"{store / manifest.set_id}"
            # A path is to be copied whole, however long it is.
            out.print(where, markup=False, soft_wrap=True)
            for broken in manifest.broken_data:
                errors.print("[bold red]broken data[/]", end=" ")
                errors.print(broken, markup=False)
            if manifest.broken_data:
                errors.print("[bold]remedy[/]", end=" ")
                errors.print(_REPAIR, markup=False)
        for error in outcome.errors:
            errors.print("[bold red]error[/]", end=" ")
            errors.print(f"{error.where}: {error.what}" if error.where else error.what, markup=False)
            if error.remedy:
                errors.print("[bold]remedy[/]", end=" ")
                errors.print(error.remedy, markup=False)
        if manifest is None and self._lines.set_id:
            where = f" --store {shlex.quote(str(self._store))}" if self._store else ""
            errors.print(
                f"{self._plan}/{self._lines.set_id} is incomplete and does not count as a backup. "
                f"Complete it with: backup-pipeline backup {self._plan} --resume{where}{config_argument()}",
                markup=False,
            )
        return {"exit_code": int(exit_code_of(outcome, manifest))}

    def _print_records(self, out: Console) -> None:
        """Print the artefacts where all details are asked for, else the sources that have no line of their own yet."""
        records = self._lines.records
        if self._lines.verbose:
            print_table(out, _table(records), expendable=("time",))
        elif not (out.is_terminal and self._lines.in_terminal):
            print_table(out, _by_source(records), expendable=("time", "artefacts", "rows"))


def _by_source(records: list[ArtefactRecord]) -> Table:
    """Return a line per source; `--verbose` has one per artefact."""
    from rich.markup import escape

    table = new_table("", "source", ">artefacts", ">size", ">rows", ">time", "checks", wrapping="checks")
    for source in dict.fromkeys(record.source for record in records):
        own = [record for record in records if record.source == source]
        rows = [record.rows for record in own if record.rows is not None]
        checks = [(record, check) for record in own for check in record.checks]
        failed = [f"{check.name} of {record.name}" for record, check in checks if not check.passed]
        seconds = (max(record.finished_at for record in own) - min(record.started_at for record in own)).total_seconds()
        more = f" and {len(failed) - _FAILED_SHOWN} more" if len(failed) > _FAILED_SHOWN else ""
        table.add_row(
            escape(source),
            str(len(own)),
            bytes_text(sum(record.size for record in own)),
            f"{sum(rows):,}" if rows else "",
            f"{seconds:.2f} s",
            f"{len(checks) - len(failed)}/{len(checks)}"
            + (f" [red]{escape(', '.join(failed[:_FAILED_SHOWN]))}{more}[/]" if failed else ""),
        )
    return table


def _table(records: list[ArtefactRecord]) -> Table:
    from rich.markup import escape

    table = new_table("", "artefact", ">size", ">rows", ">time", "checks", wrapping="artefact")
    for record in records:
        passed = sum(check.passed for check in record.checks)
        failed = [check.name for check in record.checks if not check.passed]
        table.add_row(
            escape(record.name),
            bytes_text(record.size),
            "" if record.rows is None else f"{record.rows:,}",
            f"{(record.finished_at - record.started_at).total_seconds():.2f} s",
            f"{passed}/{len(record.checks)}" + (f" [red]{', '.join(failed)}[/]" if failed else ""),
        )
    return table


class JsonReport:
    """Nothing while it runs; a document of the whole run at its end."""

    def __init__(self, plan: str) -> None:
        self._plan = plan
        self._gathered = Gathering()
        self._databases: list[dict[str, str]] = []

    def databases_changed(self, changes: Sequence[DatabaseChange]) -> None:
        """Remember which databases of servers are new, and which are gone."""
        self._databases = [change.as_dict() for change in changes]

    @property
    def observer(self) -> RunObserver:
        """The run's observer."""
        return self._gathered

    @property
    def gathered(self) -> Gathering:
        """What has happened so far."""
        return self._gathered

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def failed(self, error: BackupSystemError) -> dict[str, Any]:
        """Return the document of a run that never began."""
        return {
            "plan": self._plan,
            "set": None,
            "sealed": False,
            "errors": [error.as_dict()],
            "exit_code": int(error.exit_code),
        }

    def finished(self, outcome: RunOutcome, store: Path, vault: str = "") -> dict[str, Any]:
        """Return the document of a run: set, artefacts with sizes, rows and checks, errors, exit code."""
        from backup_pipeline.orchestration.launch import exit_code_of

        manifest = self._gathered.manifest
        return {
            "plan": self._plan,
            "set": self._gathered.set_id,
            "path": str(store / self._gathered.set_id) if self._gathered.set_id else None,
            **({"vault": vault} if vault else {}),
            "run_id": outcome.run_id,
            "sealed": manifest is not None,
            "partial": manifest.partial if manifest else None,
            "resumed": self._gathered.resumed,
            "size_bytes": sum(record.size for record in self._gathered.records),
            "facts": facts_of(self._gathered.records),
            **({"databases": self._databases} if self._databases else {}),
            "artefacts": [
                {
                    "name": record.name,
                    "kind": record.kind,
                    "files": [file.path for file in record.files],
                    "size_bytes": record.size,
                    "rows": record.rows,
                    "seconds": (record.finished_at - record.started_at).total_seconds(),
                    "checks": [
                        {
                            "name": c.name,
                            "passed": c.passed,
                            "severity": c.severity,
                            "summary": c.summary,
                            "table": [] if c.passed else list(c.table),
                        }
                        for c in record.checks
                    ],
                }
                for record in self._gathered.records
            ],
            "errors": [error.as_dict() for error in outcome.errors],
            "broken_data": list(manifest.broken_data) if manifest else [],
            "exit_code": int(exit_code_of(outcome, manifest)),
        }
