"""The resource that holds a run's sets: one `BackupRun` per plan, opened by the first step, closed with the run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from backup_pipeline.operations.backup.run import BackupRun, RunIdentity
from backup_pipeline.orchestration.names import SET_IDENTITY_TAG, source_key
from backup_pipeline.orchestration.run_observer import current_observer
from backup_pipeline.settings.run_options import run_options, site_with
from backup_pipeline.settings.site import Site

RUNS = "backup_runs"


class BackupRuns:
    """The sets that one run writes, by plan."""

    def __init__(
        self,
        site: Site,
        instance: dg.DagsterInstance,
        run: dg.DagsterRun,
        stack: ExitStack,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._site = site
        self._options = options or {}
        self._instance = instance
        self._run = run
        self._stack = stack
        self._open: dict[str, BackupRun] = {}

    def site(self, plan: str) -> Site:
        """Return the site as this run of a plan sees it, with what the run's configuration says otherwise."""
        return site_with(self._site, plan, run_options(self._options))

    def of_plan(self, plan: str) -> BackupRun:
        """Return the run's hold on the plan's set."""
        if plan not in self._open:
            sources, partial = selected_sources(self._site, plan, self._run.asset_selection)
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

    def _identity(self) -> RunIdentity:
        root = self._run.root_run_id or self._run.run_id
        return RunIdentity(self._run.run_id, root, self._started(root))

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


def backup_runs_resource(site: Site) -> dg.ResourceDefinition:
    """Return the resource, bound to a site. In-process it lives for the whole run, else for one step."""

    def resource(context: dg.InitResourceContext) -> Iterator[BackupRuns]:
        if context.instance is None or context.run is None:
            raise dg.DagsterInvariantViolationError("backup runs exist only inside a run")
        with ExitStack() as stack:
            yield BackupRuns(site, context.instance, context.run, stack, context.resource_config)

    def described(kind: type, what: str) -> dg.Field:
        return dg.Field(dg.Noneable(kind), is_required=False, description=what)

    options = {
        "store": described(str, "The plan's store for this run: sets and backup_log.txt stand right below it."),
        "include_env": described(bool, "Capture repositories with their .env."),
        "include_volumes": described(bool, "Capture repositories with their volumes."),
        "keep_within": described(str, "How long sets are kept (14d), instead of the plan's own keep_within."),
    }
    return dg.ResourceDefinition(
        resource, options, description="The sets that a run writes: lock, folder, records, seal."
    )
