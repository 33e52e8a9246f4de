"""The workshop's backend on the day after its scripts: rotation, restore with an emergency backup, keys, `.env`.

It comes with what it has: a Supabase that runs with weak secrets, `backups/daily/backup_20250905_005234.sql.gz`, and
an import that used to empty tables and lose their keys.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dotenv import dotenv_values

from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.dagster_runs import instance_in
from backup_pipeline_tests.support.invented_sets import make_set
from backup_pipeline_tests.support.sites import SHOP, TestSite, dsn

SETTINGS = """
store: ./backups
sources:
  backend:
    kind: postgres
    dsn_env: DATABASE_URL
    master_tables: [public.customers]
plans:
  daily:
    sources: [backend]
    store: ./backups
    schedule: "0 3 * * *"
    retention: {keep_daily: 7, keep_weekly: 4, keep_monthly: 12}
"""
OLD = "daily/backup_20250905_005234.sql.gz"
RUNNING = {
    "POSTGRES_PASSWORD": "postgres",
    "JWT_SECRET": "super-secret-jwt-token-with-at-least-32-characters-long",
    "OPENAI_API_KEY": "your-api-key-here",
    "SMTP_PASSWORD": "CHANGE_ME",
    "SENTRY_DSN": "<todo>",
}


@pytest.fixture
def live(database: Callable[..., PostgresTarget], template: Callable[[str, str], str]) -> PostgresTarget:
    return database(template("shop", SHOP))


@pytest.fixture
def backend(tmp_path: Path, live: PostgresTarget) -> TestSite:
    old = tmp_path / "backups" / OLD
    old.parent.mkdir(parents=True)
    old.write_bytes(gzip.compress(b"-- PostgreSQL database dump"))
    site = TestSite(tmp_path, {"DATABASE_URL": dsn(live), **RUNNING})
    site.write(SETTINGS)
    return site


def sql(target: PostgresTarget, statement: str) -> Any:
    with connected(target, pinned=False) as connection:
        done = connection.execute(statement.encode())
        return done.fetchall() if done.description else None


def test_the_environment_of_a_running_system_is_reported_and_left_alone(backend: TestSite) -> None:
    before = (backend.folder / ".env").read_text()
    done = json.loads(backend.run("env", "setup", "--json").out)
    assert (backend.folder / ".env").read_text().startswith(before)
    values = dotenv_values(backend.folder / ".env")
    assert {name: values[name] for name in RUNNING} == RUNNING
    assert {one["variable"] for one in done["weak"]} >= {"POSTGRES_PASSWORD", "OPENAI_API_KEY", "SMTP_PASSWORD"}
    assert Path(done["former"]).read_text() == before
    checked = json.loads(backend.run("env", "check", "--production", "--json").out)
    errors = {fault["where"] for fault in checked["faults"] if fault["severity"] == "ERROR"}
    assert {"OPENAI_API_KEY", "SMTP_PASSWORD", "SENTRY_DSN", "POSTGRES_PASSWORD"} <= errors


@pytest.mark.story
def test_rotation_keeps_seven_days_four_weeks_and_twelve_months(backend: TestSite) -> None:
    store = open_store(backend.site, "daily")
    start = datetime.now(UTC).replace(hour=3, minute=0, second=0, microsecond=0) - timedelta(days=1)
    every = [make_set(store, start - timedelta(days=days), size=10, tables=0) for days in range(430)]
    assert backend.run("cleanup", "daily", "--yes").code == 0
    kept = [one for one in every if store.path_of(one).is_dir()]
    assert kept[:7] == every[:7]
    weeks = {datetime.strptime(one[:10], "%Y-%m-%d").isocalendar()[:2] for one in kept}  # noqa: DTZ007
    months = {one[:7] for one in kept}
    assert len(weeks) >= 4
    assert len(months) in (12, 13)
    assert len(kept) <= 7 + 4 + 12
    assert (backend.folder / "backups" / OLD).exists()
    assert json.loads(backend.run("list", "--json").out)["foreign"][0]["path"] == OLD


@pytest.mark.story
def test_rows_come_back_by_upsert_and_nothing_that_is_there_is_lost(backend: TestSite, live: PostgresTarget) -> None:
    """The safe import: an emergency backup first, no TRUNCATE, keys kept, master and transaction data apart."""
    assert backend.run("backup", "daily").code == 0
    sql(live, "update customers set name = 'spoilt' where id = 1")
    sql(live, "delete from orders where id <= 10")
    sql(live, "insert into orders (customer_id, total, note) values (2, 99, 'made since')")
    upsert(backend, "transaction")
    assert sql(live, "select count(*) from orders") == [(301,)]
    assert sql(live, "select count(*) from orders where note = 'made since'") == [(1,)]
    assert sql(live, "select name from customers where id = 1") == [("spoilt",)]
    upsert(backend, "master")
    assert sql(live, "select name from customers where id = 1") == [("Customer 1",)]
    keys = "select conrelid::regclass::text, contype::text from pg_constraint where contype in ('p', 'f')"
    assert sql(live, keys + " and connamespace = 'public'::regnamespace order by 1, 2") == [
        ("customers", "p"),
        ("orders", "f"),
        ("orders", "p"),
    ]
    sets = json.loads(backend.run("list", "--json").out)["sets"]
    assert [one["purpose"] for one in sets] == ["backup", "emergency", "emergency"]


def upsert(backend: TestSite, only: str) -> None:
    words = ("restore", "latest", "backend", "--upsert", "--only", only)
    planned = backend.run(*words)
    found = re.search(r"--apply --plan-id (\w+) --confirm (\S+)", planned.out)
    assert found, planned.text
    done = backend.run(*words, "--apply", "--plan-id", found[1], "--confirm", found[2])
    assert done.code == 0, done.text


@pytest.mark.story
def test_a_lost_primary_key_is_an_error_that_every_place_names(backend: TestSite, live: PostgresTarget) -> None:
    assert backend.run("backup", "daily").code == 0
    sql(live, "alter table orders drop constraint orders_pkey")
    failed = backend.run("backup", "daily", "--json")
    assert failed.code != 0
    named = "public.orders (id)"
    assert named in failed.out
    newest = json.loads(backend.run("list", "--json").out)["sets"][-1]["set"]
    assert named in backend.run("show", f"daily/{newest}").out
    shown = json.loads(backend.run("show", f"daily/{newest}", "--json").out)
    rows = [row for one in shown["artefacts"] for check in one["checks"] for row in check["table"]]
    assert {"table": "public.orders", "columns": "id", "change": "primary key removed"} in rows
    assert {"kind": "constraint", "object": "public.orders.orders_pkey", "change": "removed"} in rows
    assert named in backend.run("alerts", "check").text + backend.run("alerts", "list").text
    (plan,) = json.loads(backend.run("status", "--json").out)["plans"]
    assert plan["standing"] == "failing"
    assert named in the_check_in_dagster(backend)
    sql(live, "alter table orders add primary key (id)")
    assert backend.run("backup", "daily").code == 0


@pytest.mark.story
@pytest.mark.takes(seconds=15)
def test_in_dagster_the_run_rotates_and_the_upsert_empties_no_table(backend: TestSite, live: PostgresTarget) -> None:
    store = open_store(backend.site, "daily")
    start = datetime.now(UTC).replace(hour=3, minute=0, second=0, microsecond=0) - timedelta(days=1)
    # A fortnight of days, then each tenth day of more than a year.
    days = [*range(14), *range(14, 430, 10)]
    every = [make_set(store, start - timedelta(days=day), size=10, tables=0) for day in days]
    with dagster_run(backend) as execute:
        assert execute("daily_backup").success
        newest = store.ids()[-1]
        kept = [one for one in every if store.path_of(one).is_dir()]
        # Today's own set is the first of the seven, of its week and of its month.
        assert kept[:6] == every[:6]
        assert len({one[:7] for one in [newest, *kept]}) in (12, 13)
        assert len(kept) <= 6 + 4 + 12
        assert (backend.folder / "backups" / OLD).exists()
        sql(live, "update customers set name = 'spoilt' where id = 1")
        sql(live, "delete from orders where id <= 10")
        sql(live, "insert into orders (customer_id, total, note) values (2, 99, 'made since')")
        sql(live, "create table truncated (at timestamptz)")
        sql(
            live,
            "create function told() returns trigger language plpgsql as "
            "'begin insert into public.truncated values (now()); return null; end'",
        )
        sql(live, "create trigger told before truncate on orders execute function told()")
        keys = "select conname, contype from pg_constraint where connamespace = 'public'::regnamespace order by 1"
        before = sql(live, keys)
        wanted = {"mode": "upsert"}
        planned = execute("daily_restore", newest, ops={"daily__restore_backend": {"config": wanted}})
        assert planned.success
        (plan,) = [one.event_specific_data.asset_observation.metadata for one in planned.get_asset_observation_events()]
        assert sql(live, "select count(*) from orders") == [(291,)]
        given = {"step": "apply", "plan_id": plan["plan_id"].value, "confirm": plan["confirm"].value}
        assert execute("daily_restore", newest, ops={"daily__restore_backend": {"config": {**wanted, **given}}}).success
    assert sql(live, "select count(*), count(*) filter (where note = 'made since') from orders") == [(301, 1)]
    assert sql(live, "select name from customers where id = 1") == [("Customer 1",)]
    assert sql(live, "select count(*) from truncated") == [(0,)]
    assert sql(live, keys) == before
    assert [one["purpose"] for one in json.loads(backend.run("list", "--json").out)["sets"]][-1] == "emergency"


@contextlib.contextmanager
def dagster_run(backend: TestSite) -> Iterator[Callable[..., dg.ExecuteInProcessResult]]:
    """Give a function (job, set, …run configuration) that runs a job as the UI does."""
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with dg.DagsterInstance.ephemeral() as instance:

        def execute(job: str, set_id: str | None = None, **config: Any) -> dg.ExecuteInProcessResult:
            found = build_definitions(backend.site).resolve_job_def(job)
            return found.execute_in_process(
                instance=instance, raise_on_error=False, partition_key=set_id, run_config={**quiet, **config}
            )

        yield execute


def the_check_in_dagster(backend: TestSite) -> str:
    with instance_in(backend.folder) as instance:
        job = build_definitions(backend.site).resolve_job_def("daily_backup")
        done = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not done.success
    (check,) = [one for one in done.get_asset_check_evaluations() if one.check_name == "primary_keys_kept"]
    assert check.severity is dg.AssetCheckSeverity.ERROR
    assert not check.passed
    return str(check.description)
