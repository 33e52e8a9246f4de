"""What the pages of the front page cost the server, for 3,000 sets of which the newest has 500 tables.

Promise: every page within 300 ms once the first overview is made. Sets are invented, their files a few bytes.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backup_pipeline.model.proof import ProofKind
from backup_pipeline.stores.local import LocalStore
from backup_pipeline_tests.support.front_pages import pages_of
from backup_pipeline_tests.support.invented_sets import SITE, add_proof, make_set
from benchmarks.report import Report

SETS, TABLES, ROUNDS = 3000, 500, 7
SETTLED_SECONDS = 61
"""Sets that changed a moment ago are read each time (docs/decisions/0016): a site's are older."""
PROMISE_SECONDS = 0.3


def build(folder: Path) -> LocalStore:
    """Write the site; every seventh set is proven."""
    (folder / "backup.yaml").write_text(SITE.replace("keep_last: 2", f"keep_last: {SETS + 1}"), "utf-8")
    store = LocalStore(folder / "backups" / "nightly", "nightly")
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3 * SETS)
    for number in range(SETS):
        moment = begin + timedelta(hours=3 * number)
        made = make_set(store, moment, tables=TABLES if number == SETS - 1 else 3)
        if number % 7 == 0:
            add_proof(store, made, ProofKind.DRILL, moment + timedelta(hours=1), rto_seconds=12.5)
    return store


def main() -> int:
    """Measure every page; return how many broke the promise."""
    # The disk's speed is not what is measured here.
    os.fsync = lambda _: None  # type: ignore[assignment]
    report = Report("front_page", f"Pages of the front page, {SETS:,} sets, the newest of {TABLES} tables")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        newest = build(folder).ids()[-1]
        time.sleep(SETTLED_SECONDS)
        pages = pages_of(folder)
        begin = time.process_time()
        pages.get("/backups")
        report.row("the first overview of a process, which `up` makes when it starts", time.process_time() - begin)
        of_a_set = [f"/backups/nightly/{newest}{part}" for part in ("", "/files/files")]
        of_a_set += [f"/backups/nightly/{newest}/files/files/{part}" for part in ("table?table=public.t7", "diff")]
        restores = ["/backups/restore", *(f"/backups/restore/nightly/{newest}{part}" for part in ("", "/files"))]
        year = f"/backups/evidence/show?plan=nightly&period={datetime.now(UTC):%Y}"
        evidence = ["/backups/evidence", year]
        for path in ("/backups", "/backups/live", "/backups/nightly", "/metrics", *of_a_set, *restores, *evidence):
            used, taken = [], []
            for _ in range(ROUNDS):
                processor, wall = time.process_time(), time.perf_counter()
                pages.get(path)
                used.append(time.process_time() - processor)
                taken.append(time.perf_counter() - wall)
            note = f"processor time {statistics.median(used):.3f} s"
            report.row(path.replace(newest, "SET"), statistics.median(taken), at_most=PROMISE_SECONDS, note=note)
    report.write()
    return sum(row.met is False for row in report.rows)


if __name__ == "__main__":
    sys.exit(main())
