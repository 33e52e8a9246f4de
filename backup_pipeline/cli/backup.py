"""`backup-pipeline backup`: run a plan's Dagster job in this process, with progress and a summary."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backup_pipeline.cli.common import ConfigOption, JsonOption, config_argument, console, load, print_json
from backup_pipeline.errors import ExitCode

if TYPE_CHECKING:
    from backup_pipeline.cli.backup_report import Gathering
    from backup_pipeline.errors import BackupSystemError
    from backup_pipeline.operations.backup.run import RunObserver
    from backup_pipeline.orchestration.launch import RunOutcome
    from backup_pipeline.settings.run_options import RunOptions
    from backup_pipeline.settings.site import Site


def backup(
    plans: Annotated[
        list[str] | None,
        typer.Argument(help="Plans and fleets to run; all of the site by default.", show_default=False),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Capture only this source (repeatable). Such a set is marked partial."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Complete the newest, incomplete set of the plan.")] = False,
    include_env: Annotated[
        bool | None,
        typer.Option(
            "--include-env/--no-include-env",
            help="With the repositories' .env, which holds secrets.",
            show_default="as the settings say",
        ),
    ] = None,
    include_volumes: Annotated[
        bool | None,
        typer.Option(
            "--include-volumes/--no-include-volumes",
            help="With the repositories' volumes.",
            show_default="as the settings say",
        ),
    ] = None,
    store: Annotated[
        Path | None, typer.Option("--store", metavar="FOLDER", help="Write this run's set right below FOLDER instead.")
    ] = None,
    keep_within: Annotated[
        str | None,
        typer.Option("--keep-within", metavar="14d", help="Keep sets this long instead, when this run cleans up."),
    ] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Of a fleet only the members that failed or were postponed last time.")
    ] = False,
    window: Annotated[
        str | None, typer.Option("--window", metavar="2h", help="How long backups of a fleet may begin, from now on.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="A line per artefact and check.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Back up now: capture every source of a plan into one sealed set.

    Runs the same Dagster job as the UI and the schedules, so that every run is in one history. Fit for a hook before
    a work session: it ends with exit code 0 only when the set was written, re-read and sealed, and every order of an
    archive has its pair. Then the set is copied into the plan's vaults (`copies`); exit code 12 says that the set is
    sealed and a copy could not be made.

    Examples: `backup-pipeline backup nightly` · `backup-pipeline backup session --only trading --json` ·
    `backup-pipeline backup nightly --resume` · `backup-pipeline backup session --include-env --store /mnt/usb`
    """
    site = load(config)
    names = list(plans or (*site.single_plans, *site.settings.fleets))
    fleets = [name for name in names if name in site.settings.fleets]
    names = [name for name in names if name not in fleets]
    for name in names:
        site.plan(name)
    if (unfinished or window) and not fleets:
        raise typer.BadParameter("name a fleet", param_hint="--unfinished" if unfinished else "--window")
    within = _window(window)
    if resume and len(names) != 1:
        raise typer.BadParameter("name the one plan whose set is to be completed", param_hint="--resume")
    if store and len(names) != 1:
        raise typer.BadParameter("name the one plan whose set is to be written there", param_hint="--store")
    from backup_pipeline.settings.run_options import run_options, site_with

    options = run_options(
        {
            "store": store.expanduser().absolute() if store else None,
            "include_env": include_env,
            "include_volumes": include_volumes,
            "keep_within": keep_within,
        }
    )
    for name in names:
        site_with(site, name, options)
    from backup_pipeline.cli.fleet_report import back_up_fleet, run_member
    from backup_pipeline.operations.sites.embedded import embedded_server_up

    with embedded_server_up(site):
        results = [
            run_plan(site, name, tuple(only or ()), resume=resume, as_json=as_json, options=options, verbose=verbose)
            if site.member_of(name) is None
            else run_member(site, name, as_json=as_json)
            for name in names
        ]
        results += [back_up_fleet(site, name, unfinished=unfinished, window=within, as_json=as_json) for name in fleets]
    if as_json:
        print_json(results[0] if plans and len(plans) == 1 else {"plans": results})
    code = next((result["exit_code"] for result in results if result["exit_code"]), 0)
    raise typer.Exit(code)


def _window(text: str | None) -> timedelta | None:
    from pydantic import TypeAdapter, ValidationError

    from backup_pipeline.settings.types import TimeLimit

    try:
        return TypeAdapter(TimeLimit).validate_python(text) if text else None
    except ValidationError:
        raise typer.BadParameter("write a number and m or h, as in 90m", param_hint="--window") from None


