"""`status`: how the plans are doing, as text, JSON, or a page to print."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backup_pipeline.cli.common import ConfigOption, JsonOption, config_argument, console, exit_with, load, print_json
from backup_pipeline.cli.formatting import age_text
from backup_pipeline.cli.paragraphs import hanging, print_hanging
from backup_pipeline.errors import ExitCode
from backup_pipeline.rules.quantities import bytes_text, counted
from backup_pipeline.rules.ready_commands import ready_commands

if TYPE_CHECKING:
    from rich.console import Console

    from backup_pipeline.operations.status.copies import CopiesStatus
    from backup_pipeline.operations.status.listing import ListedSet
    from backup_pipeline.operations.status.plan import PlanStatus, Problem

_STANDING = {
    "good": "[bold green]good[/]",
    "attention": "[bold yellow]needs attention[/]",
    "failing": "[bold red]failing[/]",
}


def status(
    plan: Annotated[str | None, typer.Argument(help="Only this plan or fleet.")] = None,
    config: ConfigOption = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a self-contained page with pictures, to read or print.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="All figures of plans that are good, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how each plan is doing: last good and last proven set, the next backup, size, growth, and what is wrong.

    A plan is *good*, *needs attention* (warnings) or is *failing* (errors); each problem stands there with its remedy.
    Exit code 6 when a plan is failing. Of several plans those that are good have one line each; `--verbose` or a plan's
    name shows them whole.

    Examples: `backup-pipeline status` · `backup-pipeline status nightly --json` ·
    `backup-pipeline status --html status.html`
    """
    from rich.markup import escape

    from backup_pipeline.operations.status.fleets import fleet_status
    from backup_pipeline.operations.status.plan import site_status

    site = load(config)
    if plan and plan not in site.settings.fleets:
        site.plan(plan)
    now = datetime.now(UTC)
    names = [name for name in (site.single_plans if plan is None else (plan,)) if name in site.settings.plans]
    found = site_status(site, now, names)
    fleets = [fleet_status(site, name, now) for name in site.settings.fleets if plan in (None, name)]
    planned = {name for each in site.settings.plans.values() for name in each.sources}
    unplanned = [name for name in site.settings.sources if name not in planned and not site.server_of(name)]
    if html:
        from backup_pipeline.operations.status.page import is_status_page, status_page
        from backup_pipeline.system.files import write_atomically
        from backup_pipeline.system.former_files import keep_former

        page = status_page(found, now=now, site=site.folder.name, timezone=site.settings.timezone)
        if not is_status_page(html):
            keep_former(html.resolve(), now)
        write_atomically(html.resolve(), page.encode())
    if as_json:
        print_json(
            {
                "plans": [one.as_dict(now) for one in found],
                **({"fleets": [one.as_dict() for one in fleets]} if fleets else {}),
                "sources_in_no_plan": unplanned,
                "html": str(html) if html else None,
            }
        )
    else:
        out = console()
        if fleets:
            from backup_pipeline.cli.fleet_report import print_fleets

            print_fleets(fleets, whole=verbose or plan is not None)
        _print_plans(out, found, now, whole=verbose or len(found) == 1, identity=site.identity_file)
        if unplanned and not plan:
            out.print(f"[yellow]warning[/] no plan captures {escape(', '.join(unplanned))}\n")
        if html:
            out.print(f"written: {html}", markup=False, soft_wrap=True)
    if "failing" in {*(one.standing for one in found), *(one.standing for one in fleets)}:
        exit_with(ExitCode.CHECKS)


def _print_plans(out: Console, found: list[PlanStatus], now: datetime, *, whole: bool, identity: str) -> None:
    """Print every plan, the worst last, where a terminal still shows them, and how many there are of each standing."""
    ranks = list(_STANDING)
    for one in sorted(found, key=lambda each: ranks.index(each.standing)):
        if one.standing == "good" and not whole:
            proven = f"; proven {one.last_proven.known.set_id}" if one.last_proven else ""
            out.print(f"[bold]{one.plan}[/]  {_STANDING['good']}")
            print_hanging(out, "  ", f"{_set_text(one.last_good, now)}{proven}")
            out.print()
        else:
            _print(out, one, now, identity)
    if len(found) > 1:
        counts = {name: sum(one.standing == name for one in found) for name in _STANDING}
        out.print(f"{len(found)} plans: " + ", ".join(f"{n} {_STANDING[name]}" for name, n in counts.items() if n))


