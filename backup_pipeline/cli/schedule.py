"""`schedule install`, `remove`, `show`: the plans in cron or systemd, for machines without Dagster's daemon."""

from __future__ import annotations

import shutil
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
    load,
    print_json,
)

if TYPE_CHECKING:
    from backup_pipeline.operations.environment.schedule import Scheduled

KeeperOption = Annotated[
    bool | None,
    typer.Option("--systemd/--cron", help="systemd timers or crontab lines (default: cron where it is installed)."),
]


group = typer.Typer(help="Run the plans by cron or systemd, on machines where `up` does not run.", no_args_is_help=True)


def _systemd(wanted: bool | None) -> bool:
    if wanted is not None:
        return wanted
    return shutil.which("crontab") is None and Path("/run/systemd/system").is_dir()


@group.command()
def install(
    config: ConfigOption = None,
    systemd: KeeperOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Install the schedules of all plans, and the check that reports overdue backups. Again: brings them up to date.

    Only the part of this site is written; every other line of the crontab stays, and the former one is kept as a copy.
    """
    from backup_pipeline.operations.environment.schedule import set_cron, set_systemd

    site = load(config)
    done = (set_systemd if _systemd(systemd) else set_cron)(site, datetime.now(UTC), dry_run=dry_run)
    _report(done, "would be installed" if dry_run else "installed", as_json=as_json)


@group.command()
def remove(
    config: ConfigOption = None,
    systemd: KeeperOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove the schedules of this site; nothing else is touched."""
    from backup_pipeline.operations.environment.schedule import set_cron, set_systemd

    site = load(config)
    done = (set_systemd if _systemd(systemd) else set_cron)(site, datetime.now(UTC), remove=True, dry_run=dry_run)
    _report(done, "would be removed" if dry_run else "removed", as_json=as_json)


@group.command()
def show(config: ConfigOption = None, systemd: KeeperOption = None, as_json: JsonOption = False) -> None:
    """Show what is installed for this site, and whether it is what backup.yaml says now."""
    from backup_pipeline.operations.environment.schedule import show_cron, show_systemd

    found = (show_systemd if _systemd(systemd) else show_cron)(load(config))
    if as_json:
        _report(found, "", as_json=True)
        return
    out = console()
    if not found.installed:
        out.print(f"Nothing is installed in {found.keeper}: backup-pipeline schedule install{config_argument()}")
        return
    out.print(found.installed.rstrip("\n"), markup=False, soft_wrap=True)
    if not found.current:
        out.print(
            "[yellow]Not what backup.yaml says now[/]: "
            f"backup-pipeline schedule install{config_argument()} brings it up to date"
        )
    _warn(found)


def _report(done: Scheduled, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "keeper": done.keeper,
                "installed": done.installed,
                "current": done.current,
                "changed": done.changed,
                "former": [str(path) for path in done.former],
                "warnings": done.warnings,
            }
        )
        return
    out = console()
    if done.installed:
        out.print(done.installed.rstrip("\n"), markup=False, soft_wrap=True)
    out.print(f"{what} in {done.keeper}" if done.changed else f"nothing to change in {done.keeper}")
    for path in done.former:
        out.print(f"former: {path}", markup=False, soft_wrap=True)
    _warn(done)


def _warn(done: Scheduled) -> None:
    for text in done.warnings:
        console().print(f"[yellow]warning[/] {text}", soft_wrap=True)
