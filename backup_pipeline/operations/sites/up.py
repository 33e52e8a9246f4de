"""Running Dagster's webserver and daemon in the foreground. Which site they serve stands in the environment."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from backup_pipeline.errors import LockError, RefusedError
from backup_pipeline.settings.site import Site
from backup_pipeline.system.files import make_folders
from backup_pipeline.system.locks import hold_lock
from backup_pipeline.system.processes import run_in_foreground


@contextlib.contextmanager
def only_one_up(site: Site) -> Iterator[None]:
    """Keep a second `up` of the same history away for the block: two daemons would start each schedule's run twice.

    Raises:
        RefusedError: one is up already; names its process.
    """
    # In a container all of DAGSTER_HOME but its `storage` is read-only.
    storage = Path(os.environ["DAGSTER_HOME"]) / "storage"
    make_folders(storage, 0o700)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(storage / ".up.lock", purpose=f"up of {site.file}", wait_seconds=0))
        except LockError as error:
            raise RefusedError(
                f"The UI and the daemon of this site are up already. {error.what}",
                where=error.where,
                remedy="Use that one, or end it first (Ctrl-C where it runs).",
            ) from None
        yield


def run_dagster(workspace: Path, *, port: int, folder: Path, host: str = "127.0.0.1") -> int:
    """Run the UI behind its guard, and the daemon, until they end or are interrupted; return the exit code.

    Args:
        workspace: workspace.yaml; named explicitly, since a `[tool.dagster]` block elsewhere would win over it.
        port: port of the UI.
        folder: working folder.
        host: address that the UI listens at.
    """
    command = [sys.executable, "-m", "backup_pipeline.web.services", "-w", str(workspace), "-h", host, "-p", str(port)]
    return run_in_foreground(command, cwd=folder)
