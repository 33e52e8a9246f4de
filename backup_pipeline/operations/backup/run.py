"""One run of a plan: lock, open the set, capture each source, seal. Called step by step by the orchestration.

Dagster decides the order of the steps; what a step does stands here. How a kind of source is captured stands in
`artefacts`; the seal's rules stand in `operations/backup/seal.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from backup_pipeline.artefacts.capture import CaptureContext, utc_now
from backup_pipeline.artefacts.time_limits import capture_limit, counting_progress, operation_limit
from backup_pipeline.errors import INTERRUPTED, BackupSystemError, RefusedError
from backup_pipeline.model.backup_set import SetState
from backup_pipeline.model.command_record import CommandRecord
from backup_pipeline.model.manifest import Draft, Failure, Manifest, Purpose
from backup_pipeline.model.progress import Progress, no_progress
from backup_pipeline.model.record import ArtefactRecord, left_undone
from backup_pipeline.model.set_id import SetId, set_id_at
from backup_pipeline.model.source_done import SourceDone
from backup_pipeline.operations.backup import seal as sealing
from backup_pipeline.operations.backup.captures import capture_source
from backup_pipeline.operations.backup.commands import commands_around, run_commands
from backup_pipeline.operations.backup.known_tables import remember_tables
from backup_pipeline.operations.backup.plan_hold import PlanHold
from backup_pipeline.operations.backup.side_by_side import Ahead, Selection, SideBySide
from backup_pipeline.operations.environment.check import require_environment
from backup_pipeline.operations.sites.known_databases import absent_sources
from backup_pipeline.operations.sites.run_log import append_run_line, run_line
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.contract import SetWriter
from backup_pipeline.system.limits import limited, received_signal
from backup_pipeline.system.locks import Holder

LOG = logging.getLogger("backup")


class RunObserver:
    """Receives what happens while a plan runs; all methods are no-ops by default."""

    def progress(self, event: Progress) -> None:
        """Work in one artefact has moved on."""
        no_progress(event)

    def waiting(self, holder: Holder) -> None:
        """Another process holds the plan's lock."""

    def set_opened(self, set_id: SetId, sources: tuple[str, ...], *, resumed: bool) -> None:
        """The set's folder exists."""

    def source_started(self, source: str) -> None:
        """A source's capture begins."""

    def artefact_done(self, record: ArtefactRecord) -> None:
        """An artefact is complete, with its checks."""

    def source_done(self, done: SourceDone) -> None:
        """A source was captured whole."""

    def source_failed(self, source: str, error: BaseException) -> None:
        """A source's capture has failed."""

    def sealed(self, manifest: Manifest) -> None:
        """The set is sealed."""


@dataclass(frozen=True)
class RunIdentity:
    """Which run this is, and why it makes a set: a backup, or what is live before a restore.

    Re-executions share `root_run_id` and so complete the same set; `started_at` is the root's. `beside` says that other
    processes of the run capture other sources of it.
    """

    run_id: str
    root_run_id: str
    started_at: datetime
    purpose: Purpose = Purpose.BACKUP
    beside: bool = False


