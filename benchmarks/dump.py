"""The dump with gzip or zstd, SHA-256 and completeness check, against `pg_dump | gzip`, `| zstd` and `>/dev/null`.

    python -m benchmarks.dump [--size MEGABYTES] [--repeat N]

Ours and the quick peers take turns, and the best run of each counts. Ours is the whole artefact function: snapshot,
locks, catalog, dump, digest, check and record, synced to the disk. The fingerprints of all tables, which the record of
a dump also holds, are a row of their own. The floors do only what cannot be omitted, with the same libraries: pg_dump,
pieces of fixed size compressed in threads, SHA-256 of the content and of the file, one sync; nothing is checked. The
command around it is `backup` of a plan with this dump alone, cold from the shell, less the work with its fingerprints;
beside it stands a program that runs one empty asset by Dagster alone. What a dump does beside the floor is to
cut its text by content and to count the rows of each table: their processor time is a row.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pyfastcdc import FastCDC

from backup_pipeline.postgres.catalog.read import read_catalog
from backup_pipeline.postgres.export.dump_content import DumpContent
from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.snapshot import exported_snapshot
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.sources.postgres.dump import completeness, write_dump
from backup_pipeline.system.streams import Compression, compressor, gunzip
from benchmarks.capture_once import capture, settings_with, writer_in
from benchmarks.cold_commands import bare_run, cost
from benchmarks.cold_commands import ours as ours_cold
from benchmarks.data_database import bench_server, make_database, size_of
from benchmarks.report import Measured, Report, in_fresh_process

_PIECE: dict[Compression, int] = {"gzip": 1 << 20, "zstd": 7 << 20}
_AHEAD = 4


def dump_only(target: PostgresTarget, folder: Path, compression: str) -> dict[str, Any]:
    """Dump, compressed, with digests and completeness check, as a capture does, without the tables' fingerprints."""
    context = writer_in(folder)
    settings = settings_with(compression=compression)
    with exported_snapshot(target) as snapshot:
        catalog = read_catalog(snapshot.connection)
        written = write_dump(context, settings, snapshot, lambda: catalog)
        check = completeness(written, catalog.tables, {})
    assert check.passed, check
    return {"size": written.files[0].size}


def dump_with_fingerprints(target: PostgresTarget, folder: Path) -> dict[str, Any]:
    """Capture the artefact "dump" as a run does."""
    return capture(target, folder, "dump", {"connections": 2})


def floor_of(target: PostgresTarget, path: Path, compression: Compression) -> None:
    """Compress pg_dump's output in threads and hash it and the file: what no dump with such a record can omit."""
    size, pack = _PIECE[compression], compressor(compression)
    command = [str(choose_client(18).program("pg_dump")), *target.program_arguments()]
    environment = {**os.environ, **target.program_environment()}
    content, packed = hashlib.sha256(), hashlib.sha256()
    running: deque[Future[bytes]] = deque()
    with path.open("wb") as file, ThreadPoolExecutor(2) as pool:

        def write() -> None:
            data = running.popleft().result()
            packed.update(data)
            file.write(data)

        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 1 << 20)
            while piece := process.stdout.read(size):
                content.update(piece)
                running.append(pool.submit(pack, piece))
                while len(running) > _AHEAD or (running and running[0].done()):
                    write()
        while running:
            write()
        file.flush()
        os.fsync(file.fileno())
    if process.returncode:
        raise RuntimeError("pg_dump failed")


def checked_and_cut(path: Path) -> float:
    """Count the rows of a dump's text and cut it by content, nothing else; return the processor seconds of both."""
    content, cutter = DumpContent(), FastCDC(64 << 10, min_size=16 << 10, max_size=256 << 10)
    with path.open("rb") as file:
        text = list(gunzip(file, name=path.name))
    digest = hashlib.sha256()
    begin = time.process_time()
    for piece in text:
        digest.update(piece)
    hashed = time.process_time()
    for piece in text:
        content.feed(piece)
        for _ in cutter.cut_buf(piece):
            pass
    # The content is hashed in the floor, too.
    return time.process_time() - hashed - (hashed - begin)


def _shell(target: PostgresTarget, tail: str) -> float:
    client = choose_client(18)
    command = " ".join(f"'{part}'" for part in [client.program("pg_dump"), *target.program_arguments()]) + tail
    begin = time.perf_counter()
    subprocess.run(["/bin/sh", "-c", command], check=True, env={**os.environ, **target.program_environment()})
    return time.perf_counter() - begin


