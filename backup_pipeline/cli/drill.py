"""`drill`: a set restored for real into a scratch server, compared, and removed again."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from backup_pipeline.cli.common import (
    ConfigOption,
    IdentityOption,
    JsonOption,
    console,
    exit_with,
    load,
    print_json,
    shown_progress,
)
from backup_pipeline.cli.completion import SetArgument
from backup_pipeline.cli.formatting import age_text
from backup_pipeline.errors import ExitCode
from backup_pipeline.rules.quantities import counted, seconds_text

if TYPE_CHECKING:
    from backup_pipeline.model.proof import Proof


def drill(
    name: SetArgument,
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="Connections for loading (0: by the cores).")] = 0,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove a set: restore everything in it, compare every row and object, remove the copy.

    The scratch server is DRILL_DATABASE_URL, or one of our own, run by an installed PostgreSQL that has what the set
    needs, or by the embedded one. Nothing of the site is touched. Exit code 6 when the set is not proven, 10 when this
    machine lacks what it needs.

    Examples: `backup-pipeline drill nightly` (its latest set) · `backup-pipeline drill latest --json`
    """
    site = load(config, identity=identity)
    from backup_pipeline.artefacts.drilling import DrillOptions
    from backup_pipeline.cli.verify import as_document, print_proof
    from backup_pipeline.model.proof import ProofOutcome
    from backup_pipeline.operations.proof.drill import drill_set
    from backup_pipeline.operations.sites.embedded import embedded_server_up
    from backup_pipeline.operations.sites.stores import resolve_set
    from backup_pipeline.rules.scratch_server import DRILL_VARIABLE

    plan, set_id = resolve_set(site, name)
    with ExitStack() as stack:
        if site.value(DRILL_VARIABLE):
            # It may name the site's own embedded server.
            stack.enter_context(embedded_server_up(site))
        progress = stack.enter_context(shown_progress(quiet=as_json))
        proof = drill_set(site, plan, set_id, options=DrillOptions(jobs), progress=progress)
    if as_json:
        print_json(as_document(proof))
    else:
        print_proof(proof)
        if proof.outcome is not ProofOutcome.NOT_HERE:
            _print_figures(proof)
    if not proof.passed:
        not_here = proof.outcome is ProofOutcome.NOT_HERE
        exit_with(ExitCode.NOT_DRILLABLE if not_here else ExitCode.CHECKS)


def _print_figures(proof: Proof) -> None:
    rows, tables = proof.numbers.get("rows", 0), proof.numbers.get("tables", 0)
    age = age_text(timedelta(seconds=proof.numbers["rpo_seconds"]))
    console().print(
        f"restored in {seconds_text(proof.numbers['rto_seconds'])} (RTO); data {age} old (RPO); "
        f"{counted(int(rows), 'row')} of {counted(int(tables), 'table')} compared"
    )
