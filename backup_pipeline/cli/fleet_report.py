"""Fleets on the command line: the backup of all members, and one line for each of them in `status`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from backup_pipeline.cli.common import config_argument, console
from backup_pipeline.cli.tables import new_table, print_table
from backup_pipeline.model.fleet_run import MemberOutcome
from backup_pipeline.rules.quantities import bytes_text

if TYPE_CHECKING:
    from backup_pipeline.operations.fleets.run import FleetOutcome
    from backup_pipeline.operations.status.fleets import FleetStatus
    from backup_pipeline.settings.site import Site

_SHOWN = 20


def back_up_fleet(
    site: Site, fleet: str, *, unfinished: bool = False, window: timedelta | None = None, as_json: bool = False
) -> dict[str, Any]:
    """Run a fleet and report it; return the document of the run, with its exit code."""
    from backup_pipeline.operations.fleets.run import FleetRequest, run_fleet
    from backup_pipeline.operations.fleets.send import notify_fleet

    out = console()

    def ended(outcome: MemberOutcome, done: int, count: int) -> None:
        if not as_json:
            mark = "[green]sealed[/]" if outcome.state == "sealed" else "[red]failed[/]"
            out.print(f"{mark} {outcome.plan}  [dim]{outcome.seconds:.1f} s, {done} of {count}[/]", highlight=False)

    done = run_fleet(site, FleetRequest(fleet, unfinished=unfinished, window=window), ended)
    notify_fleet(site, fleet, done)
    if not as_json:
        _print(fleet, done)
    return fleet_document(fleet, done)


def run_member(site: Site, plan: str, *, as_json: bool = False) -> dict[str, Any]:
    """Back up one member of a fleet by itself, outside of the fleet's window and limits."""
    from backup_pipeline.operations.fleets.member import back_up_member

    done = back_up_member(site, plan, "")
    if not as_json:
        out = console(stderr=done.state == "failed")
        text = f"sealed {plan}/{done.set_id}, {bytes_text(done.size)} in {done.seconds:.1f} s"
        out.print(text if done.state == "sealed" else f"error {done.what}", markup=False, soft_wrap=True)
        if done.state == "sealed" and done.what:
            out.print(done.what, markup=False, soft_wrap=True)
        if done.remedy:
            out.print(f"remedy {done.remedy}", markup=False, soft_wrap=True)
    return done.model_dump(mode="json")


def fleet_document(fleet: str, done: FleetOutcome) -> dict[str, Any]:
    """Return what a run of a fleet did, for `--json`."""
    return {
        "fleet": fleet,
        "exit_code": int(done.exit_code),
        "closes": done.closes.isoformat() if done.closes else None,
        "members": [one.model_dump(mode="json") for one in done.outcomes],
        "drilled": [one.model_dump(mode="json") for one in done.drilled],
        "faults": [{"where": where, "what": what} for where, what in done.faults],
        "gone": [one.plan for one in done.gone],
    }


def _print(fleet: str, done: FleetOutcome) -> None:
    from rich.markup import escape

    out = console()
    failed, postponed, sealed = (done.of_state(state) for state in ("failed", "postponed", "sealed"))
    wrong = [*failed, *(each for each in (*sealed, *done.drilled) if each.what)]
    for one in wrong[:_SHOWN]:
        out.print(f"[red]{one.plan}[/] {escape(one.what)}", soft_wrap=True)
        if one.remedy:
            out.print(f"    [dim]→ {escape(one.remedy)}[/]", soft_wrap=True)
    for where, what in done.faults[:_SHOWN]:
        out.print(f"[red]list of members[/] {escape(where)}: {escape(what)}", soft_wrap=True)
    if postponed:
        names = ", ".join(one.plan for one in postponed[:_SHOWN]) + (", …" if len(postponed) > _SHOWN else "")
        out.print(f"[yellow]postponed[/], first next time: {names}", soft_wrap=True)
    if done.gone:
        names = ", ".join(one.plan for one in done.gone[:_SHOWN])
        out.print(f"[dim]in the list no more, their sets stay: {names}[/]", soft_wrap=True)
    size = bytes_text(sum(one.size for one in sealed))
    out.print(f"[bold]{fleet}[/]: {len(sealed)} sealed ({size}), {len(failed)} failed, {len(postponed)} postponed")
    if done.drilled:
        proven = sum(one.proven_at is not None for one in done.drilled)
        out.print(f"{proven} of {len(done.drilled)} drilled members are proven")
    if failed or postponed:
        again = f"backup-pipeline backup {fleet} --unfinished{config_argument()}"
        out.print(f"[dim]those alone again: {again}[/]", soft_wrap=True)


def print_fleets(found: Sequence[FleetStatus], *, whole: bool) -> None:
    """Print each fleet in a few lines; with `whole` a line for each member, the worst last."""
    from rich.markup import escape

    out = console()
    for fleet in found:
        out.print(f"[bold]{fleet.name}[/]  {_STANDING[fleet.standing]}  {fleet.sentence}", soft_wrap=True)
        for problem in fleet.problems:
            style = "red" if problem.severity == "error" else "yellow"
            out.print(f"  [{style}]{problem.severity}[/] {escape(problem.what)}", soft_wrap=True)
            if problem.remedy:
                out.print(f"    [dim]→ {escape(problem.remedy)}[/]", soft_wrap=True)
        if whole:
            table = new_table(fleet.name, "member", "state", "newest set", ">size", "what", wrapping="what")
            for one in fleet.members:
                table.add_row(
                    one.plan,
                    f"[{_STYLES[one.state]}]{one.state}[/]",
                    one.newest or "–",
                    bytes_text(one.size) if one.size else "",
                    escape(one.what),
                )
            print_table(out, table, expendable=("size", "what"))
        out.print()


_STANDING = {
    "good": "[bold green]good[/]",
    "attention": "[bold yellow]needs attention[/]",
    "failing": "[bold red]failing[/]",
}
_STYLES = {"good": "green", "gone": "dim", "postponed": "yellow", "overdue": "red", "failed": "red", "never": "red"}
