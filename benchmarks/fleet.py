"""Simulation of a large fleet: 10,000 databases of 50 TB, from the costs per database and per GB that were measured.

    python -m benchmarks.fleet [--databases 10000] [--terabytes 50] [--window 8] [--change 0.05]

Nothing is measured here. The costs are read from `results/*.json`, so they follow when those are measured anew; the
members' order, limits and window are the product's own (`rules.fleet_order`), stepped through without a clock. Sizes of
databases are spread log-normally, as those of customers are, with one seed. Prices are a table with its date.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from backup_pipeline.rules.fleet_order import Admission, FleetLimits, WaitingMember
from benchmarks.report import RESULTS, Report

_SPREAD = 1.6
_SEED = 17
_NIGHTS = 30
_GB, _MIB = 1e9, 1 << 20
# What of a machine's processors and of its link is planned with.
_USABLE = 0.75
_OBJECTS_OF_A_SET = 3
_SERVERS_PER_DATABASES = 20
_PER_SERVER = 2


@dataclass(frozen=True)
class StoragePrice:
    """A provider's price list for objects, in US dollars, as it was read on a day.

    Attributes:
        gb_month: per GB and month.
        million_puts: per million requests that write or list.
        million_gets: per million requests that read.
        gb_out: per GB that leaves.
    """

    provider: str
    gb_month: float
    million_puts: float
    million_gets: float
    gb_out: float
    read_on: str
    source: str


@dataclass(frozen=True)
class MachinePrice:
    """A machine's price: dollars a month, also where it runs for some hours of each night only."""

    name: str
    processors: int
    memory_gb: float
    month: float
    link_gbit: float
    read_on: str
    source: str


STORAGE = (
    StoragePrice("Cloudflare R2", 0.015, 4.50, 0.36, 0.0, "2026-06-13", "developers.cloudflare.com/r2/pricing"),
    StoragePrice("Wasabi (at least 90 days)", 0.00799, 0.0, 0.0, 0.0, "2026-07-01", "wasabi.com/pricing"),
    StoragePrice(
        "Google Cloud Storage, Standard, us-central1",
        0.000027397 * 730 * _GB / (1 << 30),
        5.0,
        0.4,
        0.12,
        "2026-09-20",
        "cloud.google.com/storage/pricing",
    ),
)
# EUR 6.49 net at 1.1637 USD (ECB of that day). Its link is shared, and no bandwidth is promised: 1 Gbit/s is assumed.
MACHINE = MachinePrice("Hetzner CX33", 4, 8.0, 7.55, 1.0, "2026-05-27", "api.hetzner.cloud/v1/pricing")
# Of as many processors: EUR 135.73 in Frankfurt at 1.1133 USD (ECB of that day), by a table made from AWS's price list,
# which has no links. For the store of S3 no price list with its date was to be had: `--store` takes what you pay.
OTHER_MACHINE = MachinePrice("EC2 m6a.xlarge", 4, 16.0, 151.11, 1.0, "2026-10-28", "moveinfra/eu-cloud-prices")


@dataclass(frozen=True)
class Costs:
    """What was measured: processor seconds of a worker, seconds of a database's own dump, bytes.

    Attributes:
        database: processor seconds for a database whatever its size.
        gb: processor seconds per GB of tables, for the dump and its copy into a vault.
        gb_exported: the same with a Parquet file of each table and its fingerprint.
        gb_alone: wall seconds per GB of one dump, which nothing makes parallel.
        packed: size of the dump by that of the tables.
        extra: new bytes in the vault by bytes that changed.
        chunks_per_mib: objects that a MiB becomes in the vault.
        memory_mb: peak of a worker.
    """

    database: float
    gb: float
    gb_exported: float
    gb_alone: float
    packed: float
    extra: float
    chunks_per_mib: float
    memory_mb: float


