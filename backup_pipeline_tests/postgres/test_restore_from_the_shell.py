"""The commands verify, drill, restore and undo as a person (and a script) meets them, for every kind of source."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_pipeline.model.evidence import EventKind
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.data.recorded_columns import with_columns
from backup_pipeline.operations.data.set_contents import set_contents
from backup_pipeline.operations.evidence.history import History
from backup_pipeline.operations.evidence.make import preview
from backup_pipeline.operations.restore.records import results
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.databases import server_facts
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.system.files import user_name
from backup_pipeline_tests.support.forked_sites import ForkedCommand
from backup_pipeline_tests.support.postgres_restore import ask, run, sealed_set
from backup_pipeline_tests.support.sites import SHOP, TestSite, dsn, write_storage

SETTINGS = """
store: backups
sources:
  shop: {kind: postgres, dsn_env: SHOP_URL}
  storage: {kind: folder, path: storage, buckets: [materials, submissions]}
  code: {kind: repository, path: code, include_env: true}
  workshop: {kind: sqlite, path: workshop.db}
plans:
  nightly: {sources: [shop, storage, code, workshop]}
"""


@pytest.fixture
def made(
    tmp_path: Path, server: EmbeddedServer, database: Callable[..., PostgresTarget], template: Callable[[str, str], str]
) -> tuple[TestSite, SetId, PostgresTarget]:
    target = database(template("restored_shop", SHOP))
    site = TestSite(tmp_path)
    site.variables["SHOP_URL"] = dsn(target)
    site.variables["DRILL_DATABASE_URL"] = dsn(server.target())
    write_storage(tmp_path / "storage")
    code = tmp_path / "code"
    code.mkdir()
    (code / "main.py").write_text("print(1)\n")
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], cwd=code, check=True)
    (code / ".env").write_text("KEY=value\n")
    with sqlite3.connect(tmp_path / "workshop.db") as connection:
        connection.execute("create table jobs (id integer primary key, what text)")
        connection.executemany("insert into jobs (what) values (?)", [(f"job {n}",) for n in range(50)])
    connection.close()
    site.write(SETTINGS)
    return site, sealed_set(site.site, "nightly"), target


def test_every_kind_is_verified_and_drilled(made: tuple[TestSite, SetId, PostgresTarget]) -> None:
    site, set_id, _ = made
    verified = site.run("verify", "latest")
    assert verified.code == 0, verified.text
    assert f"verified nightly/{set_id}" in verified.out
    drilled = site.run("drill", "latest", "--json")
    assert drilled.code == 0, drilled.text
    proof = json.loads(drilled.out)
    assert (proof["passed"], proof["findings"]) == (True, [])
    assert proof["numbers"]["files"] >= 12
    # Here the scratch server is the one that is backed up, which is warned of.
    warned = [s["subject"] for s in proof["skipped"] if "amcheck" not in s["subject"]]
    assert warned == ["shop: DRILL_DATABASE_URL"]
    password = site.variables["SHOP_URL"].split(":")[2].partition("@")[0]
    assert password not in verified.text + drilled.text


def test_damage_in_any_kind_fails_the_drill_and_names_it(made: tuple[TestSite, SetId, PostgresTarget]) -> None:
    site, set_id, _ = made
    folder = site.site.store_folder("nightly") / set_id
    for place in folder.iterdir():
        if place.is_file() and place.name != "manifest.json":
            data = bytearray(place.read_bytes())
            data[len(data) // 2] ^= 4
            place.write_bytes(data)
    result = site.run("drill", "latest")
    assert result.code == 6
    for source in ("shop", "storage", "code", "workshop"):
        assert f"✗ {source}: " in result.out, result.out
    assert site.run("verify", "--all").code == 6


def plan_of(site: TestSite, *arguments: str) -> tuple[str, str]:
    result = site.run("restore", "latest", *arguments, "--json")
    assert result.code == 0, result.text
    plan = json.loads(result.out)
    return plan["plan_id"], plan["confirm"]


def test_a_database_is_planned_restored_and_taken_back(
    made: tuple[TestSite, SetId, PostgresTarget], server: EmbeddedServer
) -> None:
    site, _, target = made
    run(target, "delete from orders where id <= 3")
    shown = site.run("restore", "latest", "shop")
    assert "Nothing was changed" in shown.out
    assert "public.orders" in shown.out
    plan_id, confirm = plan_of(site, "shop")
    unconfirmed = site.run("restore", "latest", "shop", "--apply", "--plan-id", plan_id)
    assert unconfirmed.code == 8
    done = site.run("restore", "latest", "shop", "--apply", "--plan-id", plan_id, "--confirm", confirm)
    assert done.code == 0, done.text
    assert "backup-pipeline undo nightly/shop" in done.out
    assert ask(target, "select count(*) from orders") == [(300,)]
    assert site.run("undo", "nightly/shop").out.count("Nothing was changed") == 1
    back = site.run("undo", "nightly/shop", "--apply", "--confirm", confirm)
    assert back.code == 0, back.text
    assert ask(target, "select count(*) from orders") == [(297,)]
    assert site.run("undo", "nightly/shop", "--drop-kept", "--confirm", confirm).code == 0
    assert {n for n in server_facts(target).databases if n.startswith(target.database)} == {target.database}


def test_three_rows_are_brought_back(made: tuple[TestSite, SetId, PostgresTarget]) -> None:
    site, _, target = made
    run(target, "delete from orders where id <= 10")
    choice = ("shop", "--upsert", "--rows", "public.orders: id in (3, 4, 5)")
    plan_id, confirm = plan_of(site, *choice)
    done = site.run("restore", "latest", *choice, "--apply", "--plan-id", plan_id, "--confirm", confirm, "--json")
    assert done.code == 0, done.text
    assert [t["insert"] for t in json.loads(done.out)["tables"]] == [3]
    assert ask(target, "select array_agg(id order by id) from orders where id <= 10") == [([3, 4, 5],)]


@pytest.mark.takes(seconds=3, together="forked")
@pytest.mark.parametrize("moment", ["__restore_", pytest.param("emergency", marks=pytest.mark.story)])
def test_a_restore_killed_in_the_middle_leaves_the_live_database_and_stops_nobody(
    made: tuple[TestSite, SetId, PostgresTarget], moment: str
) -> None:
    site, _, target = made
    run(
        target,
        "delete from orders where id <= 3; create table big as select i, repeat('x', 100) from"
        " generate_series(1, 80000) i",
    )
    sealed_set(site.site, "nightly")
    run(target, "delete from orders where id = 4")
    plan_id, confirm = plan_of(site, "shop")
    process = ForkedCommand(site, "restore", "latest", "shop", "--apply", "--plan-id", plan_id, "--confirm", confirm)
    store = site.store("nightly")
    sets = len(store.ids())
    with connected(target.with_database("postgres")) as watching:

        def reached() -> bool:
            if moment == "emergency":
                return len(store.ids()) > sets
            found = watching.execute("select datname from pg_database").fetchall()
            return any(moment in name for (name,) in found)

        while process.poll() is None and not reached():
            time.sleep(0.01)
    process.kill()
    process.communicate()
    assert ask(target, "select count(*) from orders") == [(296,)]
    plan_id, confirm = plan_of(site, "shop")
    done = site.run("restore", "latest", "shop", "--apply", "--plan-id", plan_id, "--confirm", confirm)
    assert done.code == 0, done.text
    assert ask(target, "select count(*) from orders") == [(297,)]
    assert not [name for name in server_facts(target).databases if f"{target.database}__restore_" in name]
    assert site.run("undo", "nightly/shop", "--drop-kept", "--confirm", confirm).code == 0


@pytest.mark.parametrize(
    ("source", "place", "content"),
    [
        ("storage", "storage/materials/folder 1/file-1.txt", b"materials 1\n"),
        ("code", "code/main.py", b"print(1)\n"),
        ("workshop", "workshop.db", b"SQLite format 3"),
    ],
)
def test_files_are_planned_restored_and_taken_back(
    made: tuple[TestSite, SetId, PostgresTarget], source: str, place: str, content: bytes
) -> None:
    site, _, _ = made
    file = site.folder / place
    if source == "workshop":
        with sqlite3.connect(file) as connection:
            connection.execute("delete from jobs where id > 1")
        connection.close()
    else:
        file.write_bytes(b"spoilt")
    spoilt = file.read_bytes()
    plan_id, confirm = plan_of(site, source)
    refused = site.run("restore", "latest", source, "--apply", "--plan-id", "0" * 16, "--confirm", confirm)
    assert refused.code == 8
    done = site.run("restore", "latest", source, "--apply", "--plan-id", plan_id, "--confirm", confirm)
    assert done.code == 0, done.text
    assert "emergency set" in done.out
    assert file.read_bytes().startswith(content)
    assert file.read_bytes() != spoilt
    back = site.run("undo", f"nightly/{source}", "--apply", "--confirm", confirm)
    assert back.code == 0, back.text
    assert file.read_bytes() == spoilt


def test_a_restore_that_fails_in_the_shell_stands_in_the_evidence(made: tuple[TestSite, SetId, PostgresTarget]) -> None:
    site, set_id, target = made
    for command in (("restore", "latest", "shop", "--apply", "--plan-id", "none"), ("undo", "nightly/shop", "--apply")):
        assert site.run(*command, "--confirm", target.database).code == 8
    now = datetime.now(UTC)
    found = preview(site.site, "nightly", now - timedelta(days=1), now + timedelta(days=1), History(), now=now)
    (restore,), (undo,) = found.of_kind(EventKind.RESTORE), found.of_kind(EventKind.UNDO)
    assert (restore.subject, restore.outcome, restore.good) == (f"shop from {set_id}", "failed", False)
    assert restore.who == undo.who == f"shell ({user_name()})"
    assert "The plan none does not hold any more" in restore.detail
    assert undo.detail
    assert results(site.site, "nightly") == []


def test_columns_of_tables_come_from_the_dump_where_nothing_is_exported(
    tmp_path: Path, database: Callable[..., PostgresTarget], template: Callable[[str, str], str]
) -> None:
    site = TestSite(tmp_path, {"SHOP_URL": dsn(database(template("restored_shop", SHOP)))})
    site.write(
        "sources: {shop: {kind: postgres, dsn_env: SHOP_URL, tables: {include: []}}}\n"
        "plans: {nightly: {sources: [shop]}}"
    )
    set_id = sealed_set(site.site, "nightly")
    shop = next(each for each in set_contents(site.store("nightly").read(set_id)) if each.source == "shop")
    assert {table.name: table.columns for table in shop.tables}["public.orders"] == ()
    named = {table.name: table for table in with_columns(site.site, "nightly", set_id, shop).tables}
    assert [column.name for column in named["public.orders"].columns][:2] == ["id", "customer_id"]


def test_wrong_requests_say_what_is_wrong(made: tuple[TestSite, SetId, PostgresTarget]) -> None:
    site, _, _ = made
    assert site.run("verify").code == 2
    assert site.run("restore", "latest", "nobody").code == 7
    assert site.run("restore", "2020-01-01T000000Z", "shop").code == 7
    assert site.run("restore", "latest", "shop", "--tables", "orders").code == 2
    wrong = site.run("restore", "latest", "shop", "--upsert", "--on-conflict", "mine")
    assert wrong.code == 2
    assert "--on-conflict" in wrong.text
    assert site.run("undo", "nightly/shop").code == 8
    assert site.run("restore", "latest", "storage", "--upsert").code == 8
