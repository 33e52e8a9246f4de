"""Rebuilding a database against `gunzip -c | psql` and `pg_restore -j`, and the comparison's share of it.

python -m benchmarks.restore [--megabytes 300] [--rounds 2]

All of them restore the same data into a new database of the same server, with the server's default settings. A rebuild
of ours ends with ANALYZE of every table, so that the database is fit for work as soon as it is swapped in; the others
leave that for later. The promise holds for the whole rebuild. Two rows beside it show the rebuild without ANALYZE, and
`pg_restore -j` with an ANALYZE of its own. The floor does only what the server itself cannot be spared: rows that lie
unpacked and in equal shares, copied by one psql for each connection, the indexes and keys by `pg_restore -j`, and
ANALYZE of the tables side by side; nothing is read from a dump or checked.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backup_pipeline.postgres.compare.comparison import Expectation, compare_database
from backup_pipeline.postgres.load.check import (
    catalog_and_roles_of,
    fingerprints_of,
    large_objects_of,
    tables_of,
)
from backup_pipeline.postgres.load.input import plain_sql
from backup_pipeline.postgres.load.load import load_plain_dump
from backup_pipeline.postgres.load.rebuild import LoadOptions, rebuild_database
from backup_pipeline.postgres.server.clients import PostgresClient, choose_client
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.databases import create_database, drop_database, server_facts
from backup_pipeline.postgres.server.embedded import EmbeddedServer, server_up
from backup_pipeline.postgres.server.target import PostgresTarget
from benchmarks.data_database import TABLES, make_database, size_of
from benchmarks.report import Report

_INDEXES = """
create index on trades (symbol, executed_at); create index on trades (account); create index on trades (booked_on);
create index on orders (customer_id); create index on orders (placed_at); create index on orders using gin (tags);
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 2)
    options = parser.parse_args()
    report = Report("restore", "Restoring a database")
    folder = Path(tempfile.mkdtemp(prefix="bp-bench-", dir="/tmp"))
    folder.chmod(0o711)
    server = EmbeddedServer(folder / "postgres")
    try:
        with server_up(server):
            run(server, folder, options, report)
    finally:
        server.remove()
        subprocess.run(["rm", "-rf", str(folder)], check=False)
    report.write()


