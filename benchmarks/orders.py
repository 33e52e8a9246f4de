"""The order archive: export, verify, restore against the old tool's published times and a plain Python loop.

`python -m benchmarks.orders [--sizes 10000 100000] [--folder DIR]`; `--sizes 1000000` for the million. Every measured
call runs in a fresh process, its imports before the clock. The old tool's times are those it published for 1,000
orders, scaled to the number of orders; the fair peer runs here: one process, per file write, sync and rename. A
thousand orders lie in memory, so the archive is verified twice: for the first time, when the system may have to read
again from the disk what was exported minutes ago, and once more, which is held against the old tool.

Nothing is deleted before the end: ext4 does not use an inode again for minutes after its file was deleted, and searches
past each of them whenever it makes a new one, which would be measured here. For the same reason each size begins by
making a few folders, again and again until that costs no more than it should, for five minutes at most; after deleting
very many files on that disk name a fresh file system with `--folder`.
"""

from __future__ import annotations

import argparse
import csv
import gc
import hashlib
import json
import os
import random
import resource
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import Report, in_fresh_process

OLD_TOOL_SECONDS_PER_ORDER = {"export": 0.030, "verify": 0.020, "restore": 0.045}
PEER_ORDERS = 10_000
_DDL = """CREATE TABLE auftraege (record_id INTEGER PRIMARY KEY, auftrag_nr TEXT, kunde_name TEXT, kunden_nr TEXT,
    kennzeichen TEXT, vin TEXT, datum TEXT, formular_version TEXT, keywords_json TEXT, file_path TEXT, hash TEXT,
    data_complete INTEGER, created_at TEXT, updated_at TEXT)"""


def make_database(path: Path, count: int) -> None:
    """Write `count` orders over twelve years; every tenth has an empty string, every seventh a NULL."""
    chance = random.Random(count)
    connection = sqlite3.connect(path)
    connection.execute(_DDL)

    def rows() -> Any:
        for i in range(1, count + 1):
            year, number = 2013 + i % 12, f"{i % 1_000_000:06}"
            yield (
                i,
                number,
                f'Müller "{i}", Söhne',
                "" if i % 10 == 0 else f"{i % 90_000:05}",
                f"B-AB {i % 9000 + 1}",
                None if i % 7 == 0 else f"WVWZZZ1JZXW{i % 1_000_000:06}",
                f"{year}-{1 + i % 12:02}-{1 + i % 28:02}",
                "2.1",
                f'{{"Garantie": [{i % 5}], "Ölwechsel": []}}',
                f"{year}/{number}/{number}_Auftrag.pdf",
                f"{chance.getrandbits(256):064x}",
                i % 2,
                f"{year}-01-01T08:00:00",
                f"{year}-06-01T08:{i % 60:02}:00",
            )

    connection.executemany(f"INSERT INTO auftraege VALUES ({', '.join('?' * 14)})", rows())
    connection.commit()
    connection.close()


def warm_up() -> float:
    """Import what the commands import, before the clock runs; return the memory that this took, in MB."""
    import backup_pipeline.sources.orders.restore
    import backup_pipeline.sources.orders.verify  # noqa: F401
    from backup_pipeline.sources.orders.format.schema import check_orders

    list(check_orders([("1", "000001", *[None] * 12)]))
    # As the command line does when it begins.
    gc.set_threshold(100_000)
    return float(psutil.Process().memory_info().rss) / (1 << 20)


def timed_export(folder: Path, archive: str, durable: bool) -> dict[str, float]:
    """Export and return seconds of the work, of waiting for the disk, and of a final sync."""
    imports = warm_up()
    from backup_pipeline.sources.orders.database.database import sqlite_orders
    from backup_pipeline.sources.orders.export import ExportOptions, export_orders
    from backup_pipeline.system.file_system import sync_file_system

    begin = time.perf_counter()
    with sqlite_orders(folder / "werkstatt.db") as snapshot:
        result = export_orders(snapshot, folder / archive, ExportOptions(durable=durable))
    work = time.perf_counter() - begin
    assert result.ok, result.summary()
    begin = time.perf_counter()
    descriptor = os.open(folder / archive, os.O_RDONLY)
    sync_file_system(descriptor)
    os.close(descriptor)
    final = time.perf_counter() - begin
    return {
        "work": work,
        "sync": result.sync_seconds,
        "final": final,
        "exported": result.exported,
        "imports_mb": imports,
    }


