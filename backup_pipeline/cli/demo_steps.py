"""What the demo does with its site: back up, copy, export, verify, drill, recover, and show what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backup_pipeline.cli.backup import run_plan
from backup_pipeline.cli.common import console, heading, shown_progress
from backup_pipeline.errors import ExitCode
from backup_pipeline.operations.demo.recovery import VAULT
from backup_pipeline.rules.quantities import bytes_text

if TYPE_CHECKING:
    from backup_pipeline.settings.site import Site


def run_steps(site: Site) -> int:
    """Run every plan of the site and prove its newest set; return the exit code."""
    worst = 0
    for plan in site.settings.plans:
        heading(f"plan {plan}")
        worst = worst or int(run_plan(site, plan)["exit_code"])
    for plan in site.settings.plans:
        worst = worst or _export_orders(site, plan)
    heading("proof: every set is restored and compared")
    for plan in site.settings.plans:
        worst = worst or _prove(site, plan)
    if VAULT in site.settings.vaults:
        heading("the worst day: every set comes back from the vault into an empty folder, and is compared")
        _recover(site)
    _summary(site)
    return worst


def _recover(site: Site) -> None:
    """Recover the newest set of each plan with the vault and its identity alone."""
    from backup_pipeline.operations.demo.recovery import IDENTITY_NAME, RECOVERED_FOLDER, recover_and_compare

    vault, identity, to = site.settings.vaults[VAULT].url, site.folder / IDENTITY_NAME, site.folder / RECOVERED_FOLDER
    out = console(stderr=True)
    out.print(f"  backup-pipeline vault recover {vault} --identity {identity} --to {to}", markup=False, soft_wrap=True)
    for one in recover_and_compare(site):
        out.print(f"  {one.name} [green]equal[/]: {one.files} files, {bytes_text(one.size)}")


def _export_orders(site: Site, plan: str) -> int:
    """Export and verify the plan's order archives, all years in one Dagster run each; return the exit code."""
    from backup_pipeline.sources.orders.source import order_sources

    names = order_sources(site, plan)
    if not names:
        return 0
    from backup_pipeline.orchestration.orders_years import job_name, year_range_tags

    for name in names:
        heading(f"orders of {name}: a copy into every order's folder")
        for what in ("export", "verification"):
            code = _run(site, plan, job_name(plan, name, what), what, tags=year_range_tags(site, name))
            if code:
                return code
    return 0


def _prove(site: Site, plan: str) -> int:
    """Verify and drill a plan's newest set as Dagster runs, so that the UI shows them; return the exit code."""
    from backup_pipeline.operations.sites.stores import open_store

    sealed = open_store(site, plan).sealed_ids()
    if not sealed:
        return int(ExitCode.FAILED)
    for stage in ("verification", "drill"):
        code = _run(site, plan, f"{plan}_{stage}", f"{stage} of {plan}/{sealed[-1]}", partition=sealed[-1])
        if code:
            return code
    return 0


def _run(
    site: Site, plan: str, job: str, what: str, *, partition: str | None = None, tags: dict[str, str] | None = None
) -> int:
    """Run a job in this process and say how it ended; return the exit code."""
    from backup_pipeline.cli.backup_report import showing
    from backup_pipeline.orchestration.launch import exit_code_of, run_job
    from backup_pipeline.orchestration.names import PLAN_TAG
    from backup_pipeline.orchestration.run_observer import watched_by

    with shown_progress() as sink, watched_by(showing(sink)):
        outcome = run_job(site.file, job, partition=partition, tags={PLAN_TAG: plan, **(tags or {})})
    out = console(stderr=True)
    out.print(f"  {what} {'[green]passed[/]' if outcome.success else '[red]not passed[/]'}")
    for error in outcome.errors:
        out.print(f"    {error}", markup=False)
    return int(exit_code_of(outcome))


def _summary(site: Site) -> None:
    from rich.table import Table

    from backup_pipeline.operations.sites.stores import open_store

    out = console()
    table = Table(title="What was backed up", title_justify="left", box=None, pad_edge=False)
    for name, side in (
        ("set", "left"),
        ("artefacts", "right"),
        ("size", "right"),
        ("rows", "right"),
        ("time", "right"),
        ("checks", "right"),
        ("verified", "left"),
        ("proven", "left"),
    ):
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for plan in site.settings.plans:
        store = open_store(site, plan)
        ids = store.ids()
        if ids:
            table.add_row(*_row(store.read(ids[-1])))
    out.print()
    out.print(table)
    out.print()
    out.print(f"The sets are in [bold]{site.settings.store}[/]")
    out.print(f"Runs, lineage and checks: [bold]make up[/], or backup-pipeline up --config {site.file}")


def _row(known: Any) -> list[str]:
    name = f"{known.plan}/{known.set_id}"
    if known.manifest is None:
        return [name, "", bytes_text(known.size), "", "", "", "", f"[red]{known.state}[/]"]
    checks = [check for record in known.manifest.artefacts for check in record.checks]
    seconds = (known.manifest.sealed_at - known.manifest.started_at).total_seconds()
    return [
        name,
        str(len(known.manifest.artefacts)),
        bytes_text(known.size),
        f"{known.manifest.rows:,}",
        f"{seconds:.1f} s",
        f"{sum(c.passed for c in checks)}/{len(checks)}",
        "yes" if known.verified else "not yet",
        "[green]yes[/]" if known.proven else "not yet",
    ]
