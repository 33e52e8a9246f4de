"""The runbook, line by line: its commands are taken from the document and run against a real site's set."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backup_pipeline.tools.postgres.clients import embedded_folders
from backup_pipeline.tools.postgres.connection import connected
from backup_pipeline.tools.postgres.target import PostgresTarget
from backup_pipeline_tests.sites import SHOP, TestSite, dsn, write_storage
from backup_pipeline_tests.unit.test_deployment_docs import ROOT, blocks

SETTINGS = """
store: backups
sources:
  supabase: {kind: postgres, dsn_env: DATABASE_URL}
  storage: {kind: folder, path: storage}
  claire: {kind: repository, path: code}
  werkstatt: {kind: sqlite, path: werkstatt.db}
plans:
  nightly: {sources: [supabase, storage, claire, werkstatt]}
"""


def section(title: str) -> list[str]:
    """The blocks of one section of the runbook."""
    text = (ROOT / "docs" / "runbook.md").read_text("utf-8")
    return blocks(text.split(f"\n## {title}\n")[1].split("\n## ")[0])


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def site(tmp_path: Path, database: Callable[..., PostgresTarget], template: Callable[[str, str], str]) -> TestSite:
    made = TestSite(tmp_path)
    made.variables = {"DATABASE_URL": dsn(database(template("shop", SHOP)))}
    write_storage(tmp_path / "storage")
    (tmp_path / "code").mkdir()
    git(tmp_path / "code", "init", "-q", "-b", "main")
    (tmp_path / "code" / "main.py").write_text("print(1)\n")
    git(tmp_path / "code", "add", ".")
    git(tmp_path / "code", "commit", "-q", "-m", "first")
    with sqlite3.connect(tmp_path / "werkstatt.db") as connection:
        connection.execute("create table auftraege (record_id integer primary key, auftrag_nr text)")
        connection.executemany("insert into auftraege values (?, ?)", [(n, f"{n:06}") for n in range(100)])
    made.write(SETTINGS)
    done = made.run("backup", "nightly")
    assert done.code == 0, done.text
    return made


def test_everything_comes_back_by_hand_without_this_program(
    site: TestSite, database: Callable[..., PostgresTarget], tmp_path: Path
) -> None:
    store = site.store("nightly")
    folder = store.path_of(store.ids()[-1])
    target = database()
    environment = {
        "PATH": f"{embedded_folders()[0]}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PGHOST": target.host,
        "PGPORT": str(target.port),
        "PGUSER": target.user,
        "PGPASSWORD": target.password,
        "PGDATABASE": "postgres",
    }
    work = tmp_path / "work"
    work.mkdir()
    sums = tmp_path / "sums"
    variables, *steps = section("7. Without this program")
    assert variables.startswith("export SET=")
    new = f"restored_{target.database}"
    out = ""
    try:
        for step in steps:
            script = f"set -euo pipefail\nexport SET={folder} NEW={new}\n" + step.replace("/tmp/sums", str(sums))
            done = subprocess.run(
                ["bash", "-c", script], cwd=folder if "sums" in step else work, env=environment, capture_output=True,
                text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{step}\n{done.stderr}"
            out += done.stdout
        with connected(target.with_database(new)) as connection:
            assert connection.execute("select count(*) from public.orders").fetchone() == (300,)
    finally:
        with connected(target) as connection:
            connection.execute(f'drop database if exists "{new}" with (force)'.encode())
    assert len(sums.read_text().splitlines()) > 5
    assert "ok" in out
    original = {p.relative_to(tmp_path / "storage"): p.read_bytes() for p in (tmp_path / "storage").rglob("*.txt")}
    restored = {
        p.relative_to(work / "storage_restored"): p.read_bytes() for p in (work / "storage_restored").rglob("*.txt")
    }
    assert restored == original
    assert (work / "claire_restored" / "main.py").read_text() == "print(1)\n"
    with sqlite3.connect(work / "werkstatt_restored.db") as connection:
        assert connection.execute("select count(*) from auftraege").fetchone() == (100,)


def test_a_flipped_bit_is_found_by_hand(site: TestSite, tmp_path: Path) -> None:
    store = site.store("nightly")
    folder = store.path_of(store.ids()[-1])
    dump = folder / "supabase_db.sql.gz"
    content = bytearray(dump.read_bytes())
    content[len(content) // 2] ^= 1
    dump.write_bytes(content)
    steps = [
        step.replace("/tmp/sums", str(tmp_path / "sums"))
        for step in section("7. Without this program")
        if "sums" in step
    ]
    done = subprocess.run(["bash", "-ec", "\n".join(steps)], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "supabase_db.sql.gz" in done.stdout + done.stderr
