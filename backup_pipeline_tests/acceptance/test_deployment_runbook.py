"""The runbook, line by line: its commands are taken from the document and run against a real site's set.

documents/test_commands.py sees to it that no section with commands is left out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from backup_pipeline.artefacts.targets import database_of
from backup_pipeline.postgres.server.clients import embedded_folders
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.embedded import scratch_server
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.archive_sets import git
from backup_pipeline_tests.support.documents.runbook import RUNBOOK, calls, follow, follow_calls, section
from backup_pipeline_tests.support.documents.walkthroughs import AUFTRAEGE
from backup_pipeline_tests.support.sites import SHOP, TestSite, dsn, write_storage

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
    with closing(sqlite3.connect(tmp_path / "werkstatt.db")) as connection, connection:
        connection.execute("create table auftraege (record_id integer primary key, auftrag_nr text)")
        connection.executemany("insert into auftraege values (?, ?)", [(n, f"{n:06}") for n in range(100)])
    made.write(SETTINGS)
    done = made.run("backup", "nightly")
    assert done.code == 0, done.text
    return made


@pytest.mark.story
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
    variables, *steps = (block.text for block in section("8. Without this program"))
    assert variables.startswith("export SET=")
    new = f"restored_{target.database}"
    out = ""
    try:
        for step in steps:
            script = f"set -euo pipefail\nexport SET={folder} NEW={new}\n" + step.replace("/tmp/sums", str(sums))
            done = subprocess.run(
                ["bash", "-c", script],
                cwd=folder if "sums" in step else work,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
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
    with closing(sqlite3.connect(work / "werkstatt_restored.db")) as connection:
        assert connection.execute("select count(*) from auftraege").fetchone() == (100,)

    # A flipped bit is found by the same two lines.
    dump = folder / "supabase_db.sql.gz"
    content = bytearray(dump.read_bytes())
    content[len(content) // 2] ^= 1
    dump.write_bytes(content)
    script = "\n".join(step.replace("/tmp/sums", str(sums)) for step in steps if "sums" in step)
    done = subprocess.run(["bash", "-ec", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "supabase_db.sql.gz" in done.stdout + done.stderr


@pytest.mark.story
def test_a_damaged_site_is_brought_back_by_following_the_runbook(site: TestSite) -> None:
    database = database_of(site.site, "supabase")

    def rows(question: str = "select count(*), sum(total) from public.orders") -> tuple[object, ...]:
        with connected(database) as connection:
            found = connection.execute(question.encode()).fetchone()
        assert found is not None
        return found

    def damage(statement: str) -> None:
        with connected(database) as connection:
            connection.execute(statement.encode())

    before = rows()
    follow(site, "0. First")
    follow(site, "1. Choose a set")

    # The section ends with the undo, so that what was damaged is there again; the rebuild is seen by what undo kept.
    damage("delete from public.orders where id > 5")
    steps = calls("2. A database is damaged")
    assert [words[0] for words in steps] == ["restore", "restore", "undo", "undo"]
    follow(site, "2. A database is damaged")
    assert rows() != before

    damage("insert into public.orders overriding system value select 7, 1, 0, 'wrong'")
    follow(site, "3. Only some rows are wrong")
    assert rows("select count(*) from public.orders where id in (7, 8, 9)") == (3,)
    assert rows("select note is distinct from 'wrong' from public.orders where id = 7") == (True,)
    assert rows("select count(*) from public.orders") == (8,)

    shutil.rmtree(site.folder / "storage" / "materials")
    with closing(sqlite3.connect(site.folder / "werkstatt.db")) as connection, connection:
        connection.execute("delete from auftraege")
    follow(site, "4. Files, a repository, a SQLite database")
    assert len(list((site.folder / "storage" / "materials").rglob("*.txt"))) == 5
    with closing(sqlite3.connect(site.folder / "werkstatt.db")) as connection, connection:
        assert connection.execute("select count(*) from auftraege").fetchone() == (100,)

    # The whole database is gone: it is made again.
    with connected(database.with_database("postgres")) as connection:
        connection.execute(f'drop database "{database.database}" with (force)'.encode())
    follow(site, "2. A database is damaged", until="undo")
    assert rows() == before
    follow(site, "7. Afterwards")


@pytest.mark.story
def test_a_lost_machine_is_brought_back_on_a_new_one_by_following_the_runbook(site: TestSite, tmp_path: Path) -> None:
    title = "6. The whole machine is lost"
    text = RUNBOOK.read_text("utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    assert re.findall(r"^\d\. ", text, re.MULTILINE) == ["1. ", "2. ", "3. ", "4. ", "5. "]

    # 1. and 2.: settings, variables and the copy of the store; another server, on which nothing is yet.
    new = TestSite(tmp_path / "new", dict(site.variables))
    new.folder.mkdir()
    shutil.copy(site.folder / "backup.yaml", new.folder)
    shutil.copytree(site.folder / "backups", new.folder / "backups")
    for name in ("storage", "code", "werkstatt.db"):
        (site.folder / name).rename(tmp_path / f"lost-{name}")
    with scratch_server(Path("/tmp")) as server:
        new.variables["DATABASE_URL"] = dsn(server.target("brought_back"))
        new.write_env()

        # 3. says what is missing: sources that are still to be restored, and nothing that was forgotten.
        (check,) = [words for words in calls(title) if words[0] == "env"]
        reported = json.loads(new.run(*check, "--json").out)
        missing = {str(new.folder / name) for name in ("storage", "code", "werkstatt.db")}
        errors = {fault["where"]: fault["what"] for fault in reported["faults"] if fault["severity"] == "ERROR"}
        assert missing <= set(errors)
        (other,) = [what for where, what in errors.items() if where not in missing]
        assert 'database "brought_back" does not exist' in other

        # 4. every set, and 5. each source as in sections 2 and 4.
        (verify,) = [words for words in calls(title) if words[0] == "verify"]
        done = new.run(*verify)
        assert done.code == 0, done.text
        follow(new, "2. A database is damaged", until="undo")
        follow(new, "4. Files, a repository, a SQLite database")
        claire = calls("4. Files, a repository, a SQLite database")[-2:]
        follow_calls(new, [[word for word in words if word not in ("--into", "claire_look")] for words in claire])

        reported = json.loads(new.run(*check, "--json").out)
        assert [fault for fault in reported["faults"] if fault["severity"] == "ERROR"] == []
        with connected(server.target("brought_back")) as connection:
            assert connection.execute("select count(*) from public.orders").fetchone() == (300,)
        assert len(list((new.folder / "storage" / "materials").rglob("*.txt"))) == 5
        assert (new.folder / "code" / "main.py").read_text() == "print(1)\n"
        with closing(sqlite3.connect(new.folder / "werkstatt.db")) as connection:
            assert connection.execute("select count(*) from auftraege").fetchone() == (100,)
        follow(new, "7. Afterwards")


def test_a_lost_order_database_is_brought_back_by_following_the_runbook(tmp_path: Path) -> None:
    site = TestSite(tmp_path)
    site.write(
        "sources: {werkstatt: {kind: orders, database: werkstatt.db, archive: Archiv}}\n"
        "plans: {workshop: {sources: [werkstatt]}}\n"
    )
    rows = [
        (n, f"{n:06}", f"Kunde {n}", str(n), f"B-AB {n}", None, "2024-03-01", "1", "{}", f"2024/{n:06}", "", 1)
        + ("2024-03-01T10:00:00",) * 2
        for n in range(1, 21)
    ]
    for row in rows:
        (tmp_path / "Archiv" / row[9]).mkdir(parents=True)
    question = "select * from auftraege order by record_id"
    database = tmp_path / "werkstatt.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(AUFTRAEGE)
        connection.executemany(f"insert into auftraege values ({','.join('?' * 14)})", rows)
    done = site.run("orders", "export")
    assert done.code == 0, done.text

    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("delete from auftraege where record_id > 3")
    title = "5. The order archive's database is lost"
    *restoring, undoing = calls(title)
    assert undoing == ["orders", "undo"]
    for words in restoring:
        done = site.run(*words)
        assert done.code == 0, f"{words}\n{done.text}"
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute(question).fetchall() == rows
    done = site.run(*undoing)
    assert done.code == 0, done.text
    with closing(sqlite3.connect(database)) as connection:
        assert len(connection.execute(question).fetchall()) == 3