def timed_verify(folder: Path) -> dict[str, float]:
    """Verify without the database."""
    imports = warm_up()
    from backup_pipeline.sources.orders.verify import verify_orders

    begin = time.perf_counter()
    result = verify_orders(folder / "Archiv")
    assert result.ok, result.findings.kept[:3]
    work = time.perf_counter() - begin
    # Linux counts blocks of 512 bytes, of the processes that read too.
    blocks = sum(resource.getrusage(who).ru_inblock for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"work": work, "folders": result.folders, "imports_mb": imports, "read_mb": blocks * 512 / 1e6}


def timed_restore(folder: Path) -> dict[str, float]:
    """Restore into a new database and compare it with the exported one."""
    imports = warm_up()
    from backup_pipeline.sources.orders.restore import restore_orders

    target = folder / "restored.db"
    begin = time.perf_counter()
    result = restore_orders(folder / "Archiv", target)
    work = time.perf_counter() - begin
    connection = sqlite3.connect(folder / "werkstatt.db")
    connection.execute("ATTACH ? AS restored", (str(target),))
    unlike = connection.execute(
        "SELECT count(*) FROM (SELECT * FROM main.auftraege EXCEPT SELECT * FROM restored.auftraege)"
    ).fetchone()
    connection.close()
    target.unlink()
    assert unlike == (0,), unlike
    return {"work": work, "restored": result.restored, "imports_mb": imports}


