"""Copies on the command line: those that `backup` makes after the seal, and what cleaning decides on them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from backup_pipeline.cli.common import config_argument, console, shown_progress
from backup_pipeline.errors import BackupSystemError, ValidationError
from backup_pipeline.rules.quantities import bytes_text

if TYPE_CHECKING:
    from backup_pipeline.model.set_id import SetId
    from backup_pipeline.operations.copies.retention import CopiesVerdict, VaultCleaning
    from backup_pipeline.orchestration.launch import RunOutcome
    from backup_pipeline.settings.site import Site


def copy_after_seal(site: Site, plan: str, *, as_json: bool) -> list[dict[str, Any]]:
    """Copy what the plan's vaults lack and return what became of each set, as `--json` has it."""
    if not site.plan(plan).copies:
        return []
    from backup_pipeline.operations.alerts.send import notify_copies
    from backup_pipeline.operations.copies.copying import missing_copies

    results = []
    for entry in site.plan(plan).copies:
        for set_id in missing_copies(site, plan, entry.to):
            error = _copy(site, plan, entry.to, set_id, as_json=as_json)
            results.append(_document(site, plan, entry.to, set_id, error))
            if not as_json:
                _print(results[-1], error)
            # A set that is damaged here keeps no other from being copied; what is wrong with the vault does.
            if error is not None and not isinstance(error, ValidationError):
                break
    notify_copies(site, plan)
    return results


def _copy(site: Site, plan: str, vault: str, set_id: SetId, *, as_json: bool) -> BackupSystemError | None:
    from backup_pipeline.cli.backup_report import showing
    from backup_pipeline.orchestration.copy_assets import copy_job_name
    from backup_pipeline.orchestration.launch import run_job
    from backup_pipeline.orchestration.names import PLAN_TAG, copies_subject
    from backup_pipeline.orchestration.run_observer import watched_by

    with shown_progress(quiet=as_json) as sink, watched_by(showing(sink)):
        outcome: RunOutcome = run_job(
            site.file,
            copy_job_name(plan, vault),
            partition=set_id,
            tags={PLAN_TAG: copies_subject(plan, vault), "backup_pipeline/from": "shell"},
        )
    if outcome.success:
        return None
    return outcome.errors[0] if outcome.errors else BackupSystemError("The copy failed.", where=vault)


def _document(site: Site, plan: str, vault: str, set_id: SetId, error: BackupSystemError | None) -> dict[str, Any]:
    from backup_pipeline.operations.sites.copy_records import vault_record

    known = vault_record(site, vault).copy_of(plan, set_id)
    return {
        "to": vault,
        "set": f"{plan}/{set_id}",
        "copied": error is None,
        "size": known.size if known and error is None else None,
        "sent_bytes": known.sent_bytes if known and error is None else None,
        "error": error.as_dict() if error else None,
    }


def _print(done: dict[str, Any], error: BackupSystemError | None) -> None:
    if error is None:
        sent = f": {bytes_text(done['sent_bytes'])} sent" if done["sent_bytes"] is not None else ""
        console().print(f"{done['set']} copied into {done['to']}{sent}", markup=False)
        return
    errors = console(stderr=True)
    errors.print("[bold red]not copied[/]", end=" ")
    errors.print(f"{done['set']} is sealed here and has no copy in {done['to']}: {error.what}", markup=False)
    errors.print("[bold]remedy[/]", end=" ")
    again = f"backup-pipeline vault copy {done['to']} {done['set']}{config_argument()}"
    errors.print(f"{error.remedy} It is tried again by the daemon and the next backup, or now: {again}", markup=False)


def cleaning_document(done: VaultCleaning) -> dict[str, Any]:
    """Return what was decided on a vault's copies and done, for `--json`."""
    cleaned = done.cleaned
    return {
        "vault": done.vault,
        "plans": [one.as_dict() for one in done.plans],
        **vars(cleaned),
        "waiting": {name: end.isoformat() for name, end in cleaned.waiting.items()},
        "locked": [vars(one) for one in cleaned.locked],
    }


def print_cleaning(done: VaultCleaning, *, dry_run: bool) -> None:
    """Print what was decided on each copy and why, and what was removed."""
    out = console()
    verb = "would be removed" if dry_run else "removed"
    for plan in done.plans:
        _print_verdict(plan, dry_run=dry_run)
    for name, end in done.cleaned.waiting.items():
        out.print(f"copy {name} is marked, and stays until {end:%Y-%m-%d %H:%M} UTC", markup=False)
    for name in done.cleaned.removed_copies:
        out.print(f"copy {name} {verb}", markup=False)
    for locked in done.cleaned.locked:
        out.print(f"{locked.name} stays: {locked.why}", markup=False)
    size = bytes_text(done.cleaned.removed_bytes)
    copies, chunks = len(done.cleaned.removed_copies), done.cleaned.removed_chunks
    out.print(f"{done.vault}: {copies} copies and {chunks} chunks ({size}) {verb}.", markup=False)


def _print_verdict(plan: CopiesVerdict, *, dry_run: bool) -> None:
    from rich.markup import escape

    from backup_pipeline.cli.tables import new_table, print_table

    out = console()
    if not plan.verdict.decisions:
        return
    table = new_table(f"{plan.plan} in {plan.vault}", "set", "", "why", wrapping="why")
    for decision in reversed(plan.verdict.decisions):
        why = "; ".join(decision.reasons)
        word = "[green]keep[/]" if decision.keep else "[red]mark[/]" if dry_run else "[red]marked[/]"
        if decision.set_id in plan.forbidden:
            word = "[yellow]locked[/]"
            why += f"; the storage forbids to delete it until {plan.forbidden[decision.set_id]:%Y-%m-%d %H:%M} UTC"
        table.add_row(decision.set_id, word, escape(why))
    print_table(out, table)
    if plan.verdict.refusal:
        out.print(f"[yellow]nothing is removed[/]: {escape(plan.verdict.refusal)}")


def cleanings(
    site: Site, plans: Sequence[str], *, dry_run: bool, quiet: bool = False
) -> tuple[list[VaultCleaning], list[BackupSystemError]]:
    """Clean the vaults of these plans, or say what would be done; a vault that is away keeps no other from it."""
    vaults = dict.fromkeys(entry.to for plan in plans for entry in site.plan(plan).copies)
    if not vaults:
        return [], []
    from backup_pipeline.operations.copies.retention import clean_copies

    done, errors = [], []
    for vault in vaults:
        try:
            with shown_progress(quiet=quiet) as progress:
                done.append(
                    clean_copies(site, vault, datetime.now(UTC), plans=plans, dry_run=dry_run, progress=progress)
                )
        except BackupSystemError as error:
            errors.append(error)
    return done, errors


def print_errors(errors: Sequence[BackupSystemError]) -> None:
    """Print why vaults could not be cleaned."""
    out = console(stderr=True)
    for error in errors:
        out.print("[bold red]error[/]", end=" ")
        out.print(str(error), markup=False)
