"""Running Dagster's webserver and daemon in the foreground. Which site they serve stands in the environment."""

from __future__ import annotations

import sys
from pathlib import Path

from backup_pipeline.tools.processes import run_in_foreground


def run_dagster(workspace: Path, *, port: int, folder: Path) -> int:
    """Run `dagster dev` until it ends or is interrupted; return its exit code.

    Args:
        workspace: workspace.yaml; named explicitly, since a `[tool.dagster]` block elsewhere would win over it.
        port: port of the UI on the loopback address.
        folder: working folder.
    """
    # Dagster recommends `dg dev` instead, which needs a project of dg's own.
    quiet = ["-W", "ignore:Function `dev_command` is superseded"]
    command = [sys.executable, *quiet, "-m", "dagster", "dev", "-w", str(workspace), "-h", "127.0.0.1", "-p", str(port)]
    return run_in_foreground(command, cwd=folder)
