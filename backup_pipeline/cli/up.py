"""`backup-pipeline up`: the Dagster UI and daemon for a site, on this machine."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from backup_pipeline.cli.common import ConfigOption, console, load


def up(
    config: ConfigOption = None,
    port: Annotated[int, typer.Option("--port", help="Port of the UI.")] = 3000,
    host: Annotated[
        str, typer.Option("--host", help="Address that the UI listens at; others than loopback need UI_PASSWORD.")
    ] = "127.0.0.1",
) -> None:
    """Start the Dagster UI and the daemon that runs the schedules; Ctrl-C ends both.

    For a laptop or a single server. For containers and systemd see docs/deployment.md.
    """
    site = load(config)
    from backup_pipeline.operations.sites.embedded import embedded_server_up
    from backup_pipeline.operations.sites.known_databases import refresh_databases
    from backup_pipeline.operations.sites.up import only_one_up, run_dagster
    from backup_pipeline.orchestration.home import workspace_file
    from backup_pipeline.orchestration.site_process import enter_site
    from backup_pipeline.web.access import ui_access

    # Refused here, before anything is started; the webserver's own process reads the password for itself.
    ui_access(site.environment, host)
    enter_site(site)
    from backup_pipeline.orchestration.storage import require_history

    with only_one_up(site), embedded_server_up(site):
        # The history may be kept by the site's own server, which is up only now.
        require_history(os.environ)
        # What servers have now is in the graph from the beginning.
        refresh_databases(site, [*site.single_plans, *site.settings.fleets])
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        console(stderr=True).print(f"[bold]{address}[/] in about 20 seconds; Ctrl-C ends it", highlight=False)
        raise typer.Exit(run_dagster(workspace_file(), port=port, folder=site.folder, host=host))