def peer_export(folder: Path) -> dict[str, float]:
    """The plain loop: per order two files, each written, synced and renamed, and the folder synced."""
    connection = sqlite3.connect(folder / "werkstatt.db")
    connection.row_factory = sqlite3.Row
    begin = time.perf_counter()
    count = 0
    for row in connection.execute("SELECT * FROM auftraege ORDER BY record_id LIMIT ?", (PEER_ORDERS,)):
        place = folder / "Peer" / row["datum"][:4] / row["auftrag_nr"]
        place.mkdir(parents=True, exist_ok=True)
        data, part = place / "data.csv", place / "data.csv.tmp"
        with part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, row.keys())
            writer.writeheader()
            writer.writerow(dict(row))
            file.flush()
            os.fsync(file.fileno())
        part.replace(data)
        content = data.read_bytes()
        meta = {
            "schema_version": "1.0",
            "checksum": hashlib.sha256(content).hexdigest(),
            "exported_at": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "auftrag_nr": row["auftrag_nr"],
            "record_id": row["record_id"],
            "file_size": len(content),
        }
        part = place / "meta.json.tmp"
        with part.open("w", encoding="utf-8") as file:
            json.dump(meta, file, indent=2, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        part.replace(place / "meta.json")
        count += 1
    return {"work": time.perf_counter() - begin, "orders": count}


def file_system_alone(folder: Path, count: int) -> dict[str, float]:
    """The same files without us: per order a folder, two files written beside their names, two renames."""
    data, meta = b"x" * 450, b"x" * 230
    begin = time.perf_counter()
    for number in range(count):
        place = folder / f"{number // 5000}" / f"{number:06}"
        if not number % 5000:
            place.parent.mkdir(parents=True)
        os.mkdir(place)  # noqa: PTH102
        for name, content in (("data.csv", data), ("meta.json", meta)):
            descriptor = os.open(f"{place}/.{name}.part", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.write(descriptor, content)
            os.close(descriptor)
        for name in ("data.csv", "meta.json"):
            os.rename(f"{place}/.{name}.part", f"{place}/{name}")  # noqa: PTH104
    return {"work": time.perf_counter() - begin}


def wait_for_free_inodes(folder: Path, *, each: float = 200e-6, at_most: float = 300.0) -> None:
    """Wait while making a folder with two files takes more than `each` seconds of the processor: see the head."""
    end = time.monotonic() + at_most
    for attempt in range(1000):
        begin = time.process_time()
        file_system_alone(folder / f"probe{attempt}", 300)
        cost = (time.process_time() - begin) / 300
        if cost <= each or time.monotonic() > end:
            return
        print(f"the disk still passes over deleted inodes ({cost * 1e6:.0f} µs per folder); waiting", flush=True)
        time.sleep(15)


def settle() -> None:
    """Let earlier writes reach the disk, so that nobody pays for another's."""
    os.sync()


def measure_without_sync(report: Report, count: int, folder: Path) -> float:
    """Measure the export that does not wait for the disk; return its seconds."""
    label = f"{count:,} orders"
    old = OLD_TOOL_SECONDS_PER_ORDER["export"] * count
    settle()
    wait_for_free_inodes(folder / "Probes")
    alone = in_fresh_process(file_system_alone, folder / "Alone", count).result["work"]
    (folder / "Quick").mkdir()
    settle()
    quick = in_fresh_process(timed_export, folder, "Quick", False).result
    report.row(
        f"export, {label}",
        quick["work"],
        old,
        other_name="old tool",
        at_least=100,
        note=f"old tool: its published time for 1,000 orders, scaled; the final sync took {quick['final']:.2f} s more",
    )

    report.row(
        f"the same, {label}", quick["work"], alone, other_name="the same files by bare system calls, nothing in them"
    )
    return float(quick["work"])


def measure(report: Report, count: int, parent: Path, *, durable_only: bool = False) -> dict[str, float]:
    """Measure one size; return seconds per order."""
    folder = parent / str(count)
    folder.mkdir()
    old = {name: seconds * count for name, seconds in OLD_TOOL_SECONDS_PER_ORDER.items()}
    label = f"{count:,} orders"
    note = "old tool: its published time for 1,000 orders, scaled"
    make_database(folder / "werkstatt.db", count)

    quick = None if durable_only else measure_without_sync(report, count, folder)

    (folder / "Archiv").mkdir()
    settle()
    durable = in_fresh_process(timed_export, folder, "Archiv", True)
    settle()
    peer = in_fresh_process(peer_export, folder).result
    report.row(
        f"durable export, {label}",
        durable.result["work"],
        peer["work"] / peer["orders"] * count,
        other_name="plain loop, fsync per file",
        at_least=3,
        note=f"of ours {durable.result['sync']:.2f} s are syncs; the loop ran {peer['orders']:,} orders, scaled",
    )

    again = in_fresh_process(timed_export, folder, "Archiv", True)
    assert again.result["exported"] == 0
    report.row(
        f"export of an unchanged archive, {label}",
        again.result["work"],
        durable.result["work"],
        other_name="first durable export",
        at_least=20,
    )
    if quick is not None:
        report.row(
            f"the same against the export without syncs, {label}",
            again.result["work"],
            quick,
            other_name="first export, no sync",
        )
    connection = sqlite3.connect(folder / "werkstatt.db")
    connection.execute("UPDATE auftraege SET kunde_name = 'Neu' WHERE record_id = 1")
    connection.commit()
    connection.close()
    one = in_fresh_process(timed_export, folder, "Archiv", True).result
    assert one["exported"] == 1
    report.row(
        f"export after one order changed, {label}",
        one["work"],
        durable.result["work"],
        other_name="first durable export",
    )

    settle()
    first = in_fresh_process(timed_verify, folder).result
    report.row(
        f"verify for the first time since the export, {label}",
        first["work"],
        old["verify"],
        other_name="old tool",
        note=f"{first['read_mb']:,.0f} MB came from the disk",
    )
    verify = in_fresh_process(timed_verify, folder)
    assert verify.result["folders"] == count
    report.row(
        f"verify, {label}",
        verify.result["work"],
        old["verify"],
        other_name="old tool",
        at_least=150,
        note=f"{note}; {verify.result['read_mb']:,.0f} MB came from the disk",
    )
    restore = in_fresh_process(timed_restore, folder)
    assert restore.result["restored"] == count
    report.row(
        f"restore, {label}", restore.result["work"], old["restore"], other_name="old tool", at_least=200, note=note
    )
    costs = {}
    for name, done in (("export", durable), ("verify", verify), ("restore", restore)):
        report.row(
            f"memory of {name}, {label}",
            done.peak_mb,
            unit="MB",
            note=f"{done.result['imports_mb']:.0f} MB of it are imports, before the first order",
        )
        costs[name] = done.result["work"] / count
        costs[f"{name} memory"] = done.peak_mb
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to measure")
    parser.add_argument("--durable-only", action="store_true", help="leave the export without syncs out (it is long)")
    parser.add_argument("--name", default="orders", help="name of the result's files")
    options = parser.parse_args()
    report = Report(options.name, "Workshop archive: export, verify, restore")
    report.fact("sizes", ", ".join(f"{size:,}" for size in options.sizes))
    if options.durable_only:
        report.fact("option", "--durable-only")
    folder = Path(tempfile.mkdtemp(prefix="orders-", dir=options.folder))
    try:
        costs = {
            size: measure(report, size, folder, durable_only=options.durable_only) for size in sorted(options.sizes)
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    small, large = min(costs), max(costs)
    if small != large:
        for name in costs[small]:
            unit = "MB" if "memory" in name else "ms/order"
            factor = 1 if unit == "MB" else 1000
            report.row(
                f"{name}: {large:,} against {small:,} orders",
                costs[large][name] * factor,
                costs[small][name] * factor,
                other_name=f"{small:,} orders",
                unit=unit,
                at_most=1.5,
            )
    report.write()


if __name__ == "__main__":
    main()