class BackupRun:
    """One process's hold on one set of one plan; opened by its first step, closed by whoever made it.

    Args:
        site: the site.
        plan_name: the plan.
        identity: the run.
        sources: sources that this run captures.
        partial: whether that is less than the plan, so that the set is no backup of the plan.
        observer: receives the progress.
        now: the clock.
    """

    def __init__(
        self,
        site: Site,
        plan_name: str,
        identity: RunIdentity,
        *,
        sources: tuple[str, ...] | None = None,
        partial: bool = False,
        observer: RunObserver | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._site = site
        self._plan_name = plan_name
        self._identity = identity
        self._sources = sources or site.plan(plan_name).sources
        self._partial = partial
        self._beside: SideBySide | None = None
        self._purpose = identity.purpose
        self._observer = observer or RunObserver()
        self._now = now
        self._store = open_store(site, plan_name)
        self._hold = PlanHold(
            site,
            self._store,
            identity.root_run_id,
            purpose=f"{self._purpose} of {plan_name}, run {identity.run_id[:8]}",
            beside=identity.beside,
            on_wait=self._observer.waiting,
        )
        self._stack = ExitStack()
        self._writer: SetWriter | None = None
        self._failures: list[str] = []
        self._failed: set[str] = set()
        self._manifest: Manifest | None = None
        self._began = now()
        self._commands: list[CommandRecord] = []
        self._owes_after = False
        self._opened: SetId | None = None
        self._refused: BackupSystemError | None = None
        self._interrupted = False
        self._earlier: sealing.EarlierSets | None = None

    @property
    def set_id(self) -> SetId:
        """The set's name; opens the set."""
        return self.writer.draft.set_id

    @property
    def writer(self) -> SetWriter:
        """The set's writer: on first use the environment is checked, the lock taken, the set begun or reopened."""
        if self._refused is not None:
            # Not tried again by the run's next source: it would wait for the lock that this process has.
            raise self._refused
        if self._writer is None:
            try:
                self._writer = self._open()
            except BaseException as error:
                self._failures.append(_reason(error))
                self._refused = error if isinstance(error, BackupSystemError) else None
                raise
        return self._writer

    def _open(self) -> SetWriter:
        require_environment(self._site, self._plan_name, self._sources)
        resumed = True
        if (writer := self._open_already()) is None:
            with self._hold.opening(self._stack):
                writer, resumed = self._opened_first()
        self._opened = set_id = writer.draft.set_id
        LOG.info("%s set %s/%s", "completing" if resumed else "writing", self._plan_name, set_id)
        self._observer.set_opened(set_id, writer.draft.sources, resumed=resumed)
        return writer

    def _open_already(self) -> SetWriter | None:
        """Return the writer of the set that another process of this run has opened."""
        writer = self._unfinished() if self._hold.beside else None
        return writer if writer and self._hold.is_open(writer.draft.set_id, self._identity.run_id) else None

    def _opened_first(self) -> tuple[SetWriter, bool]:
        """Begin or reopen the set, with what is done once for a run; return its writer, and whether it was there."""
        writer = self._unfinished()
        resumed = writer is not None
        writer = writer or self._begin()
        self._opened = set_id = writer.draft.set_id
        if not self._hold.beside or self._hold.is_first(set_id, self._identity.run_id):
            self._ping(begins=True)
        self._run_before(set_id, resumed=resumed)
        if self._hold.beside:
            self._hold.note_open(set_id, self._identity.run_id)
        return writer, resumed

    def _begin(self) -> SetWriter:
        if self._purpose is Purpose.BACKUP:
            absent = absent_sources(self._site, self._plan_name, self._now())
            self._sources = tuple(name for name in self._sources if name not in absent)
        return self._store.begin(
            Draft(
                set_id=self._free_id(self._identity.started_at),
                plan=self._plan_name,
                root_run_id=self._identity.root_run_id,
                purpose=self._purpose,
                sources=self._sources,
                partial=self._partial,
                started_at=self._identity.started_at,
            )
        )

    def _run_before(self, set_id: SetId, *, resumed: bool) -> None:
        """Run the plan's commands before its captures: once for a run, however many processes it has."""
        plan = self._site.plan(self._plan_name)
        if self._hold.beside:
            if not (plan.run_before or plan.run_after) or self._hold.owed_commands(set_id) is not None:
                return
            self._hold.owe_commands(set_id, ())
        elif resumed and self._identity.run_id == self._identity.root_run_id:
            return
        self._owes_after = True
        run_commands(self._site, plan.run_before, "before", self._commands, self._now)
        if self._hold.beside:
            self._owes_after = False
            self._hold.owe_commands(set_id, self._commands)

    def _unfinished(self) -> SetWriter | None:
        """Return the writer of the set that this run's root began and did not seal."""
        sealed = frozenset(self._store.sealed_ids())
        for set_id in reversed(self._store.ids()):
            if set_id in sealed:
                continue
            known = self._store.read(set_id)
            if (
                known.state is SetState.INCOMPLETE
                and known.draft
                and known.draft.root_run_id == self._identity.root_run_id
            ):
                return self._store.reopen(set_id)
        return None

    def _free_id(self, moment: datetime) -> SetId:
        taken = set(self._store.ids())
        while (candidate := set_id_at(moment)) in taken:
            moment += timedelta(seconds=1)
        return candidate

    def captured(
        self, source: str, selected: Selection = None, *, ahead: Iterable[str] = ()
    ) -> Iterator[ArtefactRecord]:
        """Yield a source's records as `capture` does, while other sources of the run are captured beside it.

        They are up to `parallel_sources` of the plan at one time, each in a thread of its own.

        Args:
            source: the source's name.
            selected: keys to capture; all of the source by default.
            ahead: sources that this process will be asked for, all of each; the first time counts.
        """
        if self._beside is None:
            self._earlier_sets(self.writer)
            self._beside = SideBySide(
                self.capture,
                {name: self._ahead_of(name) for name in ahead},
                self._site.plan(self._plan_name).parallel_sources,
                self._abandon,
            )
        return self._beside.records(source, selected)

    def _ahead_of(self, source: str) -> Ahead:
        settings = self._site.source(source)
        return Ahead(frozenset(settings.after), bool(settings.run_before or settings.run_after))

    def _abandon(self, source: str, error: BackupSystemError) -> None:
        self._fail(self.writer, (source,), error)
        self._observer.source_failed(source, error)

    def capture(self, source: str, selected: Selection = None) -> Iterator[ArtefactRecord]:
        """Capture one source into the set, yielding each artefact's record as it is complete.

        Args:
            source: the source's name.
            selected: keys to capture; all of the source by default.

        Raises:
            BackupSystemError: as the source, tools or store say; the set then says why it is incomplete.
        """
        writer = self.writer
        if source not in writer.draft.sources and self._site.server_of(source):
            LOG.warning("%s is not captured: its database was not there when the run began", source)
            return
        failures = len(self._failures)
        try:
            with self._hold.claim(writer, source) as generation:
                done = yield from self._capture_claimed(writer, source, selected, generation)
        except GeneratorExit:
            self._interrupted = True
            raise
        except BaseException as error:
            if len(self._failures) == failures:
                self._failures.append(f"{source}: {_reason(error)}")
                self._observer.source_failed(source, error)
            raise
        self._observer.source_done(done)

    def _capture_claimed(
        self, writer: SetWriter, source: str, selected: frozenset[tuple[str, ...]] | None, generation: int
    ) -> Generator[ArtefactRecord, None, SourceDone]:
        elapsed = (self._now() - self._began).total_seconds()
        settings = self._site.source(source)
        self._failed.discard(source)
        try:
            # Outside of the limit: what was stopped for the capture is started again when that took too long.
            with commands_around(self._site, settings.run_before, settings.run_after, self._now) as commands:
                limit = capture_limit(self._site, self._plan_name, source, elapsed)
                with limited(f"The capture of {source}", limit):
                    done = yield from self._capture(writer, source, selected, generation)
            if commands:
                done = done.model_copy(update={"commands": tuple(commands)})
                writer.write_done(done)
        except GeneratorExit:
            raise
        except BaseException as error:
            if source not in self._failed:
                writer.begin_source(source)
                self._fail(writer, (source,), error)
                self._observer.source_failed(source, error)
            raise
        return done

    def _capture(
        self, writer: SetWriter, source: str, selected: Selection, generation: int
    ) -> Generator[ArtefactRecord, None, SourceDone]:
        started = self._now()
        self._observer.source_started(source)
        try:
            writer.begin_source(source)
            context = CaptureContext(
                writer=writer,
                source=source,
                previous=self._earlier_sets(writer).previous_manifest(source),
                # What is live before a restore is written anew, whatever there is.
                verified=self._earlier_sets(writer).last_verified(source) if self._is_backup else None,
                progress=counting_progress(self._observer.progress),
                schemas=self._site.settings.schemas,
                timezone=ZoneInfo(self._site.settings.timezone),
                now=self._now,
            )
            keys: list[tuple[str, ...]] = []
            for record in capture_source(self._site, context, selected):
                keys.append(record.key)
                self._observer.artefact_done(record)
                yield record
            done = SourceDone(
                source=source,
                keys=tuple(keys),
                started_at=started,
                finished_at=self._now(),
                generation=generation,
            )
            writer.write_done(done)
            if selected is None:
                # A capture of some artefacts says nothing of the others: only one of all changes what is known.
                remember_tables(
                    self._store.folder,
                    source,
                    keys,
                    file_mode=self._store.file_mode,
                    folder_mode=self._store.folder_mode,
                )
            return done
        except GeneratorExit:
            raise
        except BaseException as error:
            self._fail(writer, (source,), error)
            self._observer.source_failed(source, error)
            raise

    @property
    def _is_backup(self) -> bool:
        return self._purpose is Purpose.BACKUP

    def _earlier_sets(self, writer: SetWriter) -> sealing.EarlierSets:
        if self._earlier is None:
            self._earlier = sealing.EarlierSets(self._store, writer.draft.set_id)
        return self._earlier

    def seal(self) -> Manifest:
        """Re-read every file, refuse what is not whole, write the manifest.

        Raises:
            ValidationError: the set lacks something or a check of severity ERROR failed; every reason is named.
        """
        writer = self.writer
        try:
            with self._hold.sealing(writer) as writer:
                self._writer = writer
                self._run_after()
                with limited("The sealing of the set", operation_limit(self._site, self._plan_name)):
                    manifest = sealing.seal(
                        writer,
                        run_id=self._identity.run_id,
                        environment=self._site.settings.environment,
                        now=self._now(),
                        progress=self._observer.progress,
                        commands=self._commands,
                    )
        except BaseException as error:
            self._fail(writer, ("manifest",), error)
            raise
        self._manifest = manifest
        self._observer.sealed(manifest)
        return manifest

    def _run_after(self) -> None:
        """Run the plan's commands after its captures, once."""
        if self._hold.beside and self._opened:
            self._commands = self._hold.owed_commands(self._opened) or self._commands
            self._hold.settle_commands(self._opened)
        self._owes_after = False
        run_commands(self._site, self._site.plan(self._plan_name).run_after, "after", self._commands, self._now)

    def _fail(self, writer: SetWriter, key: tuple[str, ...], error: BaseException) -> None:
        self._failures.append(f"{'.'.join(key)}: {_reason(error)}")
        self._failed.add(key[0])
        remedy = error.remedy if isinstance(error, BackupSystemError) else ""
        if received_signal():
            remedy = "Start it again."
        failure = Failure(key=key, what=_reason(error), remedy=remedy, at=self._now())
        try:
            # Outside of the work that a limit may have ended, where nothing more can be written.
            Context().run(writer.write_failure, failure)
        except BackupSystemError as second:
            LOG.error("the reason could not be written into the set: %s", second)

    def close(self) -> None:
        """End what is still captured, release the lock and write the run's line beside the sets.

        May be called at any time, once counts.
        """
        with self._stack:
            if self._beside is not None:
                self._interrupted |= self._beside.close()
                self._beside = None
            if self._writer is None and not self._failures:
                return
            self._stack.callback(self._store.share)
            if self._ended_well_beside():
                self._writer = None
                return
            if (self._failures or self._interrupted) and self._owes_commands():
                try:
                    self._run_after()
                except BackupSystemError as error:
                    self._failures.append(_reason(error))
            line = run_line(
                plan=self._plan_name,
                set_id=self._writer.draft.set_id if self._writer else None,
                manifest=self._manifest,
                failures=tuple(self._failures),
                began=self._began,
                now=self._now(),
                timezone=ZoneInfo(self._site.settings.timezone),
            )
            store = self._store
            append_run_line(store.folder, line, file_mode=store.file_mode, folder_mode=store.folder_mode)
            self._ping(begins=False)
            self._writer = None
            self._failures = []

    def _ended_well_beside(self) -> bool:
        """Return whether this process has done its part of a run that others go on with: nothing is to be said."""
        return self._hold.beside and not self._failures and not self._interrupted and self._manifest is None

    def _owes_commands(self) -> bool:
        """Return whether the commands after the captures are to be run by this process, though nothing is sealed."""
        plan = self._site.plan(self._plan_name)
        if self._owes_after or not self._hold.beside or not self._opened or not (plan.run_before or plan.run_after):
            return self._owes_after
        return self._hold.settle_commands(self._opened, unless_claimed=True)

    def _ping(self, *, begins: bool) -> None:
        """Signal the plan's dead-man's-switch, where it has one; only whole backups of the plan count."""
        if self._partial or not self._is_backup or not self._site.plan(self._plan_name).ping_env:
            return
        from backup_pipeline.operations.alerts import send as alerts

        if begins:
            alerts.ping_start(self._site, self._plan_name, self._identity.run_id)
        elif self._manifest is not None and self._manifest.broken_data:
            reason = f"The set is sealed; its data is broken: {'; '.join(self._manifest.broken_data)}"
            alerts.ping_fail(self._site, self._plan_name, reason, self._identity.run_id)
        elif self._manifest is not None and (undone := left_undone(self._manifest.artefacts)):
            alerts.ping_fail(self._site, self._plan_name, "; ".join(undone), self._identity.run_id)
        elif self._manifest is not None:
            alerts.ping_success(self._site, self._plan_name, self._manifest.set_id, self._identity.run_id)
        else:
            reasons = "; ".join(self._failures) or "ended before the seal"
            alerts.ping_fail(self._site, self._plan_name, reasons, self._identity.run_id)


def _reason(error: BaseException) -> str:
    if received_signal():
        # Its programs were ended for it, and their exit codes say nothing of their own.
        return INTERRUPTED
    if isinstance(error, BackupSystemError):
        return f"{error.where}: {error.what}" if error.where else error.what
    # Dagster's interrupt, like Python's, is no Exception.
    return f"Unexpected {type(error).__name__}" if isinstance(error, Exception) else INTERRUPTED


def check_sources(site: Site, plan_name: str, only: tuple[str, ...]) -> tuple[str, ...]:
    """Return the plan's sources, or those of `only`, in the plan's order; errors name what the plan does not have.

    A source that stands for the databases of a server means all of them.
    """
    plan = site.plan(plan_name)
    asked = {one for name in only for one in (name, *_databases_of(site, name))}
    for name in only:
        if name not in plan.sources:
            site.source(name)
            raise RefusedError(
                f"Source {name} is not in plan {plan_name}.",
                where=str(site.file),
                remedy=f"The plan has: {', '.join(plan.sources)}.",
            )
    return tuple(name for name in plan.sources if not only or name in asked)


def _databases_of(site: Site, server: str) -> tuple[str, ...]:
    """Return the sources of the databases that a source stands for."""
    known = site.databases.get(server)
    return tuple(one.source for one in known.databases) if known else ()


def newest_unfinished(site: Site, plan_name: str) -> tuple[SetId, Draft, Path]:
    """Return the newest incomplete set of a plan, for `backup --resume`; RefusedError when there is none."""
    store = open_store(site, plan_name)
    for set_id in reversed(store.ids()):
        known = store.read(set_id)
        if known.state is SetState.INCOMPLETE and known.draft is not None:
            return set_id, known.draft, store.path_of(set_id)
        break
    raise RefusedError(
        "The newest set is not incomplete; there is nothing to resume.",
        where=f"{plan_name} in {store.label}",
        remedy=f"backup-pipeline backup {plan_name} makes a new set.",
    )
