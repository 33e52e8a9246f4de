"""`incidents`, `incidents ack`, `incidents withdraw`: what is wrong now, and a person's word that it is known."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from backup_pipeline.cli.common import ConfigOption, JsonOption, config_argument, console, load, print_json
from backup_pipeline.cli.completion import complete_incident
from backup_pipeline.cli.formatting import age_text
from backup_pipeline.rules.acknowledgements import DEFAULT_QUIET, LONGEST_QUIET

if TYPE_CHECKING:
    from backup_pipeline.model.incident import Incident

EverythingOption = Annotated[bool, typer.Option("--all", "-a", help="Also those that are over.")]
_KeysArgument = Annotated[
    list[str],
    typer.Argument(metavar="KEY", help="Key of an incident, as listed.", autocompletion=complete_incident),
]


group = typer.Typer(help="What is wrong now, and acknowledging it.", invoke_without_command=True)


@group.callback()
def _list(
    context: typer.Context,
    config: ConfigOption = None,
    everything: EverythingOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what is wrong now, with reason, remedy and key, as it is remembered. Nothing is inspected anew.

    Examples: `backup-pipeline incidents` · `backup-pipeline incidents ack overdue:nightly --reason "disk is ordered"`
    """
    if context.invoked_subcommand is None:
        print_incidents(config, everything=everything, as_json=as_json)


@group.command()
def ack(
    keys: _KeysArgument,
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who (default: the user of this machine).")] = "",
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why nothing is done now, or what is.")] = "",
    days: Annotated[
        int, typer.Option("--days", min=1, max=LONGEST_QUIET.days, help="For how long nothing is sent.")
    ] = DEFAULT_QUIET.days,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Acknowledge open incidents: they stay listed and count, and no alert is sent unless one becomes worse.

    After that time what is still open is reported again.

    Examples: `backup-pipeline incidents ack overdue:nightly --days 3 --by anna --reason "disk is ordered"`
    """
    from backup_pipeline.operations.alerts.acknowledge import acknowledge
    from backup_pipeline.system.files import user_name

    found = acknowledge(
        load(config),
        keys,
        by=by or user_name(),
        now=datetime.now(UTC),
        quiet=timedelta(days=days),
        reason=reason,
    )
    _report(found, as_json=as_json)


@group.command()
def withdraw(keys: _KeysArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Take acknowledgements back: the incidents are reported again."""
    from backup_pipeline.operations.alerts.acknowledge import withdraw as take_back

    _report(take_back(load(config), keys, now=datetime.now(UTC)), as_json=as_json)


def print_incidents(config: ConfigOption, *, everything: bool, as_json: bool) -> None:
    """Print what is open, and with `everything` the last ones that are over."""
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
    _print(shown)
    if any(incident.closed_at is None and incident.acknowledged is None for incident in shown):
        out.print(f"To acknowledge one: backup-pipeline incidents ack KEY{config_argument()}", markup=False)
    if state.notices:
        out.print(f"{len(state.notices)} messages wait to be delivered.")


def _report(found: Iterable[Incident], *, as_json: bool) -> None:
    if as_json:
        print_json({"incidents": list(found)})
    else:
        _print(found)


def _print(incidents: Iterable[Incident]) -> None:
    out = console()
    for incident in incidents:
        subject = f"{incident.plan}: " if incident.plan else ""
        until = f" until {incident.closed_at:%Y-%m-%d %H:%M}" if incident.closed_at else ""
        known = incident.acknowledged
        style = "dim" if known or incident.closed_at else None
        out.print(f"{incident.opened_at:%Y-%m-%d %H:%M}{until}  {subject}{incident.what}", markup=False, style=style)
        lines = [("reason", incident.reason), ("remedy", incident.remedy), ("link", incident.link)]
        lines += [
            ("key", incident.key if incident.closed_at is None else ""),
            ("known", known.sentence if known else ""),
        ]
        for name, text in lines:
            if text:
                out.print(f"    {name:<7} {text}", markup=False, style=style)