def run(server: EmbeddedServer, folder: Path, options: argparse.Namespace, report: Report) -> None:
    source = make_database(server, options.megabytes)
    with connected(source, pinned=False) as connection:
        connection.execute(_INDEXES.encode())
        connection.execute("vacuum analyze")
    client = choose_client(server_facts(source).major)
    plain, custom = folder / "dump.sql.gz", folder / "dump.custom"
    dump(client, source, f"| gzip -1 > {plain}", "--format=plain")
    dump(client, source, f"> {custom}", "--format=custom", "--compress=1")
    catalog, roles = catalog_and_roles_of(source)
    marks = fingerprints_of(source, dict.fromkeys(tables_of(source), ""))
    expected = Expectation(catalog, roles, marks, large_objects_of(source))  # type: ignore[arg-type]
    report.fact("tables without indexes, MB", round(size_of(source) / 1e6))
    report.fact("dump (gzip), MB", round(plain.stat().st_size / 1e6))
    report.fact("connections", options.jobs)
    report.fact("PostgreSQL", client.version_text)
    target = source.with_database("restored")
    shares = unpacked(client, source, folder, options.jobs)
    compared: list[float] = []

    def ours() -> None:
        rebuild_database(lambda: plain.open("rb"), target, options=LoadOptions(jobs=options.jobs))

    def ours_alone() -> None:
        create_database(target)
        with plain.open("rb") as file, plain_sql(file, client) as reader:
            load_plain_dump(reader, target, jobs=options.jobs, analyze=False)

    def ours_through_custom() -> None:
        rebuild_database(lambda: custom.open("rb"), target, options=LoadOptions(jobs=options.jobs))

    def psql() -> None:
        create_database(target)
        shell(f"gunzip -c {plain} | {quoted(client, 'psql', target)} -X -q -v ON_ERROR_STOP=1 >/dev/null", target)

    def pg_restore() -> None:
        create_database(target)
        shell(f"{quoted(client, 'pg_restore', target)} -j{options.jobs} --exit-on-error {custom}", target)

    def pg_restore_analyzed() -> None:
        pg_restore()
        shell(f"{quoted(client, 'psql', target)} -X -q -c analyze", target)

    def floor() -> None:
        create_database(target)
        restore = f"{quoted(client, 'pg_restore', target)} --exit-on-error {custom}"
        shell(f"{restore} --section=pre-data", target)
        psql = f"{quoted(client, 'psql', target)} -X -q -v ON_ERROR_STOP=1"
        copies = [" ".join(f"-c '\\copy {table} from {share / table}'" for table in TABLES) for share in shares]
        side_by_side([f"{psql} {copy}" for copy in copies], target)
        shell(f"{restore} --section=post-data -j{options.jobs}", target)
        side_by_side([f"{psql} -c 'analyze {table}'" for table in TABLES], target)

    ways: dict[str, Callable[[], None]] = {
        "ours": ours,
        "ours, without ANALYZE": ours_alone,
        "gunzip -c | psql": psql,
        f"pg_restore -j{options.jobs}": pg_restore,
        f"pg_restore -j{options.jobs}; analyze": pg_restore_analyzed,
        "ours, custom format": ours_through_custom,
        "floor": floor,
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(options.rounds):
        for name, way in ways.items():
            drop_database(target)
            with connected(source) as connection:
                connection.execute("checkpoint")
            began = time.perf_counter()
            way()
            best[name] = min(best[name], time.perf_counter() - began)
            if name == "ours":
                result = compare_database(target, expected, jobs=options.jobs)
                assert not result.findings, result.findings
                compared.append(result.seconds)
    parallel = f"pg_restore -j{options.jobs}"
    peers = ("gunzip -c | psql", parallel)
    fastest = min(peers, key=lambda name: best[name])
    whole = "rebuild from plain SQL (gzip), with ANALYZE"
    report.row(whole, best["ours"], best[fastest], other_name=f"{fastest} (the faster)", at_least=1.0)
    report.row("the same, held against the aim", best["ours"], best[parallel], other_name=parallel, at_least=1.3)
    for name in peers:
        alone = best["ours, without ANALYZE"]
        report.row("the rebuild without ANALYZE", alone, best[name], other_name=name)
    report.row(whole, best["ours"], best[f"{parallel}; analyze"], other_name=f"{parallel}; analyze")
    least = "floor: unpacked rows copied side by side, indexes, keys and ANALYZE, nothing read from a dump or checked"
    report.row(least, best["floor"], best[parallel], other_name=parallel)
    analyzed = best[f"{parallel}; analyze"]
    bare = "floor of the custom format: pg_restore -j and ANALYZE of the same archive, nothing compared"
    report.row(bare, analyzed, best[parallel], other_name=parallel)
    custom_name = "ours, custom format"
    for name, aim in ((parallel, 1.2), (f"{parallel}; analyze", None)):
        what = "rebuild from the custom format, with ANALYZE"
        report.row(what, best[custom_name], best[name], other_name=name, at_least=aim)
    report.row(
        "comparison of every row and object", min(compared), best["ours"], other_name="the rebuild", at_most=0.25
    )


def unpacked(client: PostgresClient, source: PostgresTarget, folder: Path, jobs: int) -> list[Path]:
    """Write the rows of all tables in as many equal shares as there are connections; return a folder for each."""
    shares = [folder / f"share{number}" for number in range(jobs)]
    for number, share in enumerate(shares):
        share.mkdir()
        for table in TABLES:
            rows = f"select * from {table} where id % {jobs} = {number} order by id"
            shell(f"{quoted(client, 'psql', source)} -X -q -c 'copy ({rows}) to stdout' > {share / table}", source)
    return shares


def side_by_side(commands: list[str], target: PostgresTarget) -> None:
    """Run commands at the same time; each must succeed."""
    with ThreadPoolExecutor(len(commands)) as pool:
        list(pool.map(lambda command: shell(command, target), commands))


def dump(client: PostgresClient, source: PostgresTarget, into: str, *arguments: str) -> None:
    shell(f"{quoted(client, 'pg_dump', source)} {' '.join(arguments)} {into}", source)


def quoted(client: PostgresClient, program: str, target: PostgresTarget) -> str:
    return f"'{client.program(program)}' '{target.program_arguments()[0]}'"


def shell(command: str, target: PostgresTarget) -> None:
    subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], check=True, env={**os.environ, **target.program_environment()}
    )


if __name__ == "__main__":
    main()
