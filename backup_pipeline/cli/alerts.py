"""`alerts test`, `alerts list`, `alerts check`: delivery and open incidents."""

from __future__ import annotations

import typer

from backup_pipeline.cli.common import ConfigOption, JsonOption, console, exit_with, load, print_json
from backup_pipeline.cli.incidents import EverythingOption, print_incidents
from backup_pipeline.errors import ExitCode

group = typer.Typer(help="Incidents, and the messages that report them to people.", no_args_is_help=True)


@group.command("test")
def send_test(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Send one message to every address, and say which of them took it. Exit code 1 when one did not."""
    from backup_pipeline.operations.alerts import send as alerts

    deliveries = alerts.send_test(load(config))
    if as_json:
        print_json(
            [{"service": item.service, "delivered": item.delivered, "problem": item.problem} for item in deliveries]
        )
    else:
        for item in deliveries:
            console().print(
                f"{item.service}: {'sent' if item.delivered else 'not sent: ' + item.problem}", markup=False
            )
    if not all(item.delivered for item in deliveries):
        exit_with(ExitCode.FAILED)


@group.command("list")
def list_incidents(
    config: ConfigOption = None,
    everything: EverythingOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what is wrong now: the same as `backup-pipeline incidents`."""
    print_incidents(config, everything=everything, as_json=as_json)


@group.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Inspect every plan now and report what is new. For cron, where no daemon runs. Exit code 6 while one is open."""
    from backup_pipeline.operations.alerts.send import evaluate_incidents
    from backup_pipeline.operations.status.incident_state import read_state

    site = load(config)
    report = evaluate_incidents(site)
    state = read_state(site)
    if as_json:
        print_json({"told": report.reported, "open": list(state.open), "undelivered": len(state.notices)})
    else:
        console().print(f"{len(state.open)} open, {report.reported} reported now.")
    if state.open:
        exit_with(ExitCode.CHECKS)
