"""Bringing back changed rows: ours against row-by-row INSERT … ON CONFLICT, and against COPY + merge written by hand.

python -m benchmarks.upsert [--rows 1000000] [--row-by-row 100000]

One table of `--rows` rows, of which one in a hundred was changed or deleted. The row-by-row peer is measured on the
first `--row-by-row` rows in one transaction with prepared statements, and its time scaled up, which favours it.
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path

from backup_pipeline.postgres.merge.upsert import UpsertRequest, upsert_database
from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.databases import server_facts
from backup_pipeline.postgres.server.embedded import EmbeddedServer, scratch_server
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.system.processes import run as run_program
from benchmarks.report import Report

_TABLE = """
create table orders (id bigint primary key, customer bigint not null, state text not null, total numeric(12, 2),
                     placed_at timestamptz not null, lines jsonb, note text);
insert into orders select i, i % 5000, (array['open', 'paid', 'shipped'])[1 + i % 3], i * 1.25,
    timestamptz '2024-01-01 00:00+00' + i * interval '31 seconds', jsonb_build_object('sku', i % 977, 'n', i % 9),
    case when i % 3 = 0 then 'note ' || md5(i::text) end from generate_series(1, {rows}) i;
"""
_CHANGE = """
update orders set note = 'changed since', total = total + 1 where id % 200 = 7;
delete from orders where id % 200 = 8;
"""
_COLUMNS = "id, customer, state, total, placed_at, lines, note"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--row-by-row", type=int, default=100_000)
    options = parser.parse_args()
    report = Report("upsert", "Bringing back rows (upsert)")
    with scratch_server(Path("/tmp")) as server:
        run(server, options, report)
    report.write()


def run(server: EmbeddedServer, options: argparse.Namespace, report: Report) -> None:
    with connected(server.target()) as connection:
        connection.execute("create database original")
    original = server.target("original")
    with connected(original, pinned=False) as connection:
        connection.execute(_TABLE.format(rows=options.rows).encode())
        connection.execute("vacuum analyze")
    client = choose_client(server_facts(original).major)
    done = run_program([client.program("pg_dump"), *original.program_arguments()], env=original.program_environment())
    dump = server.folder.parent / "dump.sql.gz"
    dump.write_bytes(gzip.compress(done.stdout, 1))
    del done
    report.fact("rows", options.rows)
    report.fact("rows changed or deleted", options.rows // 100)
    begin = fresh(server, "ours")
    outcome = upsert_database(
        lambda: dump.open("rb"), server.target("ours"), UpsertRequest(lambda name: True), commit=True
    )
    ours = time.perf_counter() - begin
    change = outcome.tables[0]
    assert (change.insert, change.update) == (options.rows // 200, options.rows // 200), change
    by_hand = merge_by_hand(server, dump)
    row_by_row = row_by_row_upsert(server, original, options.row_by_row) * options.rows / options.row_by_row
    report.row(
        "upsert with counts, from the dump", ours, row_by_row, other_name="INSERT … ON CONFLICT, row by row", at_least=5
    )
    report.row("upsert with counts, from the dump", ours, by_hand, other_name="COPY into a temporary table + merge")


def fresh(server: EmbeddedServer, name: str) -> float:
    with connected(server.target()) as connection:
        connection.execute(f'create database "{name}" template original'.encode())
    with connected(server.target(name), pinned=False) as connection:
        connection.execute(_CHANGE.encode())
        connection.execute("vacuum analyze")
        connection.execute("checkpoint")
    return time.perf_counter()


def merge_by_hand(server: EmbeddedServer, dump: Path) -> float:
    """What one would write by hand: all rows into a temporary table, one INSERT … ON CONFLICT DO UPDATE from it."""
    begin = fresh(server, "by_hand")
    sets = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS.split(", ")[1:])
    with connected(server.target("by_hand"), autocommit=False) as connection:
        connection.execute("create temporary table t (like public.orders) on commit drop")
        with (
            connection.cursor() as cursor,
            cursor.copy(f"copy t ({_COLUMNS}) from stdin".encode()) as copy,
            gzip.open(dump, "rb") as lines,
        ):
            inside = False
            for line in lines:
                if inside and line == b"\\.\n":
                    break
                if inside:
                    copy.write(line)
                inside = inside or line.startswith(b"COPY public.orders")
        merge = f"insert into public.orders ({_COLUMNS}) select {_COLUMNS} from t on conflict (id) do update set {sets}"
        connection.execute(merge.encode())
        connection.commit()
    return time.perf_counter() - begin


def row_by_row_upsert(server: EmbeddedServer, original: PostgresTarget, count: int) -> float:
    with connected(original) as connection:
        columns = _COLUMNS.replace("lines", "lines::text")
        rows = connection.execute(f"select {columns} from public.orders where id <= {count}".encode()).fetchall()
    sets = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS.split(", ")[1:])
    values = ", ".join(["%s"] * len(_COLUMNS.split(", ")))
    statement = f"insert into public.orders ({_COLUMNS}) values ({values}) on conflict (id) do update set {sets}"
    begin = fresh(server, "row_by_row")
    with connected(server.target("row_by_row"), autocommit=False) as connection:
        for row in rows:
            connection.execute(statement.encode(), row, prepare=True)
        connection.commit()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
