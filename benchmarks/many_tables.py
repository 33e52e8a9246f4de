"""A database of many tables of few rows: the capture without Dagster and `backup` from the shell, beside pg_dump.

python -m benchmarks.many_tables [tables ...]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.embedded import EmbeddedServer, scratch_server
from backup_pipeline.postgres.server.script import create_database
from benchmarks.capture_once import capture
from benchmarks.report import Report

_SETTINGS = """
store: backups
sources:
  bench: {kind: postgres, dsn_env: BENCH_URL}
plans:
  nightly: {sources: [bench]}
"""
_TABLE = (
    "create table public.t{n} (id int primary key, name text not null);"
    "insert into public.t{n} values (1, 'a'), (2, 'b')"
)
_TOGETHER = 200
_AT_MOST = 20.0
_TIMES_FOR_FIVE_TIMES = 6.0


def fill(server: EmbeddedServer, database: str, tables: int) -> None:
    """Make a database of so many tables of two rows each."""
    create_database(server.target(), database)
    with connected(server.target(database)) as connection:
        connection.autocommit = True
        for first in range(0, tables, _TOGETHER):
            numbers = range(first, min(first + _TOGETHER, tables))
            connection.execute(";".join(_TABLE.format(n=n) for n in numbers).encode())


def _dumped(server: EmbeddedServer, database: str) -> float:
    target = server.target(database)
    with connected(target) as connection:
        client = choose_client(connection.info.server_version // 10000)
    command = [str(client.program("pg_dump")), "-Fc", *target.program_arguments()]
    start = time.perf_counter()
    subprocess.run(command, env={**os.environ, **target.program_environment()}, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def _backed_up(server: EmbeddedServer, database: str, site: Path) -> float:
    target = server.target(database)
    address = f"postgresql://{target.user}:{target.password}@{target.host}:{target.port}/{database}"
    site.mkdir()
    (site / ".env").write_text(f"BENCH_URL={address}\n")
    (site / "backup.yaml").write_text(_SETTINGS)
    main = "from backup_pipeline.cli.main import main; main()"
    command = [sys.executable, "-c", main, "backup", "nightly", "--config", str(site)]
    environment = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    seconds = 0.0
    # The second run is the one that counts: its definitions know the tables.
    for _ in range(2):
        start = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        assert done.returncode == 0, done.stderr
    return seconds


def main() -> None:
    """Measure and write the result."""
    counts = [int(each) for each in sys.argv[1:]] or [2000, 10_000]
    report = Report("many_tables", "Many tables of two rows each")
    first: float | None = None
    with tempfile.TemporaryDirectory() as name, scratch_server(Path("/tmp")) as server:
        for tables in counts:
            database = f"many{tables}"
            fill(server, database, tables)
            dumped = _dumped(server, database)
            start = time.perf_counter()
            capture(server.target(database), Path(name) / f"store{tables}", "all", {})
            bare = time.perf_counter() - start
            report.row(f"{tables} tables: the capture alone", bare, dumped, other_name="pg_dump -Fc >/dev/null")
            whole = _backed_up(server, database, Path(name) / f"site{tables}")
            at_most = _AT_MOST if tables <= 2000 else None if first is None else _TIMES_FOR_FIVE_TIMES * first
            report.row(f"{tables} tables: `backup`, cold from the shell", whole, at_most=at_most)
            first = first or whole
    report.write()


if __name__ == "__main__":
    main()
