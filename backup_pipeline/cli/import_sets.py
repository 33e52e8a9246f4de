"""`import`: backups that other programs made become sets of a plan."""

from __future__ import annotations

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
    shown_progress,
)
from backup_pipeline.cli.paragraphs import print_hanging
from backup_pipeline.cli.tables import new_table, print_table
from backup_pipeline.errors import ExitCode, SettingsError
from backup_pipeline.rules.quantities import bytes_text, counted

if TYPE_CHECKING:
    from rich.console import Console

    from backup_pipeline.operations.importing.run import ImportOutcome
    from backup_pipeline.rules.backup_names import NamedSource

_SHOWN = 20


def import_sets(
    places: Annotated[list[Path], typer.Argument(metavar="FOLDER_OR_FILE", help="What other programs made.")],
    plan: Annotated[
        str, typer.Option("--plan", help="The plan whose sets they become; needed where the site has several.")
    ] = "",
    source: Annotated[
        str, typer.Option("--source", help="The source that all of them are of, where their names do not say it.")
    ] = "",
    timezone: Annotated[
        str, typer.Option("--timezone", help="Of times in names that say none (default: the site's).")
    ] = "",
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make sets of the backups that you have: they are copied, read to their end and counted; the originals stay.

    Known are dumps of pg_dump (plain, gzip, Zstandard, custom, directory, tar), as scripts, pg_back, borgmatic,
    pgAdmin or postgres-backup-local name and place them, tarballs, and folders of JSON per table with their checksums.
    The time comes from the name, else from the file. What lies there twice, or was imported before, is taken once. A
    dump that is cut short is refused; exit code 6 says that something was. No fingerprints were taken at the source:
    `show` says what is not known, and a drill *restores and counts* such a set instead of proving it.

    Examples: `backup-pipeline import /var/backups/pg --plan nightly --dry-run` ·
    `backup-pipeline import shop.dump --plan nightly --source shop`
    """
    from zoneinfo import available_timezones

    from backup_pipeline.operations.importing.run import ImportRequest, import_backups

    site = load(config)
    if not plan and len(site.single_plans) != 1:
        named = ", ".join(f"--plan {name}" for name in site.single_plans)
        count = counted(len(site.single_plans), "plan")
        raise SettingsError(f"No plan is named, and there are {count}.", where="--plan", remedy=f"Name one: {named}.")
    plan = plan or site.single_plans[0]
    if timezone and timezone not in available_timezones():
        raise SettingsError("No such time zone.", where="--timezone", remedy="Name one, as Europe/Berlin.")
    request = ImportRequest(plan, tuple(places), source, timezone, dry_run)
    with shown_progress(quiet=as_json) as progress:
        outcome = import_backups(site, request, progress=progress)
    if as_json:
        print_json(_document(plan, outcome, dry_run=dry_run))
    else:
        _print(plan, outcome, dry_run=dry_run)
    if outcome.refused:
        exit_with(ExitCode.CHECKS)


def _document(plan: str, outcome: ImportOutcome, *, dry_run: bool) -> dict[str, object]:
    return {
        "plan": plan,
        "dry_run": dry_run,
        "sets": [
            {
                "set": one.set_id,
                "partial": one.partial,
                "rows": one.rows,
                "size": one.size,
                "files": {
                    source: {
                        "path": str(part.path),
                        **({"part": part.part} if part.part else {}),
                        **({"inferred": outcome.inferred[part.path].why} if part.path in outcome.inferred else {}),
                        "form": next(iter(part.forms.values())),
                        "time": part.time.at.isoformat(),
                        "time_from": part.time.origin,
                        "time_zone_assumed": part.time.zone,
                    }
                    for source, part in one.parts.items()
                },
            }
            for one in outcome.made
        ],
        "known": [str(path) for path in outcome.known],
        "passed_over": [
            {
                "path": str(one.path),
                **({"part": one.part} if one.part else {}),
                "why": one.why,
                "remedy": one.remedy,
                "refused": one.refused,
            }
            for one in outcome.passed_over
        ],
    }


def _print_inferred(out: Console, outcome: ImportOutcome) -> None:
    """Say which sources were taken from names that say more than the source, and why."""
    from rich.markup import escape

    taken = {part.path for one in outcome.made for part in one.parts.values()}
    inferred: dict[NamedSource, list[str]] = {}
    for path, named in outcome.inferred.items():
        if path in taken:
            inferred.setdefault(named, []).append(path.name)
    for named, names in list(inferred.items())[:_SHOWN]:
        of = names[0] if len(names) == 1 else f"{names[0]} and {counted(len(names) - 1, 'other')}"
        print_hanging(out, "    ", f"[dim]{escape(f'{of}: taken for {named.source}, since {named.why}')}[/]")
    if inferred:
        out.print("[dim]Where that is wrong, import it by itself with --source.[/]")


def _print(plan: str, outcome: ImportOutcome, *, dry_run: bool) -> None:
    from rich.markup import escape

    out = console()
    if outcome.made:
        table = new_table(plan, "set", ">rows", ">size", "from", wrapping="from")
        for one in outcome.made:
            names = ", ".join(f"{source}: {part.label}" for source, part in one.parts.items())
            figures = ("", "") if dry_run else (f"{one.rows:,}", bytes_text(one.size))
            table.add_row(one.set_id, *figures, escape(names) + (" [dim](partial)[/]" if one.partial else ""))
        print_table(out, table, expendable=("rows", "size"))
    for refused in outcome.refused[:_SHOWN]:
        named = f"{refused.path}, database {refused.part}" if refused.part else str(refused.path)
        out.print(f"[red]not imported[/] {escape(named)}: {escape(refused.why)}")
        out.print(f"    [dim]→ {escape(refused.remedy)}[/]")
    verb = "would be imported" if dry_run else "imported"
    excluded = [one for one in outcome.passed_over if one.part and not one.refused]
    others = [one for one in outcome.passed_over if not one.part and not one.refused]
    out.print(
        f"{counted(len(outcome.made), 'set')} {verb}, {len(outcome.refused)} refused, {len(outcome.known)} known "
        f"already, {counted(len(others), 'other file')} left alone"
    )
    for other in others[:_SHOWN]:
        out.print(f"    [dim]{escape(f'{other.path} {other.why}')}[/]")
    if excluded:
        reasons = dict.fromkeys(f"{one.part} ({one.why})" for one in excluded)
        out.print(f"[dim]Databases not captured: {escape(', '.join(list(reasons)[:_SHOWN]))}.[/]")
    _print_inferred(out, outcome)
    if any(one.partial for one in outcome.made):
        out.print("[dim]A partial set has not all sources of the plan: it stays, and does not count as its backup.[/]")
    if any(part.time.zone for one in outcome.made for part in one.parts.values()):
        zone = next(part.time.zone for one in outcome.made for part in one.parts.values() if part.time.zone)
        out.print(f"Times in names that say no zone were read as {zone}.", markup=False)
    if outcome.made and not dry_run:
        same, newest = config_argument(), max(one.set_id for one in outcome.made)
        out.print(
            f"Next: backup-pipeline list {plan}{same}; backup-pipeline drill {plan}/{newest}{same}", soft_wrap=True
        )
