"""`env setup` and `env check`: the environment of a site, written and judged."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from backup_pipeline.cli.common import ConfigOption, DryRunOption, JsonOption, console, exit_with, load, print_json
from backup_pipeline.errors import ExitCode, SettingsError

if TYPE_CHECKING:
    from backup_pipeline.operations.env_setup import EnvSetup
    from backup_pipeline.rules.environment import EnvironmentFault

_SHOWN = {"ERROR": "[bold red]error  [/]", "WARN": "[bold yellow]warning[/]"}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Write and check the environment: variables, secrets, servers, disks.", no_args_is_help=True
    )
    group.command("setup")(setup)
    group.command("check")(check)
    app.add_typer(group, name="env", rich_help_panel="Keep in order")


def setup(config: ConfigOption = None, dry_run: DryRunOption = False, as_json: JsonOption = False) -> None:
    """Write `.env` (mode 0600) with generated secrets. What is set stays; comments and order stay.

    Passwords are made at random; JWT_SECRET and the ANON_KEY and SERVICE_ROLE_KEY that match it are made as Supabase
    wants them. Connection strings are left for you to fill in, and named.
    """
    from backup_pipeline.operations.env_setup import setup_environment

    done = setup_environment(load(config), now=datetime.now(UTC), dry_run=dry_run)
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
            }
        )
    else:
        _tell_setup(done, dry_run=dry_run)


def _tell_setup(done: EnvSetup, *, dry_run: bool) -> None:
    from rich.markup import escape

    out = console()
    verb = "would be " if dry_run else ""
    out.print(f"[bold]{escape(str(done.file))}[/] {verb}{'written' if done.created else 'completed'}")
    for name in done.generated:
        out.print(f"  [green]made[/]     {name}")
    for name in done.kept:
        out.print(f"  [dim]kept     {name}[/]")
    for name, why in done.left:
        out.print(f"  [yellow]left[/]     {name}: {escape(why)}")
    for name, what in done.to_fill:
        out.print(f"  [yellow]fill in[/]  {name}: {escape(what)}")
    out.print("Next: fill in what is named, then run backup-pipeline env check" if done.to_fill else
              "Next: backup-pipeline env check")  # fmt: skip


def check(
    config: ConfigOption = None,
    production: Annotated[
        bool, typer.Option("--production", help="Weak secrets and open file modes are errors.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List everything that is wrong with the environment: what, where, and the remedy. Exit code 3 if there are errors.

    Looks at backup.yaml, variables and secrets, servers (reachable, client version, clock), stores (writable, private,
    space), sources on disk, programs, and Dagster's folder.
    """
    from backup_pipeline.operations.env_check import check_environment

    try:
        site = load(config)
    except SettingsError as error:
        if as_json:
            print_json({"ok": False, "faults": [{"severity": "ERROR", "where": error.where, "what": error.what,
                                                 "remedy": error.remedy}]})  # fmt: skip
            exit_with(ExitCode.SETTINGS)
        raise
    faults = check_environment(site, now=datetime.now(UTC), production=production)
    errors = sum(fault.severity.value == "ERROR" for fault in faults)
    if as_json:
        print_json({"ok": not errors, "production": production, "faults": [fault.as_dict() for fault in faults]})
    else:
        _tell_faults(faults, errors)
    if errors:
        exit_with(ExitCode.SETTINGS)


def _tell_faults(faults: list[EnvironmentFault], errors: int) -> None:
    from rich.markup import escape

    out = console()
    for fault in faults:
        out.print(f"{_SHOWN[fault.severity.value]} [bold]{escape(fault.where)}[/]: {escape(fault.what)}")
        out.print(f"        [dim]→ {escape(fault.remedy)}[/]")
    if not faults:
        out.print("[green]Everything is as it should be.[/]")
    else:
        out.print(f"{errors} {'error' if errors == 1 else 'errors'}, {len(faults) - errors} warnings")
