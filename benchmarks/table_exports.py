"""Table exports: Parquet with exact types, against ADBC → Parquet and connectorx → Parquet, side by side.

    python -m benchmarks.table_exports [--size MEGABYTES] [--repeat N]

The peers get the same queries and write the same compression. Ours takes fingerprints, compares what it wrote with the
snapshot and validates; what that costs is shown by a row of its own, without them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.sources.postgres.settings import PostgresSource
from benchmarks.capture_once import capture
from benchmarks.data_database import TABLES, bench_server, make_database, size_of
from benchmarks.report import Measured, Report, in_fresh_process

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
            found,
            folder / f"connectorx_{table}.parquet",
            compression="zstd",
            compression_level=1,
            row_group_size=_ROW_GROUP,
        )
        rows += found.num_rows
    return rows


def export_bare(target: PostgresTarget, folder: Path, connections: int) -> int:
    """Write the same files as a capture does, without fingerprints, comparison and checks."""
    from benchmarks.export_bare import export

    return export(target, folder, connections)


def export_fingerprinted(target: PostgresTarget, folder: Path, connections: int) -> int:
    """Write the same files and take every table's fingerprint in the same snapshot."""
    from benchmarks.export_bare import export

    return export(target, folder, connections, fingerprints=True)


def export_ours(target: PostgresTarget, folder: Path, connections: int) -> int:
    """Capture every table, with fingerprints and all checks."""
    return int(capture(target, folder / "ours", "tables", {"connections": connections})["rows"])


def _best(repeat: int, sides: dict[str, tuple[Any, ...]]) -> dict[str, Measured]:
    """Run all sides in turn, `repeat` times, each in a fresh process; the best run of each counts."""
    best: dict[str, Measured] = {}
    for _ in range(repeat):
        for name, (function, *arguments) in sides.items():
            run = in_fresh_process(function, *arguments)
            print(f"{name}: {run.seconds:.2f} s", flush=True)
            if name not in best or run.seconds < best[name].seconds:
                best[name] = run
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=650, help="megabytes of tables")
    parser.add_argument("--repeat", type=int, default=2, help="runs of each, in turn; the best counts")
    options = parser.parse_args()
    report = Report("table_exports", "Table exports to Parquet with exact types")
    workers = int(PostgresSource.model_fields["connections"].default)
    with bench_server() as server, tempfile.TemporaryDirectory(prefix="bp-bench-") as scratch:
        begin = time.perf_counter()
        target = make_database(server, options.size)
        report.fact("table megabytes", round(size_of(target) / 1e6))
        print(f"database made in {time.perf_counter() - begin:.0f} s", flush=True)
        folder = Path(scratch)
        best = _best(
            options.repeat,
            {
                "ADBC": (export_adbc, target, folder),
                "connectorx": (export_connectorx, target, folder),
                "export": (export_bare, target, folder, workers),
                "export, 1 connection": (export_bare, target, folder, 1),
                "export and fingerprints": (export_fingerprinted, target, folder, workers),
                "capture": (export_ours, target, folder, workers),
            },
        )
    adbc, other, ours = best["ADBC"], best["connectorx"], best["capture"]
    assert len({run.result for run in best.values()}) == 1
    report.fact("rows", ours.result)
    report.fact("connections", workers)
    peers = (("ADBC → Parquet", adbc), ("connectorx → Parquet", other))
    bare, printed = best["export"], best["export and fingerprints"]
    for name, peer in peers:
        report.row("export", bare.seconds, peer.seconds, other_name=name, at_least=1.3)
    for name, peer in peers:
        report.row("export and fingerprints", printed.seconds, peer.seconds, other_name=name, at_least=1.0)
    single = best["export, 1 connection"].seconds
    report.row("export", bare.seconds, single, other_name="1 connection", at_least=1.0)
    note = "The peers check nothing: this row says what the checks of a capture cost."
    whole = "capture: export, fingerprints, figures, comparison, validation"
    for name, peer in peers:
        report.row(whole, ours.seconds, peer.seconds, other_name=name, note=note)
    report.row("peak memory", ours.peak_mb, unit="MB", at_most=400)
    report.row("peak memory, beside ADBC", ours.peak_mb, adbc.peak_mb, other_name="ADBC → Parquet", unit="MB")
    report.row("peak memory, beside connectorx", ours.peak_mb, other.peak_mb, other_name="connectorx", unit="MB")
    report.write()


if __name__ == "__main__":
    main()
