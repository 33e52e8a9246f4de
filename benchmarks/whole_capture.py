"""A capture of everything and a set in which nothing has changed, each sealed, against `pg_dump >/dev/null`.

    python -m benchmarks.whole_capture [--size MEGABYTES] [--repeat N]

Ours is the whole work without Dagster: dump with gzip and digests, Parquet of every table, fingerprints, figures,
validation, comparison, records and the seal, which reads every file again. "Unchanged" comes after a verified set of
the same rows. All sides take turns, and the best run of each counts. Two floors beside it do only what cannot be left
out and check nothing: for everything the dump through gzip and SHA-256, one sum over each table and its COPY, decoded
and written as Parquet; for nothing changed the dump through SHA-256 alone, the sums, and each file of the last set
copied and hashed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from benchmarks.data_database import TABLES, bench_server, make_database, size_of
from benchmarks.report import Measured, Report, in_fresh_process
from benchmarks.set_site import PLAN, back_up, make_site, verify


def dump_to_nowhere(target: PostgresTarget) -> float:
    """Run `pg_dump >/dev/null`; return the seconds."""
    begin = time.perf_counter()
    _dump(target, lambda piece: None)
    return time.perf_counter() - begin


def _dump(target: PostgresTarget, take: Callable[[bytes], object]) -> None:
    command = [str(choose_client(18).program("pg_dump")), *target.program_arguments()]
    environment = {**os.environ, **target.program_environment()}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while piece := process.stdout.read(1 << 20):
            take(piece)
    if process.returncode:
        raise RuntimeError("pg_dump failed")


def _packed_dump(target: PostgresTarget, path: Path) -> None:
    from backup_pipeline.system.streams import compressed_sink

    with path.open("wb") as file, compressed_sink(file) as sink:
        _dump(target, sink.write)
    _read_again(path)


def _read_again(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        hashlib.file_digest(file, "sha256")


def _sum(target: PostgresTarget, table: str) -> None:
    with connected(target) as connection:
        connection.execute(f"select sum(hash_record_extended(t, 0)), count(*) from public.{table} t".encode())


def _parquet(target: PostgresTarget, table: str, path: Path) -> None:
    import pyarrow.parquet as pq
    from pyarrow import csv

    command = [str(choose_client(18).program("psql")), "-X", "-q", *target.program_arguments()]
    command += ["-c", f"copy (select * from public.{table}) to stdout (format csv, header)"]
    environment = {**os.environ, **target.program_environment()}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        reader = csv.open_csv(
            process.stdout,
            csv.ReadOptions(use_threads=False, block_size=4 << 20),
            csv.ParseOptions(newlines_in_values=True),
            csv.ConvertOptions(true_values=["t"], false_values=["f"]),
        )
        with pq.ParquetWriter(path, reader.schema, compression="zstd", compression_level=1) as writer:
            for batch in reader:
                writer.write_batch(batch)
    _read_again(path)


def floor_of_all(target: PostgresTarget, folder: Path) -> None:
    """Write dump and Parquet and take a sum of each table, side by side; nothing is checked."""
    folder.mkdir(exist_ok=True)
    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(_packed_dump, target, folder / "dump.sql.gz")]
        work += [pool.submit(_sum, target, table) for table in TABLES]
        work += [pool.submit(_parquet, target, table, folder / f"{table}.parquet") for table in TABLES]
        for done in work:
            done.result()


def floor_of_unchanged(target: PostgresTarget, folder: Path, earlier: Path) -> None:
    """Hash the dump's text, take a sum of each table, copy each file of the last set, side by side."""
    folder.mkdir(exist_ok=True)

    def copy() -> None:
        for path in (*earlier.glob("*.sql.gz"), *(earlier / "tables").rglob("*.parquet")):
            shutil.copyfile(path, folder / path.name)
            _read_again(folder / path.name)

    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(_dump, target, hashlib.sha256().update), pool.submit(copy)]
        work += [pool.submit(_sum, target, table) for table in TABLES]
        for done in work:
            done.result()


def _best(runs: list[Measured]) -> float:
    return min(run.seconds for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=650, help="megabytes of tables")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, in turn; the best counts")
    options = parser.parse_args()
    report = Report("whole_capture", "A whole set: everything changed, and nothing changed")
    with bench_server() as server, tempfile.TemporaryDirectory(prefix="bp-bench-") as name:
        scratch = Path(name)
        target = make_database(server, options.size)
        report.fact("table megabytes", round(size_of(target) / 1e6))
        changed, unchanged = make_site(scratch / "changed", target), make_site(scratch / "unchanged", target)
        first = in_fresh_process(back_up, unchanged).result["set_id"]
        in_fresh_process(verify, unchanged, first)
        earlier = unchanged / "backups" / PLAN / first
        nowhere: list[float] = []
        runs: dict[str, list[Measured]] = {"all": [], "unchanged": [], "floor": [], "unchanged floor": []}
        for _ in range(options.repeat):
            nowhere.append(dump_to_nowhere(target))
            # A site without a verified set exports everything.
            runs["all"].append(in_fresh_process(back_up, changed))
            runs["unchanged"].append(in_fresh_process(back_up, unchanged))
            runs["floor"].append(in_fresh_process(floor_of_all, target, scratch / "floor"))
            runs["unchanged floor"].append(in_fresh_process(floor_of_unchanged, target, scratch / "floor", earlier))
            print(f"round done: {nowhere[-1]:.2f} s pg_dump", flush=True)
    assert all(run.result["reused"] == 0 for run in runs["all"])
    assert all(run.result["reused"] == len(TABLES) for run in runs["unchanged"])
    _report(report, min(nowhere), runs)
    report.write()


def _report(report: Report, nowhere: float, runs: dict[str, list[Measured]]) -> None:
    def row(what: str, kind: str, **target: Any) -> None:
        report.row(what, _best(runs[kind]), nowhere, other_name="pg_dump >/dev/null", **target)

    row("capture of everything, all rows changed, sealed", "all", at_most=2.4)
    row("floor: dump, one sum and one Parquet file of each table, read again, nothing checked", "floor")
    row("capture where nothing changed since the last verified set, sealed", "unchanged", at_most=1.4)
    row("floor: dump hashed, one sum of each table, the last files copied, all read again", "unchanged floor")
    for kind in ("all", "unchanged"):
        report.row(f"peak memory: {kind}", max(run.peak_mb for run in runs[kind]), unit="MB", at_most=400)


if __name__ == "__main__":
    main()
