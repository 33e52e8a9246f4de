"""Table exports: Parquet with exact types, against ADBC → Parquet and connectorx → Parquet, side by side.

    python -m benchmarks.table_exports [--size MEGABYTES] [--repeat N]

The peers get the same queries and write the same compression. Ours takes fingerprints, compares what it wrote with the
snapshot and validates; what that costs is shown by a row of its own, without them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from backup_pipeline.tools.postgres.target import PostgresTarget
from benchmarks.capture_once import capture
from benchmarks.data_database import bench_server, make_database, size_of
from benchmarks.report import Measured, Report, in_fresh_process

TABLES = ("customers", "orders", "trades")
_ROW_GROUP = 122_880


def _url(target: PostgresTarget) -> str:
    return f"postgresql://{target.user}:{target.password}@{target.host}:{target.port}/{target.database}"


def export_adbc(target: PostgresTarget, folder: Path) -> int:
    """Stream every table through ADBC's reader into Parquet; numeric comes as text."""
    import adbc_driver_postgresql.dbapi as adbc
    import pyarrow.parquet as pq

    rows = 0
    with adbc.connect(_url(target)) as connection, connection.cursor() as cursor:
        for table in TABLES:
            cursor.execute(f"select * from {table}")
            reader = cursor.fetch_record_batch()
            path = folder / f"adbc_{table}.parquet"
            with pq.ParquetWriter(path, reader.schema, compression="zstd", compression_level=1) as writer:
                for batch in reader:
                    writer.write_batch(batch)
                    rows += batch.num_rows
    return rows


def export_connectorx(target: PostgresTarget, folder: Path) -> int:
    """Read every table with connectorx into Arrow and write Parquet; numeric becomes float, which loses digits."""
    import connectorx
    import pyarrow.parquet as pq

    rows = 0
    for table in TABLES:
        # It knows no arrays of text.
        what = "id, customer_id, placed_at, state, total, lines, tags::text as tags, note" if table == "orders" else "*"
        found: Any = connectorx.read_sql(_url(target), f"select {what} from {table}", return_type="arrow")
        pq.write_table(
            found, folder / f"connectorx_{table}.parquet", compression="zstd", compression_level=1,
            row_group_size=_ROW_GROUP,
        )  # fmt: skip
        rows += found.num_rows
    return rows


def export_bare(target: PostgresTarget, folder: Path, connections: int) -> int:
    """Write the same files as a capture does, without fingerprints, comparison and checks."""
    from benchmarks.export_bare import export

    return export(target, folder, connections)


def export_ours(target: PostgresTarget, folder: Path, connections: int) -> int:
    """Capture every table, with fingerprints and all checks."""
    return int(capture(target, folder / "ours", "tables", {"connections": connections})["rows"])


def _best(repeat: int, function: Any, *arguments: Any) -> Measured:
    runs = [in_fresh_process(function, *arguments) for _ in range(repeat)]
    return min(runs, key=lambda run: run.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=650, help="megabytes of tables")
    parser.add_argument("--repeat", type=int, default=2, help="runs of each, the best counts")
    options = parser.parse_args()
    report = Report("table_exports", "Table exports to Parquet with exact types")
    workers = max(2, min(4, os.cpu_count() or 2))
    with bench_server() as server, tempfile.TemporaryDirectory(prefix="bp-bench-") as scratch:
        begin = time.perf_counter()
        target = make_database(server, options.size)
        report.fact("table megabytes", round(size_of(target) / 1e6))
        print(f"database made in {time.perf_counter() - begin:.0f} s", flush=True)
        folder = Path(scratch)
        adbc = _best(options.repeat, export_adbc, target, folder)
        other = _best(options.repeat, export_connectorx, target, folder)
        bare = _best(options.repeat, export_bare, target, folder, workers)
        ours = _best(options.repeat, export_ours, target, folder, workers)
        single = _best(options.repeat, export_ours, target, folder, 1)
        assert adbc.result == other.result == ours.result == bare.result
    report.fact("rows", ours.result)
    report.fact("connections", workers)
    export = f"export only, {workers} connections"
    report.row(export, bare.seconds, adbc.seconds, other_name="ADBC → Parquet", at_least=1.3)
    report.row(export, bare.seconds, other.seconds, other_name="connectorx → Parquet", at_least=1.3)
    whole = "export, fingerprints, comparison, validation"
    report.row(whole, ours.seconds, adbc.seconds, other_name="ADBC → Parquet", at_least=1.0)
    report.row(whole, ours.seconds, other.seconds, other_name="connectorx → Parquet", at_least=1.0)
    report.row(f"{whole}: {workers} connections", ours.seconds, single.seconds, other_name="1 connection", at_least=1.0)
    report.row("peak memory", ours.peak_mb, unit="MB", at_most=400)
    report.row("peak memory, beside ADBC", ours.peak_mb, adbc.peak_mb, other_name="ADBC → Parquet", unit="MB")
    report.row("peak memory, beside connectorx", ours.peak_mb, other.peak_mb, other_name="connectorx", unit="MB")
    report.write()


if __name__ == "__main__":
    main()
