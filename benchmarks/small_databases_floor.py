"""What must be done for each of many small databases, and nothing else: no history, no checks, no syncing, no report.

A snapshot; its catalog as a set keeps it; pg_dump inside it, compressed and hashed; a hash of every table; every table
by COPY into Parquet. What `backup` takes beyond this is its own.

python -m benchmarks.small_databases_floor .env FOLDER DATABASES_AT_ONCE
"""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import psycopg
import pyarrow.csv
import pyarrow.parquet
from psycopg import sql

from backup_pipeline.postgres.catalog.read import read_catalog
from backup_pipeline.postgres.server.clients import choose_client


def _dump(program: Path, url: str, snapshot: str, folder: Path) -> str:
    name, _, _ = url.rpartition("/")
    user, _, password = name.removeprefix("postgresql://").rpartition("@")[0].partition(":")
    address = url.replace(f"{user}:{password}@", f"{user}@")
    done = subprocess.run(
        [program, f"--dbname={address}", f"--snapshot={snapshot}"],
        env={"PGPASSWORD": password},
        stdout=subprocess.PIPE,
        check=True,
    )
    content = gzip.compress(done.stdout, 1)
    (folder / "dump.sql.gz").write_bytes(content)
    return hashlib.sha256(done.stdout).hexdigest() + hashlib.sha256(content).hexdigest()


def capture(url: str, folder: Path) -> None:
    """Capture one database into a folder."""
    folder.mkdir(parents=True)
    with psycopg.connect(url, autocommit=True) as connection, ThreadPoolExecutor(1) as beside:
        connection.execute("begin transaction isolation level repeatable read read only")
        row = connection.execute("select pg_export_snapshot()").fetchone()
        assert row is not None
        program = choose_client(connection.info.server_version // 10000).program("pg_dump")
        dump = beside.submit(_dump, program, url, row[0], folder)
        catalog = read_catalog(connection)
        (folder / "catalog.json").write_text(catalog.model_dump_json())
        for table in catalog.tables:
            name = sql.Identifier(table.schema_name, table.name)
            connection.execute(
                sql.SQL("select count(*), sum(hash_record_extended(t.*, 0)::numeric) from {} t").format(name)
            )
            with connection.cursor().copy(sql.SQL("copy {} to stdout (format csv, header)").format(name)) as rows:
                content = b"".join(rows)
            read = pyarrow.csv.read_csv(BytesIO(content))
            pyarrow.parquet.write_table(read, folder / f"{table.name}.parquet", compression="zstd")
        dump.result()


def main() -> None:
    """Capture every database that a site's .env names."""
    lines = Path(sys.argv[1]).read_text().splitlines()
    urls = dict(line.split("=", 1) for line in lines)
    with ThreadPoolExecutor(int(sys.argv[3])) as threads:
        for done in [threads.submit(capture, url, Path(sys.argv[2]) / name) for name, url in urls.items()]:
            done.result()


if __name__ == "__main__":
    main()
