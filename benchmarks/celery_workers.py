"""Sixty databases behind slow links, backed up by four Celery workers and by one; nobody shares a disk.

Each worker and each server of databases is a network namespace with an address and a folder of its own. A server's link
sends so little that waiting for it, and not the processors of this computer, is what takes the time: that is what
more workers divide. How busy the processors were is reported. By run there is a plan for each server, and each run
is a task; by source there is one plan of all databases, whose neighbours are on different servers, and each source is
a task. At the end each database is proven from its newest set. Needs root on Linux, Debian's PostgreSQL and Redis.

python -m benchmarks.celery_workers [--by run] [--servers 12] [--databases 5] [--rate 1500kbit] [--workers 4]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import psutil

from backup_pipeline_tests.support.celery_fleet import RUNS, STEPS, Fleet, Size, fleet
from backup_pipeline_tests.support.fleet_programs import wait_until
from backup_pipeline_tests.support.machines import Machine
from benchmarks.report import Report

_LIMIT_SECONDS = 1800


@dataclass(frozen=True)
class Phase:
    """Seconds from the first launch to the last seal, and how many processors the whole fleet kept busy meanwhile."""

    seconds: float
    busy: float


def spent() -> float:
    """Return the processor seconds of everything that this program has started."""
    seconds = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def back_up(site: Fleet, plans: list[str]) -> Phase:
    """Back up plans at once."""
    before, begin = spent(), time.monotonic()
    runs = [site.launch(f"{plan}_backup") for plan in plans]
    instance = site.workspace.instance

    def ended() -> bool:
        found = instance.get_runs(dg.RunsFilter(run_ids=runs))
        failed = [run.run_id for run in found if run.status is dg.DagsterRunStatus.FAILURE]
        assert not failed, failed
        return all(run.is_finished for run in found)

    wait_until(ended, "every backup", _LIMIT_SECONDS)
    seconds = time.monotonic() - begin
    return Phase(seconds, (spent() - before) / seconds)


def prove(site: Fleet, plans: list[str]) -> int:
    """Prove the newest set of each plan, from all workers; return how many databases were proven."""

    def proven(given: tuple[Machine, list[str]]) -> int:
        machine, share = given
        databases = 0
        for plan in share:
            done = site.command(machine, "drill", f"offsite:{plan}/latest", "--json")
            assert done.code == 0, done.text
            # Each database has one table.
            databases += int(json.loads(done.out)["numbers"]["tables"])
        return databases

    count = len(site.workers)
    shares = [(machine, plans[number::count]) for number, machine in enumerate(site.workers)]
    with ThreadPoolExecutor(count) as pool:
        return sum(pool.map(proven, shares))


def measure(report: Report, size: Size, workers: int, way: str) -> None:
    """Measure one way of spreading the work, and add its row."""
    plans = [f"p{number}" for number in range(1, size.servers + 1)] if way == "run" else ["all"]
    spread = RUNS if way == "run" else STEPS
    with tempfile.TemporaryDirectory(prefix="bp-bench-") as name, fleet(Path(name), size, spread) as site:
        for number in range(1, workers + 1):
            site.start_worker(number)
        site.wait_for_workers()
        # The first sets send more to the store and make what is made once: that is counted against several workers.
        together = back_up(site, plans)
        for machine in site.workers[1:]:
            machine.end()
        alone = back_up(site, plans)
        assert len(site.copies()) == 2 * len(plans), site.copies()
        for server in site.servers:
            server.limit("1gbit")
        proven = prove(site, plans)
    assert proven == size.servers * size.databases, proven
    busy = f"{together.busy:.2f} with {workers} workers, {alone.busy:.2f} with one"
    report.fact(f"processors that everything together kept busy, by {way}", busy)
    report.row(
        f"{proven} databases, {workers} workers, by {way}",
        together.seconds,
        alone.seconds,
        other_name="one worker",
        at_least=3.3 if workers == 4 else None,
        note=f"{len(plans)} plan(s), from the first launch to the last seal; sets sealed once, every database proven",
    )


def main() -> int:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--by", choices=("run", "source"), help="only this way; both by default")
    parser.add_argument("--servers", type=int, default=12)
    parser.add_argument("--databases", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rate", default="1500kbit")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--name", default="celery_workers", help="of the files of the result")
    given = parser.parse_args()
    # No worker waits for the queue, and no run waits so long for a worker that it counts as failed.
    size = Size(given.servers, given.databases, given.rows, given.rate, runs=2 * given.workers)
    report = Report(given.name, "Databases behind slow links, by several Celery workers and by one")
    report.fact("servers", given.servers)
    report.fact("databases on each", given.databases)
    report.fact("link of each server", given.rate)
    for way in (given.by,) if given.by else ("run", "source"):
        measure(report, size, given.workers, way)
        report.write()
    return 0 if report.met else 1


if __name__ == "__main__":
    sys.exit(main())
