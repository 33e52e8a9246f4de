"""A live database whose data breaks its own rules: it is backed up loudly, and the restore that repairs it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup_pipeline.errors import ExitCode
from backup_pipeline.model.manifest import Purpose
from backup_pipeline.postgres.compare.scratch_restore import drill_database
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_restore import ask, dump_of, expectation_of, opened, run, sealed_set
from backup_pipeline_tests.support.sites import TestSite, dsn

Make = Callable[..., PostgresTarget]
SETTINGS = """
store: backups
sources:
  shop: {kind: postgres, dsn_env: SHOP_URL, required_tables: [customers, orders, tags]}
plans:
  nightly: {sources: [shop], retention: {keep_last: 1, keep_emergency: 1d}}
"""
SHOP = """
create table customers (id int primary key, name text not null);
create table orders (id int primary key, customer_id int not null references customers (id));
create table tags (name text not null);
create unique index tags_name on tags (name);
insert into customers select n, 'secret ' || n from generate_series(1, 30) n;
insert into orders select n, n from generate_series(1, 30) n;
insert into tags select 'tag ' || n from generate_series(1, 30) n;
"""
ORPHANS = "set session_replication_role = replica; delete from customers where id = 7"
# A unique index that does not hold its rows any more, as a crash or another collation leaves it.
TWICE = """
update pg_index set indisready = false, indislive = false where indexrelid = 'tags_name'::regclass;
insert into tags values ('tag 3');
update pg_index set indisready = true, indislive = true where indexrelid = 'tags_name'::regclass;
"""
NULLS = """
alter table customers alter column name drop not null;
update customers set name = null where id = 9;
update pg_attribute set attnotnull = true where attrelid = 'customers'::regclass and attname = 'name';
"""


@pytest.fixture
def shop(tmp_path: Path, database: Make, template: Callable[[str, str], str]) -> tuple[TestSite, PostgresTarget]:
    target = database(template("broken_data_shop", SHOP))
    site = TestSite(tmp_path)
    site.variables["SHOP_URL"] = dsn(target)
    site.write(SETTINGS)
    return site, target


@pytest.mark.takes(seconds=27)
def test_broken_data_is_sealed_named_and_loud(shop: tuple[TestSite, PostgresTarget]) -> None:
    site, target = shop
    sound = sealed_set(site.site, "nightly")
    for script in (ORPHANS, TWICE, NULLS):
        run(target, script)
    done = site.run("backup", "nightly", "--json")
    reported = json.loads(done.out)
    assert (done.code, reported["sealed"]) == (ExitCode.BROKEN_DATA, True), done.text
    assert reported["exit_code"] == ExitCode.BROKEN_DATA
    broken = " | ".join(reported["broken_data"])
    for part in (
        "shop.public.orders",
        "customer_id foreign key to public.customers",
        "shop.public.tags",
        "name unique key",
        "shop.public.customers",
        "name not_nullable",
    ):
        assert part in broken, broken
    status = json.loads(site.run("status", "--json").out)["plans"][0]
    assert status["standing"] == "failing"
    assert status["last_good"]["set"] == sound
    [problem] = [p for p in status["problems"] if "is broken" in p["what"]]
    assert problem["severity"] == "error"
    assert f"nightly/{sound}" in problem["remedy"]
    log = (site.site.store_folder("nightly") / "backup_log.txt").read_text()
    assert " - ERROR - " in log.splitlines()[-1]
    incidents = site.run("alerts", "check").text + site.run("alerts", "list").text
    assert "customer_id foreign key" in incidents
    plan = site.run("restore", "latest", "shop")
    assert "its data was broken where it came from" in plan.text
    assert "secret" not in done.text + incidents + plan.text + log
    # Neither the last sound set nor the newest of all goes, though one set is all that the policy keeps.
    cleaned = site.run("cleanup", "nightly", "--yes")
    assert cleaned.code == 0, cleaned.text
    assert set(site.store("nightly").ids()) == {sound, reported["set"]}


@pytest.mark.parametrize("mode", [["--upsert"], []])
def test_the_restore_that_repairs_broken_data_is_not_refused(
    mode: list[str], shop: tuple[TestSite, PostgresTarget]
) -> None:
    site, target = shop
    sealed_set(site.site, "nightly")
    run(target, ORPHANS)
    if not mode:
        for script in (TWICE, NULLS, "drop table tags", "delete from orders where id > 20"):
            run(target, script)
    plan = json.loads(site.run("restore", "latest", "shop", *mode, "--json").out)
    applied = site.run(
        "restore", "latest", "shop", *mode, "--apply", "--plan-id", plan["plan_id"], "--confirm", plan["confirm"]
    )
    assert applied.code == 0, applied.text
    assert ask(target, "select count(*), count(name) from customers") == [(30, 30)]
    known = [site.store("nightly").read(set_id) for set_id in site.store("nightly").ids()]
    [emergency] = [one for one in known if one.purpose is Purpose.EMERGENCY]
    assert emergency.manifest is not None
    assert any("customer_id foreign key" in text for text in emergency.manifest.broken_data)


def test_sets_of_broken_data_evict_no_sound_one_and_do_not_pile_up() -> None:
    from backup_pipeline.model.set_id import set_id_at
    from backup_pipeline.rules.retention import SetFacts, decide
    from backup_pipeline.settings.types import Retention

    days = [datetime(2026, 3, day, 2, tzinfo=UTC) for day in range(1, 21)]
    sets = [SetFacts(set_id_at(day), day, broken_data=day.day > 5) for day in days]
    verdict = decide(sets, Retention(keep_last=3), datetime(2026, 3, 20, 12, tzinfo=UTC), UTC)
    kept = sorted(int(one.set_id[8:10]) for one in verdict.kept)
    assert kept == [3, 4, 5, 18, 19, 20]
    assert verdict.refusal == ""


@pytest.mark.takes(seconds=25)
@pytest.mark.parametrize("compression", ["plain", pytest.param("custom", marks=pytest.mark.story)])
def test_a_set_of_broken_data_is_drilled_and_restored_with_what_is_broken_named(
    compression: str, shop: tuple[TestSite, PostgresTarget]
) -> None:
    site, target = shop
    if compression == "custom":
        site.write(SETTINGS.replace("required_tables", "dump_format: custom, required_tables"))
    run(target, "comment on index tags_name is 'a comment of the site'; create table notes (tag text)")
    for script in (ORPHANS, TWICE):
        run(target, script)
    broken = sealed_set(site.site, "nightly")
    drilled = site.run("drill", f"nightly/{broken}")
    assert drilled.code == 0, drilled.text
    plan = json.loads(site.run("restore", f"nightly/{broken}", "shop", "--json").out)
    applied = site.run(
        "restore", f"nightly/{broken}", "shop", "--apply", "--plan-id", plan["plan_id"], "--confirm", plan["confirm"]
    )
    assert applied.code == 0, applied.text
    for text in (drilled.text, applied.text):
        for part in ("public.orders.orders_customer_id_fkey", "public.tags_name"):
            assert part in text, text
    assert ask(target, "select count(*) from customers") == [(29,)]
    assert ask(target, "select convalidated from pg_constraint where conname = 'orders_customer_id_fkey'") == [(False,)]
    assert ask(target, "select count(*) from tags where name = 'tag 3'") == [(2,)]


def test_a_null_column_against_its_not_null_is_restored_as_nullable_and_named(
    installed_database: Make,
) -> None:
    # Since version 18 NOT NULL is a constraint of its own, which a catalog changed by hand has not got.
    target = installed_database(SHOP + NULLS)
    proof = drill_database(opened(dump_of(target)), expectation_of(target), target)
    assert proof.findings == []
    notes = [note.problem for note in proof.skipped]
    assert any("may be null here" in note and "public.customers.name" in note for note in notes), notes
