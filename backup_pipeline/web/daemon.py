"""Dagster's daemon, which ends at once when it is told to: its own command with its own options.

python -m backup_pipeline.web.daemon run -w WORKSPACE
"""

from __future__ import annotations

from dagster._daemon.cli import main

from backup_pipeline.web.process_end import run_and_leave

if __name__ == "__main__":
    run_and_leave(main)
