"""`list`: the sets of all plans or of one."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from backup_pipeline.cli.common import (
    ConfigOption,
    ElsewhereOption,
    IdentityOption,
    JsonOption,
    config_argument,
    console,
    load,
    print_json,
)
from backup_pipeline.cli.completion import complete_place
from backup_pipeline.cli.formatting import age_text
from backup_pipeline.cli.paragraphs import print_hanging
from backup_pipeline.cli.tables import new_table, print_table
from backup_pipeline.rules.quantities import bytes_text

if TYPE_CHECKING:
    from backup_pipeline.model.proof import ProofKind
    from backup_pipeline.operations.sites.foreign_backups import ForeignBackup
    from backup_pipeline.operations.status.listing import ListedSet
    from backup_pipeline.settings.site import Site

STATE_STYLES = {"complete": "green", "incomplete": "red", "damaged": "bold red", "running": "cyan"}


_FOREIGN_SHOWN = 5


def list_sets(
    plan: Annotated[
        str | None,
        typer.Argument(
            help="Only this plan's sets; VAULT: or VAULT:PLAN for copies in a vault.", autocompletion=complete_place
        ),
    ] = None,
    store: ElsewhereOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the backup sets, newest last: state, size, rows, age, checks, and whether they are verified and proven.

    A *proven* set has been restored and compared, table by table; an imported one is *restored* instead: its rows were
    counted, since nothing was recorded at its source. Incomplete sets are shown with what failed. Copies in
    a vault need the identity; without it their times, sizes and proofs are listed.

    Examples: `backup-pipeline list nightly` · `backup-pipeline list offsite: --identity FILE`
    """
    from backup_pipeline.operations.sites.foreign_backups import foreign_backups
    from backup_pipeline.operations.status.listing import list_plan

    site = load(config, store, identity)
    if plan and (":" in plan or (plan in site.settings.vaults and plan not in site.settings.plans)):
        _list_vault(site, plan if ":" in plan else f"{plan}:", as_json=as_json)
        return
    if plan and plan in site.fleets:
        plans = [one.plan for one in site.fleets[plan].members]
    else:
        plans = [plan] if plan else list(site.single_plans)
    if plan and plan not in site.fleets:
        site.plan(plan)
    now = datetime.now(UTC)
    sets = {name: list(list_plan(site, name)) for name in plans}
    if store:
        # Several plans may have written there.
        sets = {name: [one for one in found if one.known.of_plan == name] for name, found in sets.items()}
    foreign = {name: foreign_backups(site, name) for name in plans}
    if as_json:
        reported = [
            {"plan": name, "path": one.path, "dated": one.dated} for name, each in foreign.items() for one in each
        ]
        print_json({"sets": [one.as_dict(now) for found in sets.values() for one in found], "foreign": reported})
        return
    for name, found in sets.items():
        _print_plan(name, found, now)
        _print_foreign(foreign[name])
    for name, fleet in site.fleets.items() if not plan else ():
        same = config_argument()
        console().print(f"[bold]{name}[/]: a fleet of {len(fleet.members)}; backup-pipeline list {name}{same}")


def _list_vault(site: Site, place: str, *, as_json: bool) -> None:
    from rich.markup import escape

    from backup_pipeline.operations.status.vault_listing import has_identity, list_plain, list_vault

    now = datetime.now(UTC)
    if has_identity(site, place.partition(":")[0]):
        plans = list_vault(site, place)
        if as_json:
            sets = [one.as_dict(now) for found in plans for one in found.sets]
            print_json({"sets": sets, "of_other_recipients": sum(found.others for found in plans)})
            return
        for found in plans:
            _print_plan(found.place, found.sets, now)
            if found.others:
                console().print(f"  [dim]and {found.others} of other recipients than this identity's[/]")
        if not plans:
            console().print(f"[bold]{escape(place)}[/] holds no copies yet")
        return
    copies = list_plain(site, place)
    if as_json:
        print_json({"copies": [asdict(copy) for copy in copies]})
        return
    table = new_table(place, "set", "plan", ">stored", ">age", "proven", "copy")
    for copy in copies:
        age = age_text(now - copy.copied_at) if copy.copied_at else ""
        proven = "[green]yes[/]" if copy.proven else "–"
        table.add_row(
            copy.set_id, escape(copy.plan or "?"), bytes_text(copy.stored_size), age, proven, f"[dim]{copy.copy}[/]"
        )
    print_table(console(), table, expendable=("stored", "age"))
    for copy in copies:
        if copy.problem:
            console().print(f"[red]![/] {copy.set_id}  {escape(copy.problem)}")
    console().print("[dim]what the copies hold is shown with --identity FILE, or VAULT_IDENTITY_FILE[/]")


def _print_foreign(foreign: list[ForeignBackup]) -> None:
    from rich.markup import escape

    if foreign:
        shown = ", ".join(one.path for one in foreign[-_FOREIGN_SHOWN:])
        more = f" and {len(foreign) - _FOREIGN_SHOWN} older" if len(foreign) > _FOREIGN_SHOWN else ""
        console().print(
            f"  [dim]of another tool, left alone: {escape(shown)}{more}; {len(foreign)} in all, from "
            f"{foreign[0].dated:%Y-%m-%d} to {foreign[-1].dated:%Y-%m-%d}[/]",
            soft_wrap=True,
        )


def _print_plan(plan: str, found: list[ListedSet], now: datetime) -> None:
    from rich.markup import escape

    from backup_pipeline.model.proof import ProofKind

    out = console()
    if not found and ":" in plan:
        out.print(f"[bold]{plan}[/]: no copies yet")
        return
    if not found:
        out.print(f"[bold]{plan}[/]: no sets yet; backup-pipeline backup {plan}{config_argument()} makes one")
        return
    table = new_table(plan, "set", "state", ">size", ">rows", ">age", ">checks", "verified", "proven")
    for one in found:
        passed, failed = one.checks
        kinds = [one.known.purpose.value] if one.known.purpose.value != "backup" else []
        kinds += ["partial"] if one.partial else []
        kinds += ["imported"] if one.imported else []
        table.add_row(
            one.known.set_id,
            f"[{STATE_STYLES[one.state]}]{one.state}[/]" + (f" [dim]({', '.join(kinds)})[/]" if kinds else ""),
            bytes_text(one.known.size),
            f"{one.rows:,}",
            age_text(now - one.known.started_at),
            f"{passed}" + (f" [red]({failed} failed)[/]" if failed else ""),
            _outcome(one, ProofKind.VERIFICATION, holds=one.verified),
            _outcome(one, ProofKind.DRILL, holds=one.proven),
        )
    print_table(out, table, expendable=("checks", "rows", "verified", "size"))
    for one in found:
        for note in one.notes:
            mark = "[yellow]?[/]" if note.startswith("could not be drilled here") else "[red]![/]"
            print_hanging(out, f"{mark} ", f"{one.known.set_id}  {escape(note)}")


def _outcome(one: ListedSet, kind: ProofKind, *, holds: bool) -> str:
    """Return yes, failed, "not here" where this machine could not drill it, or a dash.

    A dash stands where it was never tried, or where what was found since has made it void.
    """
    if holds:
        return "[green]yes[/]"
    if kind.value == "drill" and one.restored:
        return "[green]restored[/]"
    last = one.known.last_proof(kind)
    if kind.value == "drill" and one.known.not_drilled_here and not (last and not last.passed):
        return "[yellow]not here[/]"
    return "[red]failed[/]" if last and not last.passed else "–"