def processor(run: Measured) -> str:
    """Say what a run took of the processors, which other work on the machine changes less than the time."""
    return f"{run.processor_seconds:.1f} s of processor, without the server's"


def best(repeat: int, *measures: Callable[[], Any]) -> list[Any]:
    """Return the quickest of several runs of each, which take turns."""
    rounds = [[measure() for measure in measures] for _ in range(repeat)]
    return [
        min(runs, key=lambda run: run if isinstance(run, float) else run.seconds) for runs in zip(*rounds, strict=True)
    ]


def main() -> None:
    # What it loads is no part of a dump's memory, and is not loaded in the processes that measure it.
    from benchmarks.set_site import PLAN, make_site

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=650, help="megabytes of tables")
    parser.add_argument("--repeat", type=int, default=2, help="runs of each, the best counts")
    options = parser.parse_args()
    report = Report("dump", "Dump of a database: gzip, SHA-256 and completeness check in one pass")
    with bench_server() as server, tempfile.TemporaryDirectory(prefix="bp-bench-") as scratch:
        target = make_database(server, options.size)
        report.fact("table megabytes", round(size_of(target) / 1e6))
        folder = Path(scratch)
        gzip_file = folder / "peer.sql.gz"
        zstd_file = folder / "peer.sql.zst"
        nowhere, ours, floor, zstd, zstd_floor, zstd_peer = best(
            options.repeat,
            lambda: _shell(target, " > /dev/null"),
            lambda: in_fresh_process(dump_only, target, folder / "ours", "gzip"),
            lambda: in_fresh_process(floor_of, target, folder / "floor", "gzip"),
            lambda: in_fresh_process(dump_only, target, folder / "zstd", "zstd"),
            lambda: in_fresh_process(floor_of, target, folder / "floor", "zstd"),
            lambda: _shell(target, f" | zstd -q -f -3 -T2 -o '{zstd_file}'"),
        )
        [peer] = best(1, lambda: _shell(target, f" | gzip > '{gzip_file}'"))
        [whole] = best(options.repeat, lambda: in_fresh_process(dump_with_fingerprints, target, folder / "whole"))
        site = make_site(folder / "site", target, tables="tables: {include: []}")
        cold = cost(ours_cold("backup", PLAN, "--config", str(site)), times=options.repeat)
        history = folder / "history"
        history.mkdir()
        least = cost(bare_run(), times=options.repeat, given={"DAGSTER_HOME": str(history)})
        beside = checked_and_cut(gzip_file)
        gzip_size, zstd_size = gzip_file.stat().st_size, zstd_file.stat().st_size
    what = "dump, gzip, SHA-256, completeness"
    bare = "floor: pg_dump, {}, SHA-256, nothing checked"
    report.row(what, ours.seconds, peer, other_name="pg_dump | gzip", at_least=3.5)
    note = processor(ours)
    report.row(what, ours.seconds, nowhere, other_name="pg_dump >/dev/null", at_most=1.1, note=note)
    note = processor(floor)
    report.row(bare.format("gzip"), floor.seconds, nowhere, other_name="pg_dump >/dev/null", note=note)
    report.row("beside the floor: rows counted, text cut by content, processor alone", beside)
    zstd_name, note = "pg_dump | zstd -3 -T2", processor(zstd)
    zstd_what = "dump, zstd, SHA-256, completeness"
    report.row(zstd_what, zstd.seconds, zstd_peer, other_name=zstd_name, at_least=1.0, note=note)
    note = processor(zstd_floor)
    report.row(bare.format("zstd"), zstd_floor.seconds, zstd_peer, other_name=zstd_name, note=note)
    report.row(
        "size of the zstd file",
        zstd.result["size"] / 1e6,
        zstd_size / 1e6,
        other_name=zstd_name,
        unit="MB",
        at_most=1.0,
    )
    report.row(
        "size of the file", ours.result["size"] / 1e6, gzip_size / 1e6, other_name="gzip", unit="MB", at_most=1.05
    )
    report.row("peak memory of the process", ours.peak_mb, unit="MB", at_most=150)
    report.row("with the fingerprints of every table", whole.seconds, peer, other_name="pg_dump | gzip")
    around = "the whole command around that, cold from the shell"
    note = f"{cold.wall:.1f} s in all, {cold.cpu:.1f} s of processor"
    report.row(around, cold.wall - whole.seconds, at_most=2.5, note=note)
    note = f"{least.cpu:.1f} s of processor"
    report.row("one empty asset by Dagster alone, in a history of its own, cold", least.wall, note=note)
    report.write()


if __name__ == "__main__":
    main()
