"""`dagster dev` with the guarded webserver in the place of Dagster's own: what `backup-pipeline up` runs.

    python -m backup_pipeline.web.services -w WORKSPACE -h ADDRESS -p PORT

Dagster's command starts, watches and ends a code server, the daemon and the webserver; only which modules the webserver
and the daemon are run from are others here.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import dagster._cli.dev as dev
from dagster_shared.ipc import open_ipc_subprocess

from backup_pipeline.system.process_end import run_and_leave

_OURS = {"dagster_webserver": "backup_pipeline.web", "dagster._daemon": "backup_pipeline.web.daemon"}


def guarded(command: Sequence[str]) -> list[str]:
    """Return a command of Dagster's with our modules in the place of its own."""
    return [_OURS.get(part, part) for part in command]


def _start_guarded(parts: Sequence[str], **options: Any) -> Any:
    return open_ipc_subprocess(guarded(parts), **options)


def main() -> None:
    """Run `dagster dev`."""
    dev.open_ipc_subprocess = _start_guarded  # type: ignore[attr-defined]
    # Dagster recommends `dg dev` instead, which needs a project of dg's own.
    warnings.filterwarnings("ignore", message="Function `dev_command` is superseded")
    dev.dev_command(prog_name="backup-pipeline up")


if __name__ == "__main__":
    run_and_leave(main)
