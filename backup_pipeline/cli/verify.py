"""`verify`: every file of a set read again and compared with its manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from backup_pipeline.cli.common import (
    ConfigOption,
    ElsewhereOption,
    IdentityOption,
    JsonOption,
    console,
    exit_with,
    load,
    print_json,
    shown_progress,
)
from backup_pipeline.cli.completion import SET_NAMES, complete_set
from backup_pipeline.errors import ExitCode
from backup_pipeline.rules.quantities import counted

if TYPE_CHECKING:
    from backup_pipeline.model.proof import Proof


def verify(
    name: Annotated[
        str | None,
        typer.Argument(metavar="SET", help=SET_NAMES, show_default=False, autocompletion=complete_set),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Verify every sealed set of every plan.")] = False,
    store: ElsewhereOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every file of a set again: sizes and checksums against the manifest, then its structure.

    What is missing, empty, cut short, changed or extra is named; the result is kept with the set. Exit code 6 when
    anything was found.

    Examples: `backup-pipeline verify nightly/latest` · `backup-pipeline verify --all --json`
    """
    if (name is None) == (not every):
        raise typer.BadParameter("name one set, or give --all", param_hint="SET")
    site = load(config, store, identity)
    from backup_pipeline.operations.proof.verify import verify_all, verify_set
    from backup_pipeline.operations.sites.stores import resolve_set

    with shown_progress(quiet=as_json) as progress:
        if every:
            proofs = list(verify_all(site, progress=progress))
        else:
            plan, set_id = resolve_set(site, name or "")
            proofs = [verify_set(site, plan, set_id, progress=progress)]
    if as_json:
        print_json({"proofs": [as_document(proof) for proof in proofs]} if every else as_document(proofs[0]))
    else:
        for proof in proofs:
            print_proof(proof)
        if every:
            failed = sum(not proof.passed for proof in proofs)
            outcome = f"{failed} of them damaged" if failed else "all whole"
            console().print(f"{counted(len(proofs), 'set')}, {outcome}")
    if any(not proof.passed for proof in proofs):
        exit_with(ExitCode.CHECKS)


def as_document(proof: Proof) -> dict[str, Any]:
    """Return a proof for `--json`."""
    return {"set": f"{proof.plan}/{proof.set_id}", **proof.model_dump(mode="json", exclude={"content_sha256"})}


def print_proof(proof: Proof) -> None:
    """Print a verification or drill: one line, then what was found and what could not be inspected."""
    from rich.markup import escape

    from backup_pipeline.model.proof import IMPORTED_SOURCES
    from backup_pipeline.rules.quantities import bytes_text

    out = console()
    good = "verified" if proof.kind == "verification" else "proven"
    if proof.numbers.get(IMPORTED_SOURCES) and proof.passed:
        good = "restored and counted, not proven:"
    seconds = (proof.finished_at - proof.started_at).total_seconds()
    head = f"[bold green]{good}[/]" if proof.passed else f"[bold red]not {good}[/]"
    if proof.outcome.value == "could not be drilled here":
        head = "[bold yellow]could not be drilled here, which says nothing against the set:[/]"
    size = f", {bytes_text(proof.numbers['bytes'])}" if "bytes" in proof.numbers else ""
    took = f"in {seconds:.1f} s{proof.skipped_text}"
    out.print(f"{head} {proof.plan}/{proof.set_id}: {len(proof.covered)} artefacts{size} {took}")
    marked = [("[red]✗[/]", finding) for finding in proof.findings]
    marked += [("[yellow]?[/]", missing) for missing in proof.missing_here]
    for mark, finding in marked:
        out.print(f"  {mark} {escape(finding.subject)}: {escape(finding.problem)}")
        if finding.remedy:
            out.print(f"    [dim]{escape(finding.remedy)}[/]")
    for skipped in proof.skipped:
        out.print(f"  [yellow]–[/] {escape(skipped.subject)}: {escape(skipped.problem)}")
