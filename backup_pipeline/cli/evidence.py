"""`evidence make`, `evidence list`, `evidence key`: signed proof for auditors of what was done in a period."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backup_pipeline.cli.common import ConfigOption, JsonOption, console, load, print_json

if TYPE_CHECKING:
    from backup_pipeline.model.evidence import Evidence
    from backup_pipeline.settings.site import Site


group = typer.Typer(
    help="Signed evidence for auditors: backups, verifications, drills and restores of a period.",
    no_args_is_help=True,
)


@group.command()
def make(
    plan: Annotated[str, typer.Argument(help="The plan.")],
    period: Annotated[
        str, typer.Argument(help="2026-11, 2026-Q4, 2026, 2026-11-01..2026-11-15 (default: the last 30 days).")
    ] = "",
    config: ConfigOption = None,
    preview: Annotated[bool, typer.Option("--preview", help="Show it; sign and keep nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Collect what happened to a plan in a period, sign it, and chain it to the plan's evidence before.

    The file (an in-toto statement in a DSSE envelope, signed with Ed25519) is kept in `evidence/` beside the sets, with
    a program that checks it and needs nothing but Python. The page of it is in the browser under Evidence.

    Examples: `backup-pipeline evidence make nightly 2026-10` ·
    `backup-pipeline evidence make nightly 2026-Q4 --preview`
    """
    from backup_pipeline.operations.evidence import make as evidence_files
    from backup_pipeline.rules.periods import period_of

    site = load(config)
    site.plan(plan)
    now = datetime.now(UTC)
    begin, end = period_of(period, site.settings.timezone) if period else (now - timedelta(days=30), now)
    found = _collected(site, plan, begin, end, now)
    file: Path | None = None
    if not preview:
        from backup_pipeline.orchestration.run_subject import asked_in_shell

        file = evidence_files.make(site, found, made_by=asked_in_shell())
    if as_json:
        print_json({"file": str(file) if file else None, "evidence": found})
        return
    _print(found)
    if file:
        out = console()
        out.print(f"written: {file}", markup=False, soft_wrap=True)
        command = shlex.join(
            [
                "python3",
                str(file.with_name(evidence_files.CHECKER)),
                *(word for key in evidence_files.keys_to_check_with(site, [plan]) for word in ("--key", key)),
                # The whole chain: a file alone lacks those before it.
                str(file.parent),
            ]
        )
        out.print(f"an auditor checks it with: {command}", markup=False, soft_wrap=True)


def _collected(site: Site, plan: str, begin: datetime, end: datetime, now: datetime) -> Evidence:
    from backup_pipeline.operations.evidence.history import History
    from backup_pipeline.operations.evidence.make import preview
    from backup_pipeline.orchestration.home import default_home

    history = History()
    if (default_home(site.environment, site.folder) / "dagster.yaml").exists():
        from backup_pipeline.orchestration.evidence_history import history_of_site
        from backup_pipeline.orchestration.home import ensure_home

        ensure_home(site.folder)
        history = history_of_site(plan, begin, min(end, now), [entry.to for entry in site.plan(plan).copies])
    return preview(site, plan, begin, end, history, now=now)


def _print(found: Evidence) -> None:
    out = console()
    out.print(f"Evidence of {found.plan}, {found.begin:%Y-%m-%d %H:%M} to {found.end:%Y-%m-%d %H:%M} UTC", markup=False)
    for event in found.events:
        mark = " " if event.good else "!"
        detail = f" ({event.detail})" if event.detail else ""
        out.print(
            f"{mark} {event.at:%Y-%m-%d %H:%M} {event.kind.value:12} {event.subject}: {event.outcome}, by {event.who}"
            f"{detail}",
            markup=False,
        )
    for gap in found.gaps:
        out.print(f"gap {gap.begin:%Y-%m-%d %H:%M} to {gap.end:%Y-%m-%d %H:%M}: {gap.what}", markup=False)
    for demand in found.demands:
        shown = {True: "shown", False: "not shown", None: "not to be shown here"}[demand.shown]
        out.print(f"{demand.regulation} {demand.place}, {demand.demand}: {shown}; {demand.answer}", markup=False)


@group.command("list")
def list_evidence(
    plan: Annotated[str, typer.Argument(help="The plan.")], config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """List the plan's signed evidence, oldest first."""
    from backup_pipeline.operations.evidence.make import evidence_files
    from backup_pipeline.operations.evidence.statement import read_envelope

    site = load(config)
    site.plan(plan)
    found = [(path, read_envelope(path)) for path in evidence_files(site, plan)]
    if as_json:
        print_json(
            [
                {
                    "file": str(path),
                    "number": one.number,
                    "begin": one.begin.isoformat(),
                    "end": one.end.isoformat(),
                    "made_at": one.made_at.isoformat(),
                    "events": len(one.events),
                    "gaps": len(one.gaps),
                }
                for path, one in found
            ]
        )
        return
    if not found:
        console().print(f"No evidence of {plan} yet: backup-pipeline evidence make {plan}", markup=False)
    for path, one in found:
        console().print(
            f"{one.number:4} {one.begin:%Y-%m-%d} to {one.end:%Y-%m-%d}  {len(one.events)} events, "
            f"{len(one.gaps)} gaps  {path}",
            markup=False,
        )


@group.command()
def key(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the public key that this site's evidence is signed with; hand it to the auditor yourself."""
    from backup_pipeline.operations.evidence.make import public_key

    public = public_key(load(config))
    if as_json:
        print_json({"public_key": public})
    else:
        console().print(public, markup=False, soft_wrap=True)
