"""`alerts test`, `alerts list`, `alerts check`: delivery and open incidents."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from backup_pipeline.cli.common import ConfigOption, JsonOption, console, exit_with, load, print_json
from backup_pipeline.cli.formatting import age_text
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
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also those that are over.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what is wrong now, with reason and remedy, as it is remembered. Nothing is inspected anew."""
    from backup_pipeline.operations.status.incident_state import read_state

    state = read_state(load(config))
    shown = (*(state.closed if everything else ()), *state.open)
    if as_json:
        print_json({"incidents": list(shown), "undelivered": len(state.notices), "inspected_at": state.inspected_at})
        return
    out = console()
    if not shown:
        out.print("No incidents.")
    if state.inspected_at is None:
        out.print("The stores were never inspected: backup-pipeline alerts check does it, and `up` every five minutes.")
    else:
        age = age_text(datetime.now(UTC) - state.inspected_at)
        out.print(f"The stores were last inspected {age} ago, {state.inspected_at:%Y-%m-%d %H:%M} UTC.")
    for incident in shown:
        subject = f"{incident.plan}: " if incident.plan else ""
        until = f" until {incident.closed_at:%Y-%m-%d %H:%M}" if incident.closed_at else ""
        out.print(f"{incident.opened_at:%Y-%m-%d %H:%M}{until}  {subject}{incident.what}", markup=False)
        for name, text in (("reason", incident.reason), ("remedy", incident.remedy), ("link", incident.link)):
            if text:
                out.print(f"    {name:<7} {text}", markup=False)
    if state.notices:
        out.print(f"{len(state.notices)} messages wait to be delivered.")


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
