"""Dagster resource of the sets that a run writes: one `BackupRun` per plan, opened by the first step that needs it.

In-process it lives for the whole run, else for one step.
"""

# Dagster reads the annotations when the class is made: none may be postponed here.
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

import dagster as dg
from pydantic import Field, PrivateAttr

from backup_pipeline.operations.backup.run import BackupRun, RunIdentity
from backup_pipeline.orchestration.launcher import steps_share_a_process
from backup_pipeline.orchestration.names import SET_IDENTITY_TAG, capture_step, source_key
from backup_pipeline.orchestration.run_observer import current_observer
from backup_pipeline.orchestration.run_steps import steps_here
from backup_pipeline.settings.run_options import run_options, site_with
from backup_pipeline.settings.site import Site

# The parameter by which assets take the resource, and its name in run configurations.
RUNS = "backup_runs"


class BackupRuns(dg.ConfigurableResource["BackupRuns"]):
    """The sets that a run writes: lock, folder, records, seal."""

    settings: dg.ResourceDependency[Site]
    store: str | None = Field(
        default=None, description="The plan's store for this run: sets and backup_log.txt stand right below it."
    )
    include_env: bool | None = Field(default=None, description="Capture repositories with their .env.")
    include_volumes: bool | None = Field(default=None, description="Capture repositories with their volumes.")
    keep_within: str | None = Field(
        default=None, description="How long sets are kept (14d), instead of the plan's own keep_within."
    )

    _instance: dg.DagsterInstance = PrivateAttr()
    _run: dg.DagsterRun = PrivateAttr()
    _stack: ExitStack = PrivateAttr(default_factory=ExitStack)
    _open: dict[str, BackupRun] = PrivateAttr(default_factory=dict)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["BackupRuns"]:
        """Hold the sets until the run, or the step's process, ends."""
        if context.instance is None or context.run is None:
            raise dg.DagsterInvariantViolationError("backup runs exist only inside a run")
        self._instance, self._run = context.instance, context.run
        with self._stack:
            yield self

    def site(self, plan: str) -> Site:
        """Return the site as this run of a plan sees it, with what the run's configuration says otherwise."""
        options = {
            "store": self.store,
            "include_env": self.include_env,
            "include_volumes": self.include_volumes,
            "keep_within": self.keep_within,
        }
        return site_with(self.settings, plan, run_options(options))

    def of_plan(self, plan: str) -> BackupRun:
        """Return the run's hold on the plan's set."""
        if plan not in self._open:
            sources, partial = selected_sources(self.settings, plan, self._run.asset_selection)
            backup = BackupRun(
                self.site(plan),
                plan,
                self._identity(),
                sources=sources,
                partial=partial,
                observer=current_observer(),
            )
            self._stack.callback(backup.close)
            self._open[plan] = backup
        return self._open[plan]

    def ahead(self, plan: str) -> tuple[str, ...]:
        """Return the sources of a plan whose steps this process executes, each with all of its artefacts."""
        steps, keys = steps_here(self._run.run_id), self._run.asset_selection
        every = self.settings.plan(plan).sources
        whole = (name for name in every if keys is None or source_key(plan, name) in keys)
        return tuple(name for name in whole if capture_step(plan, name) in steps)

    def _identity(self) -> RunIdentity:
        root = self._run.root_run_id or self._run.run_id
        beside = not steps_share_a_process()
        return RunIdentity(self._run.run_id, root, self._started(root), beside=beside)

    def _started(self, root: str) -> datetime:
        """Return when the root run was created; the present where its history is gone."""
        if tagged := self._run.tags.get(SET_IDENTITY_TAG):
            return datetime.fromisoformat(tagged)
        record = self._instance.get_run_record_by_id(root)
        moment = record.create_timestamp if record else datetime.now(UTC)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def selected_sources(site: Site, plan: str, selection: Iterable[dg.AssetKey] | None) -> tuple[tuple[str, ...], bool]:
    """Return the sources of a plan that a run captures, and whether that is less than the plan.

    Args:
        site: the site.
        plan: the plan's name.
        selection: the run's selected assets; None for all.
    """
    every = site.plan(plan).sources
    if selection is None:
        return every, False
    keys = set(selection)
    touched = {key.path[1] for key in keys if key.path[0] == plan and len(key.path) > 1}
    sources = tuple(name for name in every if name in touched)
    if not sources:
        # Only the manifest was selected (re-execution from failure): the set that exists knows its sources.
        return every, False
    return sources, any(source_key(plan, name) not in keys for name in every)