def run_plan(
    site: Site,
    plan: str,
    only: tuple[str, ...] = (),
    *,
    resume: bool = False,
    as_json: bool = False,
    options: RunOptions | None = None,
    verbose: bool = False,
) -> dict[str, Any]:
    """Run one plan and report it; return the document of the run, with its exit code.

    Args:
        site: the site.
        plan: the plan.
        only: sources to capture; all by default.
        resume: complete the newest, incomplete set.
        as_json: say nothing while it runs.
        options: what this run has otherwise than the settings.
        verbose: report each artefact and check.
    """
    from backup_pipeline.cli.backup_report import JsonReport, TextReport
    from backup_pipeline.errors import BackupSystemError
    from backup_pipeline.operations.backup.known_tables import refresh_known_tables
    from backup_pipeline.operations.backup.run import check_sources
    from backup_pipeline.operations.environment.check import require_environment
    from backup_pipeline.operations.sites.known_databases import refresh_databases
    from backup_pipeline.settings.run_options import RunOptions, site_with

    options = options or RunOptions()
    found = refresh_databases(site, [plan])
    site = found.site
    own = site_with(site, plan, options)
    sources = check_sources(site, plan, only)
    partial = sources != site.plan(plan).sources
    root_run_id = _unfinished_run(own, plan) if resume else ""
    report: TextReport | JsonReport = (
        JsonReport(plan) if as_json else TextReport(plan, sources, verbose=verbose, store=options.store)
    )
    try:
        with report:
            report.databases_changed(found.changes)
            # Before the second that Dagster's import takes: what cannot work is said at once.
            require_environment(own, plan, sources)
            refresh_known_tables(site, plan, sources)
            if root_run_id:
                outcome = _resume(site, root_run_id, report.observer)
            else:
                outcome = _start(site, plan, sources, report.observer, options)
    except BackupSystemError as error:
        _notify_never_begun(site, plan, error, partial=partial)
        if not as_json:
            raise
        return report.failed(error)
    _notify(site, plan, outcome, report.gathered, partial=partial)
    document = report.finished(outcome, own.store_folder(plan), own.vault_of(plan))
    # A set that was written elsewhere (--store) is none of the plan's store, from which copies are made.
    sealed_here = outcome.success and options.store is None
    return _completed(document, site, plan, report.gathered, copied=sealed_here, as_json=as_json)


def _unfinished_run(site: Site, plan: str) -> str:
    """Return the root run of the newest, incomplete set."""
    from backup_pipeline.operations.backup.run import newest_unfinished
    from backup_pipeline.operations.sites.stores import plan_lock

    _, draft, _ = newest_unfinished(site, plan)
    # Whoever still writes that set holds this lock, and is not to be declared dead.
    with plan_lock(site, plan, "backup --resume", 0):
        return draft.root_run_id


def _completed(
    document: dict[str, Any], site: Site, plan: str, gathered: Gathering, *, copied: bool, as_json: bool
) -> dict[str, Any]:
    """Return the document with what was left undone, and with the copies that are made of a sealed set."""
    from backup_pipeline.cli.copies_report import copy_after_seal
    from backup_pipeline.model.record import left_undone

    if (undone := left_undone(gathered.records)) and not document["exit_code"]:
        if not as_json:
            _report_undone(undone, plan)
        document |= {"exit_code": int(ExitCode.CHECKS), "undone": list(undone)}
    if copied:
        document["copies"] = copy_after_seal(site, plan, as_json=as_json)
        if not document["exit_code"] and not all(one["copied"] for one in document["copies"]):
            document["exit_code"] = int(ExitCode.NOT_COPIED)
    return document


def _report_undone(undone: Sequence[str], plan: str) -> None:
    errors = console(stderr=True)
    for each in undone:
        errors.print("[bold red]error[/]", end=" ")
        errors.print(f"The set is sealed, and not all is done: {each}", markup=False)
    errors.print(f"backup-pipeline show {plan}/latest{config_argument()} lists them.", markup=False)


def _notify(site: Site, plan: str, outcome: RunOutcome, gathered: Gathering, *, partial: bool) -> None:
    """Alert people at once: the daemon that watches runs may not be there."""
    from backup_pipeline.operations.alerts.send import FinishedRun, notify_run_finished

    first = outcome.errors[0] if outcome.errors else None
    finished = FinishedRun(
        outcome.success,
        run_id=outcome.run_id,
        set_id=gathered.set_id or "",
        reason=f"{first.where}: {first.what}" if first else "",
        remedy=first.remedy if first else "",
        records=gathered.records,
        partial=partial,
    )
    notify_run_finished(site, plan, finished)


def _notify_never_begun(site: Site, plan: str, error: BackupSystemError, *, partial: bool) -> None:
    from backup_pipeline.operations.alerts.send import FinishedRun, notify_run_finished, ping_fail

    if not partial:
        ping_fail(site, plan, error.what)
    failure = FinishedRun(succeeded=False, reason=f"{error.where}: {error.what}", remedy=error.remedy)
    notify_run_finished(site, plan, failure)


def _start(site: Site, plan: str, sources: tuple[str, ...], observer: RunObserver, options: RunOptions) -> RunOutcome:
    from backup_pipeline.orchestration.site_process import enter_site

    enter_site(site)
    from backup_pipeline.orchestration.build import selection_of
    from backup_pipeline.orchestration.launch import run_job
    from backup_pipeline.orchestration.names import PLAN_TAG, backup_job
    from backup_pipeline.orchestration.run_observer import watched_by
    from backup_pipeline.orchestration.run_resource import RUNS

    whole = sources == site.plan(plan).sources
    with watched_by(observer):
        return run_job(
            site.file,
            backup_job(plan),
            assets=None if whole else selection_of(site, plan, sources),
            tags={PLAN_TAG: plan, "backup_pipeline/from": "shell"},
            run_config={"resources": {RUNS: {"config": given}}} if (given := options.run_config()) else None,
        )


def _resume(site: Site, root_run_id: str, observer: RunObserver) -> RunOutcome:
    from backup_pipeline.orchestration.site_process import enter_site

    enter_site(site)
    from backup_pipeline.orchestration.launch import resume_run
    from backup_pipeline.orchestration.run_observer import watched_by

    with watched_by(observer):
        return resume_run(site.file, root_run_id)
