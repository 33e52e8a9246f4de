"""`cleanup`: what retention keeps and removes, and why; then the removal."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backup_pipeline.cli.common import (
    ConfigOption,
    DryRunOption,
    JsonOption,
    console,
    exit_with,
    load,
    print_json,
    shown_progress,
)
from backup_pipeline.cli.tables import new_table, print_table
from backup_pipeline.errors import ExitCode, RefusedError
from backup_pipeline.rules.quantities import bytes_text, counted

if TYPE_CHECKING:
    from backup_pipeline.operations.retention.cleanup import CleanupResult


def clean_up(
    plan: Annotated[str | None, typer.Argument(help="Only this plan.")] = None,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before removing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove the sets that retention lets go. Every set is listed with the reason for which it stays or goes.

    Copies in vaults follow the retention of `copies`: those that go are marked, and removed 72 hours later.

    Never removed: the last complete, the last verified and the last proven set, bad sets, and anything at all while
    the newest set is bad or a set is newer than the clock (exit code 8).

    Examples: `backup-pipeline cleanup --dry-run` · `backup-pipeline cleanup nightly --yes`
    """
    from backup_pipeline.cli.copies_report import cleaning_document, cleanings, print_cleaning, print_errors
    from backup_pipeline.operations.retention.cleanup import cleanup

    site = load(config)
    if plan:
        site.plan(plan)
    plans = [plan] if plan else list(site.settings.plans)
    now = datetime.now(UTC)
    results = [cleanup(site, name, now=now, dry_run=True) for name in plans]
    copies, errors = cleanings(site, plans, dry_run=True, quiet=as_json)
    if not as_json:
        for result in results:
            _print(result)
        for vault in copies:
            print_cleaning(vault, dry_run=True)
    count = sum(len(result.verdict.removed) for result in results)
    leaving = sum(len(one.verdict.removed) - len(one.forbidden) for vault in copies for one in vault.plans)
    chunks = any(vault.cleaned.removed_copies or vault.cleaned.removed_chunks for vault in copies)
    if not dry_run and (count or leaving):
        _confirm(count, leaving, yes=yes, as_json=as_json)
    if not dry_run and count:
        with shown_progress(quiet=as_json) as progress:
            results = [cleanup(site, name, now=datetime.now(UTC), progress=progress) for name in plans]
        if not as_json:
            for result in results:
                _print_done(result)
    # What was marked long ago goes without a question: it was asked when it was marked.
    if not dry_run and (leaving or chunks):
        copies, errors = cleanings(site, plans, dry_run=False, quiet=as_json)
        if not as_json:
            for vault in copies:
                print_cleaning(vault, dry_run=False)
    print_errors(errors)
    if as_json:
        vaults = [cleaning_document(vault) for vault in copies]
        failed = [error.as_dict() for error in errors]
        print_json(
            {"dry_run": dry_run, "plans": [_as_dict(one) for one in results], "vaults": vaults, "errors": failed}
        )
    if errors or any(result.failed for result in results):
        exit_with(ExitCode.STORE)
    if any(result.refused for result in results) or any(one.verdict.held for v in copies for one in v.plans):
        exit_with(ExitCode.REFUSED)


def _confirm(count: int, leaving: int, *, yes: bool, as_json: bool) -> None:
    if yes:
        return
    what = f"{counted(count, 'set')} would be removed" + (f" and {leaving} copies in vaults marked" if leaving else "")
    if as_json or not sys.stdin.isatty():
        raise RefusedError(
            f"{what}, and nobody can be asked here.",
            where="cleanup",
            remedy="Add --yes to remove them, or --dry-run to list only.",
        )
    copies = f", and mark {leaving} copies in vaults for removal" if leaving else ""
    typer.confirm(f"Remove {counted(count, 'set')}{copies}?", abort=True)


def _print(result: CleanupResult) -> None:
    from rich.markup import escape

    out = console()
    verdict = result.verdict
    if not verdict.decisions:
        out.print(f"[bold]{result.plan}[/]: no sets")
        return
    table = new_table(result.plan, "set", "", "kind", ">size", "why", wrapping="why")
    for decision in reversed(verdict.decisions):
        table.add_row(
            decision.set_id,
            "[green]keep[/]" if decision.keep else "[red]remove[/]",
            decision.set_class.value,
            bytes_text(result.sizes[decision.set_id]),
            escape("; ".join(decision.reasons)),
        )
    print_table(out, table)
    if verdict.refusal:
        out.print(f"[yellow]nothing is removed[/]: {escape(verdict.refusal)}")
    size = sum(result.sizes[decision.set_id] for decision in verdict.removed)
    out.print(f"{len(verdict.kept)} kept, {len(verdict.removed)} to remove ({bytes_text(size)})\n")


def _print_done(result: CleanupResult) -> None:
    from rich.markup import escape

    out = console()
    out.print(
        f"[bold]{result.plan}[/]: {counted(len(result.removed), 'set')} removed, {bytes_text(result.freed)} freed"
    )
    for set_id, why in (*result.failed, *result.spared):
        out.print(f"  [yellow]{set_id} stays[/]: {escape(why)}")


def _as_dict(result: CleanupResult) -> dict[str, Any]:
    return {
        "plan": result.plan,
        "refusal": result.verdict.refusal or None,
        "sets": [
            {
                "set": decision.set_id,
                "keep": decision.keep,
                "kind": decision.set_class.value,
                "reasons": list(decision.reasons),
                "size": result.sizes[decision.set_id],
            }
            for decision in result.verdict.decisions
        ],
        "removed": list(result.removed),
        "failed": [{"set": set_id, "why": why} for set_id, why in result.failed],
        "spared": [{"set": set_id, "why": why} for set_id, why in result.spared],
        "freed": result.freed,
    }