def _print(out: Console, one: PlanStatus, now: datetime, identity: str) -> None:
    growth = f", {one.trend.per_month_percent:+.1f} % in 30 days" if one.trend else ""
    size = bytes_text(one.last_good.known.size) if one.last_good else "–"
    free = f", {bytes_text(one.free)} free" if one.free is not None else ""
    sets = counted(len(one.sets), "set")
    following = "by hand (no schedule)"
    if one.next_backup:
        following = f"in {age_text(one.next_backup - now)} ({one.next_backup:%Y-%m-%d %H:%M} UTC)"
    lines = [
        f"[bold]{one.plan}[/]  {_STANDING[one.standing]}",
        f"  last good    {_set_text(one.last_good, now)}",
        f"  last proven  {_set_text(one.last_proven, now)}",
        f"  next         {following}",
        hanging(out, "  size         ", f"{size}{growth}; {sets}, {bytes_text(one.size)}{free}"),
    ]
    for copies in one.copies:
        lines += _copies_lines(out, copies, now)
    for number, line in enumerate(_rules_texts(one)):
        lines.append(hanging(out, " " * 15 if number else "  3-2-1-1-0    ", line))
    for problem in one.problems:
        lines += _problem_lines(out, one, problem, identity)
    out.print("\n".join(lines) + "\n", soft_wrap=True)


def _problem_lines(out: Console, one: PlanStatus, problem: Problem, identity: str) -> Iterator[str]:
    from rich.markup import escape

    style = "red" if problem.severity == "error" else "yellow"
    yield hanging(out, f"  [{style}]{problem.severity}[/] ", escape(problem.what))
    for known in problem.acknowledged(one.incidents):
        yield hanging(out, "    ", f"[dim]{escape(known)}[/]")
    if problem.remedy:
        remedy = ready_commands(problem.remedy, config=config_argument(), identity=identity)
        yield hanging(out, "    [dim]→[/] ", f"[dim]{escape(remedy)}[/]")


def _copies_lines(out: Console, copies: CopiesStatus, now: datetime) -> Iterator[str]:
    from rich.markup import escape

    newest = copies.newest
    age = f"{newest.set_id}, {age_text(now - newest.at)} ago" if newest else "[red]none[/]"
    stored = copies.record.stored_bytes
    size = f", vault {bytes_text(stored)}" if stored is not None else ""
    growth = f" ({copies.growth / 1e6:+,.1f} MB in 30 days)" if copies.growth is not None else ""
    counts = f"{len(copies.copies)}, newest {age}{size}{growth}"
    yield hanging(out, "  copies       ", f"[bold]{copies.vault}[/]: {counts}")
    known = copies.record.inspected_at
    asked = f"asked {age_text(now - known)} ago" if known else "never asked"
    restored = f" ({copies.restored})" if copies.restored else ""
    proven = f"{copies.proven[0]} proven from there{restored}" if copies.proven else "[yellow]none proven from there[/]"
    yield hanging(out, " " * 15, f"{proven}; {escape(copies.lock_text(now))} [dim]({asked})[/]")


def _rules_texts(one: PlanStatus) -> list[str]:
    from rich.markup import escape

    if not one.copies:
        missing = [answer.rule for answer in one.answers if not answer.holds]
        return [f"no: {', '.join(missing)} missing [dim]→ give the plan copies in a vault (docs/vaults.md)[/]"]
    lines = []
    for answer in one.answers:
        mark = "[green]yes[/]" if answer.holds else "[yellow]no[/]"
        remedy = "" if answer.holds else f" [dim]→ {escape(answer.remedy)}[/]"
        lines.append(f"{answer.rule}: {mark}, {escape(answer.what)}{remedy}")
    return lines


def _set_text(one: ListedSet | None, now: datetime) -> str:
    return f"{one.known.set_id}, {age_text(now - one.known.started_at)} ago" if one else "[red]none[/]"
