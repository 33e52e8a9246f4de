"""`env setup` and `env check`: the environment of a site, written and judged."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backup_pipeline.cli.common import (
    ConfigOption,
    DryRunOption,
    JsonOption,
    config_argument,
    console,
    exit_with,
    load,
    print_json,
)
from backup_pipeline.errors import ExitCode, SettingsError

if TYPE_CHECKING:
    from backup_pipeline.operations.environment.setup import EnvSetup
    from backup_pipeline.rules.environment import EnvironmentFault

_SHOWN = {"ERROR": "[bold red]error  [/]", "WARN": "[bold yellow]warning[/]", "SKIPPED": "[bold]skipped[/]"}


group = typer.Typer(help="Write and check the environment: variables, secrets, servers, disks.", no_args_is_help=True)


@group.command()
def setup(
    config: ConfigOption = None,
    supabase: Annotated[
        bool, typer.Option("--supabase", help="This site hosts Supabase itself: make its passwords and keys too.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write `.env` (mode 0600). What is set is never changed; the former file is kept; comments and order stay.

    Connection strings are left for you to fill in, and named. For a self-hosted Supabase, passwords are made at random,
    and JWT_SECRET with the ANON_KEY and SERVICE_ROLE_KEY that match it. Weak values are reported with how to rotate
    them safely. In a folder without backup.yaml, a template of it is written first, with its schema, to be edited.
    """
    from backup_pipeline.operations.environment.setup import setup_environment

    if (folder := _new_site(config)) is not None:
        _begin(folder, config, dry_run=dry_run, as_json=as_json)
        return
    done = setup_environment(load(config), now=datetime.now(UTC), dry_run=dry_run, supabase=supabase)
    if as_json:
        print_json(
            {
                "file": str(done.file),
                "created": done.created,
                "dry_run": dry_run,
                "generated": list(done.generated),
                "kept": list(done.kept),
                "to_fill": [name for name, _ in done.to_fill],
                "left": dict(done.left),
                "weak": [{"variable": name, "what": what, "remedy": how} for name, what, how in done.weak],
                "former": str(done.former) if done.former else None,
            }
        )
    else:
        _report_setup(done, dry_run=dry_run)


def _new_site(config: Path | None) -> Path | None:
    """Return the folder that has no settings file yet; None where there is one, or another name than backup.yaml."""
    from backup_pipeline.settings.loader import CONFIG_VARIABLE, DEFAULT_NAME

    if config is None and os.environ.get(CONFIG_VARIABLE):
        return None
    place = config or Path(DEFAULT_NAME)
    folder = place if place.is_dir() else place.parent
    named = place.is_dir() or place.name == DEFAULT_NAME
    return folder if named and not (folder / DEFAULT_NAME).exists() else None


def _begin(folder: Path, config: Path | None, *, dry_run: bool, as_json: bool) -> None:
    from rich.markup import escape

    from backup_pipeline.operations.environment.site_files import begin_site

    written = begin_site(folder.absolute(), dry_run=dry_run)
    if as_json:
        print_json({"site": str(folder.absolute()), "written": [str(path) for path in written], "dry_run": dry_run})
        return
    out = console()
    for path in written:
        out.print(f"[bold]{escape(str(path))}[/] {'would be ' if dry_run else ''}written", soft_wrap=True)
    same = f" --config {config}" if config else ""
    out.print(
        f"Next: keep what you have in backup.yaml and delete the rest, then run backup-pipeline env setup{same}",
        markup=False,
        soft_wrap=True,
    )


def _report_setup(done: EnvSetup, *, dry_run: bool) -> None:
    from rich.markup import escape

    out = console()
    verb = "would be " if dry_run else ""
    out.print(f"[bold]{escape(str(done.file))}[/] {verb}{'written' if done.created else 'completed'}")
    if done.former:
        out.print(f"  [dim]former   {escape(str(done.former))}[/]")
    for name in done.generated:
        out.print(f"  [green]made[/]     {name}")
    for name in done.kept:
        out.print(f"  [dim]kept     {name}[/]")
    for name, why in done.left:
        out.print(f"  [yellow]left[/]     {name}: {escape(why)}")
    for name, what in done.to_fill:
        out.print(f"  [yellow]fill in[/]  {name}: {escape(what)}")
    for name, what, how in done.weak:
        out.print(f"  [yellow]weak[/]     {name}: {escape(what)}; not changed, since something may run with it")
        out.print(f"           [dim]→ {escape(how)}[/]")
    check_it = f"backup-pipeline env check{config_argument()}"
    next_step = f"fill in what is named, then run {check_it}" if done.to_fill else check_it
    out.print(f"Next: {escape(next_step)}", soft_wrap=True)


@group.command()
def check(
    config: ConfigOption = None,
    production: Annotated[
        bool, typer.Option("--production", help="Weak secrets and open file modes are errors.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List everything that is wrong with the environment: what, where, and the remedy. Exit code 3 if there are errors.

    Checks backup.yaml, variables and secrets, servers (reachable, client version, clock), stores (writable, private,
    space), sources on disk, programs, and Dagster's folder.
    """
    from backup_pipeline.operations.environment.check import check_environment

    try:
        site = load(config)
    except SettingsError as error:
        if as_json:
            print_json(
                {
                    "ok": False,
                    "faults": [{"severity": "ERROR", "where": error.where, "what": error.what, "remedy": error.remedy}],
                }
            )
            exit_with(ExitCode.SETTINGS)
        raise
    faults = check_environment(site, now=datetime.now(UTC), production=production)
    errors = sum(fault.severity.value == "ERROR" for fault in faults)
    if as_json:
        print_json({"ok": not errors, "production": production, "faults": [fault.as_dict() for fault in faults]})
    else:
        _report_faults(faults, errors)
    if errors:
        exit_with(ExitCode.SETTINGS)


def _report_faults(faults: list[EnvironmentFault], errors: int) -> None:
    from rich.markup import escape

    out = console()
    for fault in faults:
        what = f"{_SHOWN[fault.as_dict()['severity']]} [bold]{escape(fault.where)}[/]: {escape(fault.what)}"
        out.print(f"{what}\n        [dim]→ {escape(fault.remedy)}[/]")
    skipped = sum(fault.skipped for fault in faults)
    if len(faults) == skipped:
        inspected = f"[green]Everything that was inspected is as it should be[/], {skipped} skipped."
        out.print(inspected if skipped else "[green]Everything is as it should be.[/]")
        return
    warnings = len(faults) - errors - skipped
    counts = f"{errors} {'error' if errors == 1 else 'errors'}, {warnings} {'warning' if warnings == 1 else 'warnings'}"
    out.print(counts + (f", {skipped} skipped" if skipped else ""))
