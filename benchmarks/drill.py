"""A drill against the restore inside of it, and its memory, also with values of 200 MB.

    python -m benchmarks.drill [--sizes 100,300] [--value MEGABYTES] [--repeat N]

A drill verifies the set, loads the dump into a scratch server, compares every row and object with what was recorded,
inspects the indexes and compares the table exports row by row. The restore is what `pg_restore` or `psql` would also
have to do. The floor beside it is the least that a comparison can read: one sum over each restored table by the
server, one COPY of it to nowhere, and every byte of the set once.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from benchmarks.data_database import TABLES, bench_server, make_database, size_of
from benchmarks.report import Report, in_fresh_process
from benchmarks.set_site import PLAN, back_up, drill, make_site

_LARGE = """
create table long_values (id int primary key, note text, data bytea);
insert into long_values select i, repeat('x', {size}), null from generate_series(1, 2) i;
insert into long_values select 2 + i, null, decode(repeat('ab', {size}), 'hex') from generate_series(1, 1) i;
"""


def least_reading(target: PostgresTarget, folder: Path) -> float:
    """Read what any comparison has to read, side by side and without judging it; return the seconds."""
    begin = time.perf_counter()

    def table(name: str) -> None:
        with connected(target) as connection:
            connection.execute(f"select sum(hash_record_extended(t, 0)) from public.{name} t".encode())
            connection.execute(f"copy (select * from public.{name}) to '/dev/null' (format csv)".encode())

    def files() -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    hashlib.file_digest(file, "sha256")

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(files), *(pool.submit(table, name) for name in TABLES)]:
            done.result()
    return time.perf_counter() - begin


def measure(server: EmbeddedServer, scratch: Path, megabytes: int, repeat: int, report: Report) -> float:
    """Drill a database of that size; return the peak memory in MB."""
    target = make_database(server, megabytes, f"drill{megabytes}")
    site = make_site(scratch / f"site{megabytes}", target, server.target())
    made = in_fresh_process(back_up, site).result["set_id"]
    runs = [in_fresh_process(drill, site, made) for _ in range(repeat)]
    best = min(runs, key=lambda run: run.result["seconds"])
    floor = least_reading(target, site / "backups" / PLAN / made)
    size = round(size_of(target) / 1e6)
    restore = best.result["restore"]
    report.row(f"drill, {size} MB of tables", best.result["seconds"], restore, other_name="its restore", at_most=2.0)
    bare = restore + floor
    report.row(f"floor: that restore and the least reading, {size} MB", bare, restore, other_name="its restore")
    report.row(
        f"comparison with what was recorded, {size} MB", best.result["compare"], restore, other_name="its restore"
    )
    peak = max(run.peak_mb for run in runs)
    report.row(f"peak memory of a drill, {size} MB of tables", peak, unit="MB", at_most=400)
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="100,300,650", help="megabytes of tables, ascending")
    parser.add_argument("--value", type=int, default=200, help="megabytes of the long values; 0 for none")
    parser.add_argument("--repeat", type=int, default=2, help="drills of each, the best counts")
    options = parser.parse_args()
    report = Report("drill", "Drills against their own restore, and their memory")
    with bench_server() as server, tempfile.TemporaryDirectory(prefix="bp-bench-") as name:
        scratch = Path(name)
        peaks = [measure(server, scratch, int(size), options.repeat, report) for size in options.sizes.split(",")]
        if len(peaks) > 1:
            report.row("memory of the largest against the smallest", peaks[-1] / peaks[0], unit="x", at_most=1.5)
        if options.value:
            with connected(server.target()) as connection:
                connection.execute('create database "long_values" template template0')
            target = server.target("long_values")
            with connected(target, pinned=False) as connection:
                connection.execute(_LARGE.format(size=options.value * 1_000_000).encode())
            site = make_site(scratch / "long", target, server.target())
            captured = in_fresh_process(back_up, site)
            drilled = in_fresh_process(drill, site, captured.result["set_id"])
            what = f"values of {options.value} MB"
            report.row(f"peak memory of a capture, {what}", captured.peak_mb, unit="MB")
            report.row(f"peak memory of a drill, {what}", drilled.peak_mb, unit="MB", at_most=600)
    report.write()


if __name__ == "__main__":
    main()