def _rows(name: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    document = json.loads((RESULTS / f"{name}.json").read_text())
    return {row["what"]: row for row in document["rows"]}, document["facts"]


def _processor(row: dict[str, Any]) -> float:
    found = re.search(r"([0-9.]+) s of processor|processor ([0-9.]+) s", row["note"])
    assert found is not None, row["what"]
    return float(found[1] or found[2])


def measured(change: float) -> Costs:
    """Return the costs from the results; `change` is the share of a database that is new each night."""
    many, _ = _rows("many_databases")
    dump, facts = _rows("dump")
    whole, whole_facts = _rows("whole_capture")
    vault, _ = _rows("vault")
    memory = dump["peak memory of the process"]["ours"]
    table_gb = facts["table megabytes"] / 1e3
    # `dump` has two rows of this name, one for each peer; the one that names the processor's seconds is the last.
    own = dump["dump, gzip, SHA-256, completeness"]
    few, most = (many[f"`backup` of {count} databases of 3 tables"] for count in (2, 60))
    again, first = vault["400 MB dump, S3: copy, nothing changed"]["ours"], vault["400 MB dump, S3: first copy"]["ours"]
    packed = dump["size of the file"]["ours"] / facts["table megabytes"]
    # A copy reads all of the dump, and sends what is new of it. Measured on a wall clock: an upper bound of processor.
    copied = (again + change * (first - again)) / 0.4 * packed
    exported = whole["capture of everything, all rows changed, sealed"]["ours"] / (whole_facts["table megabytes"] / 1e3)
    return Costs(
        database=(_processor(most) - _processor(few)) / 58,
        gb=_processor(own) / table_gb + copied,
        gb_exported=exported + copied,
        gb_alone=own["ours"] / table_gb + copied,
        packed=packed,
        extra=vault["400 MB dump, S3: new bytes, 1 % more"]["ours"],
        chunks_per_mib=vault["400 MB dump, S3: chunks per MiB"]["ours"],
        memory_mb=max(memory, vault["400 MB dump, S3: peak memory of a step"]["ours"]),
    )


def sizes_of(databases: int, terabytes: float) -> list[float]:
    """Return the sizes of databases in GB."""
    generator = random.Random(_SEED)
    drawn = [generator.lognormvariate(0, _SPREAD) for _ in range(databases)]
    return [one * terabytes * 1e3 / sum(drawn) for one in drawn]


def hours_of(shares: Sequence[Sequence[tuple[int, float]]], costs: Costs, gb: float) -> list[float]:
    """Return the hours that each machine takes for its share of (number, GB), by the product's own admission.

    Work that several workers of a machine do at once shares its processors: it takes longer by as much.
    """
    parallel = MACHINE.processors
    opened = datetime(2026, 11, 27, 22, tzinfo=UTC)
    found = []
    for share in shares:
        size = dict(share)
        servers = max(1, len(size) // _SERVERS_PER_DATABASES)
        waiting = [WaitingMember(str(n), f"s{n % servers}", "one") for n in size]
        admission = Admission(waiting, FleetLimits(parallel, _PER_SERVER), opened, None)
        ends: list[tuple[datetime, str]] = []
        now = opened
        while True:
            while (one := admission.begin(now)) is not None:
                work = costs.database + size[int(one.plan)] * gb
                alone = costs.database + size[int(one.plan)] * costs.gb_alone
                heapq.heappush(ends, (now + timedelta(seconds=max(alone, work / _USABLE)), one.plan))
            if not ends:
                break
            now, ended = heapq.heappop(ends)
            admission.end(ended)
        found.append((now - opened).total_seconds() / 3600)
    return found


def machines_for(sizes: Sequence[float], costs: Costs, gb: float, window: float) -> tuple[int, float]:
    """Return how many machines hold a window (in hours), and the hours that the slowest of them takes."""
    work = len(sizes) * costs.database + sum(sizes) * gb
    # The databases are read over the machines' links: what these carry is a limit beside the processors.
    read_gbit = sum(sizes) * 8 / (window * 3600)
    count = max(
        1,
        math.ceil(work / (window * 3600 * MACHINE.processors)),
        math.ceil(read_gbit / (MACHINE.link_gbit * _USABLE)),
    )
    while True:
        # The largest first, each to the machine that has the least: what a person would do with a list.
        heap: list[tuple[float, int]] = [(0.0, number) for number in range(count)]
        shares: list[list[tuple[int, float]]] = [[] for _ in range(count)]
        for number, size in sorted(enumerate(sizes), key=lambda each: -each[1]):
            load, machine = heapq.heappop(heap)
            shares[machine].append((number, size))
            heapq.heappush(heap, (load + size, machine))
        hours = max(hours_of(shares, costs, gb))
        if hours <= window or hours <= max(sizes) * max(costs.gb_alone, gb / _USABLE) / 3600 * 1.05:
            return count, hours
        count = max(count + 1, math.ceil(count * min(1.5, hours / window)))


def main() -> None:
    """Simulate, and write results/fleet.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--databases", type=int, default=10_000)
    parser.add_argument("--terabytes", type=float, default=50.0)
    parser.add_argument("--window", type=float, default=8.0, help="hours")
    parser.add_argument("--change", type=float, default=0.05, help="share of the data that is new each night")
    parser.add_argument("--kept", type=int, default=30, help="sets that are kept of each database")
    parser.add_argument(
        "--store",
        nargs=5,
        action="append",
        default=[],
        metavar=("NAME", "GB_MONTH", "MILLION_PUTS", "MILLION_GETS", "GB_OUT"),
        help="another store by your own price list, in dollars",
    )
    given = parser.parse_args()
    costs, sizes = measured(given.change), sizes_of(given.databases, given.terabytes)
    report = Report("fleet", f"Simulation: {given.databases:,} databases, {given.terabytes:g} TB, {given.window:g} h")
    report.fact("nothing was measured here", "costs are those of results/*.json, prices those of the days named")
    report.fact("new each night", f"{given.change:.0%}")
    report.fact("sets kept", given.kept)
    report.fact("largest database, GB", round(max(sizes)))
    report.fact("median database, GB", round(sorted(sizes)[len(sizes) // 2], 2))
    report.fact("machine", f"{MACHINE.name}, {MACHINE.processors} processors; {MACHINE.read_on}, {MACHINE.source}")
    report.fact("other machine", f"{OTHER_MACHINE.name}; {OTHER_MACHINE.read_on}, {OTHER_MACHINE.source}")
    prices = [*STORAGE, *(StoragePrice(name, *map(float, rest), "today", "--store") for name, *rest in given.store)]
    for price in prices:
        report.fact(price.provider, f"{price.read_on}, {price.source}")
    report.row("processor per database, whatever its size", costs.database, note="many_databases: 60 less 2, by 58")
    report.row("processor per GB: dump, and copy into a vault", costs.gb, note="dump, vault")
    report.row("wall per GB with table exports, on two processors", costs.gb_exported, note="whole_capture, vault")
    machines = 0
    for what, gb in (("dumps", costs.gb), ("dumps and table exports", costs.gb_exported * 2)):
        count, hours = machines_for(sizes, costs, gb, given.window)
        machines = machines or count
        late = "; the largest database takes longer than the window" if hours > given.window else ""
        report.row(f"machines, {what}", count, unit="machines", note=f"the slowest is done after {hours:.1f} h{late}")
        report.row(f"machines by the month, {what}", count * MACHINE.month, unit="$", note="running all month")
        other = f"as many {OTHER_MACHINE.name} by the month, {what}"
        report.row(other, count * OTHER_MACHINE.month, unit="$", note="on demand; its link is taken for the same")
        if what == "dumps":
            bottleneck(report, given, costs, sizes, count, hours)
    money(report, given, costs, sum(sizes), prices)
    report.write()


def bottleneck(
    report: Report, given: argparse.Namespace, costs: Costs, sizes: Sequence[float], count: int, hours: float
) -> None:
    """Add how near each part is to its limit: the nearest is where the next one lies."""
    window = given.window * 3600
    servers = max(1, given.databases // _SERVERS_PER_DATABASES)
    read_gbit = sum(sizes) * 8 / window / count
    parts = {
        "the largest database alone (one dump is one process)": max(sizes) * costs.gb_alone / window,
        "the machines' processors": (len(sizes) * costs.database + sum(sizes) * costs.gb)
        / (window * count * MACHINE.processors),
        "the machines' links, reading the databases": read_gbit / (MACHINE.link_gbit * _USABLE),
        "a server of 20 databases, two dumps at once": sum(sizes) / servers * costs.gb_alone / _PER_SERVER / window,
        "the machines' memory": costs.memory_mb * MACHINE.processors / (MACHINE.memory_gb * 1e3),
        "the store's requests (S3's documented 3,500 writes a second)": puts_of(given, costs, sum(sizes))
        / window
        / 3500,
    }
    for what, share in sorted(parts.items(), key=lambda each: -each[1]):
        report.row(
            f"used of {what}",
            share * 100,
            unit="%",
            note="the next bottleneck" if what == max(parts, key=lambda each: parts[each]) else "",
        )
    report.fact("the slowest machine is done after, h", round(hours, 1))


def puts_of(given: argparse.Namespace, costs: Costs, gb: float) -> float:
    """Return the requests that write, of one night."""
    new_mib = gb * costs.packed * given.change * costs.extra * _GB / _MIB
    return new_mib * costs.chunks_per_mib + given.databases * _OBJECTS_OF_A_SET


def money(report: Report, given: argparse.Namespace, costs: Costs, gb: float, prices: Sequence[StoragePrice]) -> None:
    """Add what the store takes and costs a month, by provider."""
    packed = gb * costs.packed
    stored = packed * (1 + given.change * costs.extra * (given.kept - 1))
    puts = puts_of(given, costs, gb) * _NIGHTS
    # Each night a list of what is there per database, and the header of its newest copy.
    gets = given.databases * 2 * _NIGHTS
    report.row("stored", stored / 1e3, unit="TB", note=f"{packed / 1e3:.1f} TB packed, and what is new of the others")
    report.row("sent a night", packed * given.change * costs.extra / 1e3, unit="TB")
    report.row("requests a month that write", puts / 1e6, unit="million")
    for price in prices:
        month = stored * price.gb_month + puts / 1e6 * price.million_puts + gets / 1e6 * price.million_gets
        back = stored / (1 + given.change * costs.extra * (given.kept - 1)) * price.gb_out
        note = f"of it requests {puts / 1e6 * price.million_puts:,.0f} $; to fetch all of it once {back:,.0f} $"
        report.row(f"store by the month, {price.provider}", month, unit="$", note=note)


if __name__ == "__main__":
    main()
