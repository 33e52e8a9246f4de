"""`backup-pipeline demo`: build a small but real site and back all of it up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backup_pipeline.cli.common import console


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where the demo's site is made.")] = Path("demo-site"),
    orders: Annotated[
        int, typer.Option("--orders", min=1, max=99_999, help="Orders in the workshop's archive.")
    ] = 1000,
    remove: Annotated[bool, typer.Option("--remove", help="Stop the demo's server and delete its site.")] = False,
) -> None:
    """Build a small but real site with an embedded PostgreSQL, back it up, prove the sets, and recover them.

    Supabase-like, Keycloak-like and trading databases, storage buckets, a workshop's order archive, a git repository,
    and Dagster's own database. Each set is copied into a vault, a folder with an identity of its own; at the end the
    newest of each plan is recovered from there into an empty folder and compared. A second call reuses what exists and
    makes new sets.
    """
    from backup_pipeline.operations.demo.site import build_demo_site, remove_demo_site
    from backup_pipeline.operations.sites.embedded import stop_embedded_server
    from backup_pipeline.settings.loader import load_site

    out = console(stderr=True)
    if remove:
        remove_demo_site(folder)
        out.print(f"removed {folder}", markup=False)
        return
    out.print(f"[bold]The demo's site[/] in {folder}")
    settings = build_demo_site(folder, lambda text: out.print(f"  {text}", markup=False), orders=orders)
    site = load_site(settings)
    from backup_pipeline.cli.demo_steps import run_steps

    try:
        failed = run_steps(site)
    finally:
        stop_embedded_server(site)
    if failed:
        raise typer.Exit(failed)
