"""Sixty small databases behind slow links, backed up by four Celery workers and by one; nobody shares a disk.

Each worker and each server of databases is a network namespace with an address and a folder of its own. A server's link
sends so little that waiting for it, and not the processors of this computer, is what takes the time: that is what
more workers divide. Needs root on Linux, Debian's PostgreSQL and redis-server.

python -m benchmarks.celery_workers [--servers 12] [--databases 5] [--rate 2mbit] [--workers 4]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import dagster as dg

from backup_pipeline_tests.support.celery_fleet import RUNS, Fleet, Size, fleet
from backup_pipeline_tests.support.fleet_programs import wait_until
from benchmarks.report import Report

_LIMIT_SECONDS = 1800


def back_up_all(site: Fleet) -> float:
    """Back up every plan; return the seconds from the first launch to the last seal."""
    before = time.monotonic()
    runs = [site.launch(f"p{number}_backup") for number in range(1, site.size.servers + 1)]
    instance = site.workspace.instance

    def ended() -> bool:
        found = instance.get_runs(dg.RunsFilter(run_ids=runs))
        failed = [run.run_id for run in found if run.status is dg.DagsterRunStatus.FAILURE]
        assert not failed, failed
        return all(run.is_finished for run in found)

    wait_until(ended, "every backup", _LIMIT_SECONDS)
    return time.monotonic() - before


def main() -> int:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--servers", type=int, default=12)
    parser.add_argument("--databases", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rate", default="2mbit")
    parser.add_argument("--workers", type=int, default=4)
    given = parser.parse_args()
    size = Size(given.servers, given.databases, given.rows, given.rate, runs=given.servers)
    report = Report("celery_workers", "Databases behind slow links, by several Celery workers and by one")
    report.fact("databases", given.servers * given.databases)
    report.fact("servers", given.servers)
    report.fact("link of each server", given.rate)
    with tempfile.TemporaryDirectory(prefix="bp-bench-") as name, fleet(Path(name), size, RUNS) as site:
        site.start_worker(1)
        # What is done once for each worker and each plan stands in neither figure.
        back_up_all(site)
        alone = back_up_all(site)
        for number in range(2, given.workers + 1):
            site.start_worker(number)
        site.wait_for_workers()
        together = back_up_all(site)
        assert len(site.copies()) == 3 * given.servers
    report.row(
        f"{given.workers} workers, {given.servers * given.databases} databases",
        together,
        alone,
        other_name="one worker",
        at_least=3.3 if given.workers == 4 else None,
        note="from the first launch to the last seal; each set once in the vault",
    )
    report.write()
    return 0 if report.met else 1


if __name__ == "__main__":
    sys.exit(main())
