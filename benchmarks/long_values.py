"""Peak memory of a capture whose largest values have hundreds of megabytes: one text and one byte string.

python -m benchmarks.long_values [megabytes]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from backup_pipeline.postgres.server.connection import connected
from benchmarks.capture_once import capture
from benchmarks.data_database import bench_server
from benchmarks.report import Report, in_fresh_process

_AT_MOST = 600.0


def main() -> None:
    """Measure and write the result."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    report = Report("long_values", "Peak memory of a capture of very long values")
    with bench_server() as server, tempfile.TemporaryDirectory(prefix="bp-bench-") as scratch:
        with connected(server.target()) as connection:
            connection.execute('create database "long" template template0')
        target = server.target("long")
        values = {
            "text": f"repeat(md5('x'), {megabytes << 15})",
            "bytea": f"decode(repeat(md5('y'), {megabytes << 16}), 'hex')",
        }
        with connected(target) as connection:
            for kind, value in values.items():
                connection.execute(f"create table public.long_{kind} (id int primary key, v {kind})".encode())
                connection.execute(f"insert into public.long_{kind} values (1, {value})".encode())
        for what in ("dump", "tables"):
            done = in_fresh_process(capture, target, Path(scratch) / what, what, {"connections": 1})
            subject = f"{what}: a text and a byte string of {megabytes} MB each"
            report.row(subject, done.peak_mb, unit="MB", at_most=_AT_MOST, note=f"{done.seconds:.1f} s")
    report.write()


if __name__ == "__main__":
    main()
