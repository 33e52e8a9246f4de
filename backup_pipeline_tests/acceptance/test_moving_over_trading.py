"""The trading site as its owner has it on the last day of the scripts, moved over as the guide says."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from backup_pipeline.model.set_id import SetId, set_time
from backup_pipeline.operations.sites import identity as site_identity
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.archive_sets import git
from backup_pipeline_tests.support.invented_sets import make_set
from backup_pipeline_tests.support.sites import Output, TestSite

GUIDE = Path(__file__).parents[2] / "docs" / "guide-trading-and-repository.md"
TABLES = ("signals", "orders", "trades", "positions", "portfolio_snapshots")
API_SECRET = "mexc-4711-secret"
SETTINGS = """\
store: ../Claire_Backups
timezone: Europe/Berlin
sources:
  trading:
    kind: postgres
    dsn_env: TRADING_DATABASE_URL
    user_env: POSTGRES_USER
    password_env: POSTGRES_PASSWORD
    required_tables: [signals, orders, trades, positions, portfolio_snapshots]
    missing_tables: warning
    file_name: PostgreSQL/cdb_backup_{time:%Y-%m-%d_%H%M}.sql
  claire:
    kind: repository
    path: .
    volumes: [data/grafana]
    include_volumes: false
    file_name: Repository/claire_repo_{time:%Y-%m-%d_%H%M}_{commit}.zip
plans:
  session:
    sources: [trading, claire]
    store: ../Claire_Backups
    retention: {keep_within: 14d}
"""


class Claire(TestSite):
    """The site: the repository with its settings, and the folder of the old backups beside it."""

    database: PostgresTarget

    @property
    def backups(self) -> Path:
        return self.folder.parent / "Claire_Backups"

    def sets(self, folder: Path | None = None) -> list[Path]:
        return sorted((folder or self.backups).glob("*T*Z"))

    def old_files(self) -> dict[str, str]:
        """Every file of the old tool by its digest."""
        found = [path for name in ("PostgreSQL", "Repository") for path in (self.backups / name).rglob("*")]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def _old_backups(folder: Path) -> None:
    """What the scripts left: their two folders, each with its files and its log."""
    for kind, name, log in (
        (
            "PostgreSQL",
            "cdb_backup_2025-11-25_2227.sql",
            "[2025-11-25 22:27:38] Backup erfolgreich\n  Tabellen: 5 / 5\n",
        ),
        (
            "Repository",
            "claire_repo_2025-11-25_2230_0e4fbd3.zip",
            "[2025-11-25 22:30:15] Repository Backup erfolgreich\n",
        ),
    ):
        (folder / kind).mkdir(parents=True)
        (folder / kind / name).write_bytes(b"-- PostgreSQL database dump\n")
        (folder / kind / "backup_log.txt").write_text(log, "utf-8")


@pytest.fixture
def claire(tmp_path: Path, database: Callable[..., PostgresTarget], monkeypatch: pytest.MonkeyPatch) -> Claire:
    # As on the owner's machine, wherever the tests run: what the site writes must not appear in the repository.
    monkeypatch.setattr(site_identity, "_IN_A_CONTAINER", ())
    target = database()
    with connected(target) as connection:
        for table in TABLES:
            connection.execute(f"create table public.{table} (id bigint primary key, note text)".encode())
            connection.execute(f"insert into public.{table} select n, 'n ' || n from generate_series(1, 30) n".encode())
    folder = tmp_path / "Claire_de_Binare_Cleanroom"
    (folder / "data" / "grafana").mkdir(parents=True)
    (folder / "data" / "grafana" / "grafana.db").write_text("dashboards")
    (folder / "README.md").write_text("# Claire\n")
    (folder / ".gitignore").write_text(".env\n.dagster/\n.site-id\ndata/\n")
    site = Claire(folder)
    site.database = target
    site.variables = {
        "POSTGRES_USER": target.user,
        "POSTGRES_PASSWORD": target.password,
        "POSTGRES_DB": target.database,
        "MEXC_API_SECRET": API_SECRET,
        "TRADING_DATABASE_URL": f"postgresql://{target.host}:{target.port}/{target.database}",
    }
    site.write(SETTINGS)
    git(folder, "init", "-q", "-b", "festive-shamir")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Settings of the backup")
    _old_backups(site.backups)
    return site


def _done(output: Output, code: int = 0) -> Output:
    assert output.code == code, output.text
    return output


def _local_time(name: str) -> str:
    return f"{set_time(SetId(name)).astimezone(ZoneInfo('Europe/Berlin')):%Y-%m-%d_%H%M}"


def test_the_hook_shows_and_logs_what_the_scripts_did(claire: Claire) -> None:
    before = claire.old_files()
    commit = git(claire.folder, "rev-parse", "HEAD")[:7]
    done = _done(claire.run("backup", "session"))
    assert re.search(r"\[1/2\] trading … [\d.]+ \wB in [\d.]+ s: tables 5/5", done.err)
    assert "[2/2] claire … " in done.err
    facts = f"branch festive-shamir, commit {commit}, env no, volumes no"
    assert facts in done.err
    (folder,) = claire.sets()
    moment = _local_time(folder.name)
    dump = (folder / "PostgreSQL" / f"cdb_backup_{moment}.sql").read_text("utf-8")
    assert dump.startswith("--\n-- PostgreSQL database dump\n")
    assert all(f"CREATE TABLE public.{table} " in dump for table in TABLES)
    with zipfile.ZipFile(folder / "Repository" / f"claire_repo_{moment}_{commit}.zip") as archive:
        assert archive.namelist() == [".gitignore", "README.md", "backup.yaml"]
    log = (claire.backups / "backup_log.txt").read_text()
    assert re.match(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d - backup - INFO - session/{folder.name} complete, ", log)
    assert log.endswith(f"; trading: tables 5/5; claire: {facts}\n")
    written = datetime.fromisoformat(log[:19]).replace(tzinfo=ZoneInfo("Europe/Berlin"))
    assert abs((written - set_time(SetId(folder.name))).total_seconds()) < 600
    shown = _done(claire.run("show", "session/latest")).out
    assert "trading: tables 5/5" in shown
    assert f"claire: {facts}" in shown
    document = json.loads(_done(claire.run("show", "session/latest", "--json")).out)
    assert document["facts"]["trading"] == {"tables": "5/5"}
    assert document["facts"]["claire"]["commit"] == commit
    _done(claire.run("verify", "session/latest"))
    # As their own document restores it: one file into psql, nothing to unpack.
    copy = database_copy(claire)
    program = choose_client(18).program("psql")
    into = {**claire.environment(), "PGPASSWORD": copy.password}
    address = ["-h", copy.host, "-p", str(copy.port), "-U", copy.user, "-d", copy.database]
    given = ["-X", "-q", "-v", "ON_ERROR_STOP=1", *address]
    subprocess.run([program, *given], input=dump.encode(), env=into, check=True, capture_output=True)
    with connected(copy) as connection:
        assert connection.execute("select count(*) from public.positions").fetchone() == (30,)
    assert claire.old_files() == before
    assert git(claire.folder, "status", "--porcelain") == ""


def database_copy(claire: Claire) -> PostgresTarget:
    copy = claire.database.with_database(f"{claire.database.database}_psql")
    with connected(claire.database.with_database("postgres")) as connection:
        connection.execute(f'create database "{copy.database}"'.encode())
    return copy


@pytest.mark.story
def test_sets_go_after_fourteen_days_and_the_files_of_the_scripts_stay(claire: Claire) -> None:
    """The scripts' own files are older than that by far; they are listed as another tool's, and a drill holds."""
    before = claire.old_files()
    store = open_store(claire.site, "session")
    now = datetime.now(UTC).replace(microsecond=0)
    old, recent = (make_set(store, now - timedelta(days=days)) for days in (15, 13))
    _done(claire.run("backup", "session"))
    assert [path.name for path in claire.sets()][:-1] == [recent]
    assert not (claire.backups / old).exists()
    assert claire.old_files() == before
    foreign = json.loads(_done(claire.run("list", "session", "--json")).out)["foreign"]
    assert [one["path"] for one in foreign] == [
        "PostgreSQL/cdb_backup_2025-11-25_2227.sql",
        "Repository/claire_repo_2025-11-25_2230_0e4fbd3.zip",
    ]
    proof = json.loads(_done(claire.run("drill", "session/latest", "--json")).out)
    assert (proof["passed"], proof["numbers"]["rows"]) == (True, 150)
    assert json.loads(claire.run("status", "--json").out)["plans"][0]["standing"] == "good"
    # The plain dump is damaged: named by verify, and nothing that was green stays so.
    (dump,) = (claire.sets()[-1] / "PostgreSQL").iterdir()
    dump.write_bytes(dump.read_bytes()[:-40])
    reported = claire.run("verify", "session/latest")
    assert (reported.code, dump.name in reported.text) == (6, True)
    assert json.loads(claire.run("status", "--json").out)["plans"][0]["standing"] == "failing"


def test_options_of_one_run_reach_the_run_and_hold_no_secret(claire: Claire, tmp_path: Path) -> None:
    usb = tmp_path / "usb"
    options = ("--include-env", "--include-volumes", "--keep-within", "30d", "--store", str(usb), "--verbose")
    done = _done(claire.run("backup", "session", *options))
    assert "env yes, volumes yes" in done.err
    assert "claire.archive: everything_committed ok: " in done.err
    assert claire.sets() == []
    (folder,) = claire.sets(usb)
    assert (folder / "claire_extras.tar.gz").stat().st_mode & 0o777 == 0o600
    assert (usb / "backup_log.txt").is_file()
    # What was written there is found there, and only there.
    there = ("--store", str(usb))
    assert folder.name not in claire.run("list", "session").text
    for arguments in (("list",), ("show", "latest"), ("verify", f"session/{folder.name}")):
        assert folder.name in _done(claire.run(*arguments, *there)).text
    nowhere = claire.run("list", "--store", str(tmp_path / "nowhere"))
    assert (nowhere.code, "No such folder" in nowhere.err) == (9, True)
    home = claire.folder / ".dagster"
    variables = {**claire.environment(), "DAGSTER_HOME": str(home)}
    with mock.patch.dict(os.environ, variables, clear=True), dg.DagsterInstance.get() as instance:
        (run,) = instance.get_runs()
        config = json.dumps(run.run_config)
        assert instance.get_dynamic_partitions("session_sets") == []
    assert run.run_config["resources"]["backup_runs"]["config"] == {
        "store": str(usb),
        "include_env": True,
        "include_volumes": True,
        "keep_within": "720h",
    }
    # What the run writes on the screen and keeps in its history: neither password nor API key.
    for secret in (claire.variables["POSTGRES_PASSWORD"], API_SECRET):
        assert secret not in config + done.text + (usb / "backup_log.txt").read_text()
    wrong = claire.run("backup", "session", "--keep-within", "two weeks")
    assert wrong.code == 3, wrong.text
    assert "--keep-within" in wrong.err


def test_a_missing_table_warns_and_a_stopped_server_stops_the_hook(claire: Claire) -> None:
    with connected(claire.database) as connection:
        connection.execute("drop table public.trades")
    done = _done(claire.run("backup", "session", "--only", "trading"))
    assert "tables 4/5" in done.err
    assert "required_tables" in done.out
    assert "4/5 required tables; missing: trades" in _done(claire.run("show", f"session/{claire.sets()[0].name}")).out
    claire.variables["TRADING_DATABASE_URL"] = "postgresql://127.0.0.1:1/claire_de_binare"
    claire.write_env()
    stopped = claire.run("backup", "session", "--only", "trading")
    assert stopped.code != 0
    assert "127.0.0.1:1" in stopped.err
    del claire.variables["POSTGRES_PASSWORD"]
    claire.write_env()
    unset = claire.run("backup", "session", "--only", "trading")
    assert unset.code != 0
    assert "POSTGRES_PASSWORD" in unset.err


def test_repository_and_database_are_restored_beside_what_is_there(claire: Claire) -> None:
    (claire.folder / "README.md").write_text("# Stashed\n")
    git(claire.folder, "stash", "push", "-q", "-m", "half done")
    _done(claire.run("backup", "session", "--include-env"))
    for source, into in (("claire", "../restored"), ("trading", f"{claire.database.database}_copy")):
        plan = json.loads(_done(claire.run("restore", "session/latest", source, "--into", into, "--json")).out)
        options = ("--apply", "--plan-id", plan["plan_id"], "--confirm", plan["confirm"])
        _done(claire.run("restore", "session/latest", source, "--into", into, *options))
    restored = claire.folder.parent / "restored"
    for ask in (("rev-parse", "HEAD"), ("symbolic-ref", "HEAD"), ("stash", "list"), ("for-each-ref",)):
        assert git(restored, *ask) == git(claire.folder, *ask)
    assert (restored / ".env").read_text() == (claire.folder / ".env").read_text()
    copy = claire.database.with_database(f"{claire.database.database}_copy")
    with connected(copy) as connection:
        found = connection.execute("select count(*) from public.trades").fetchone()
    assert found == (30,)
    with connected(claire.database.with_database("postgres")) as connection:
        connection.execute(f'drop database "{copy.database}"'.encode())


def test_in_dagster_the_same_job_takes_the_same_options_and_shows_the_same(
    claire: Claire, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    job = build_definitions(claire.site).resolve_job_def("session_backup")
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    given = {"include_env": True, "keep_within": "30d", "store": str(tmp_path / "usb")}
    for config, store, env in (({}, claire.backups, "no"), (given, tmp_path / "usb", "yes")):
        resources = {"resources": {"backup_runs": {"config": config}}} if config else {}
        done = job.execute_in_process(instance=instance, run_config={**quiet, **resources})
        assert done.success
        (folder,) = claire.sets(store)
        assert (folder / "claire_extras.tar.gz").exists() is (env == "yes")
        seen = {
            event.asset_key.to_user_string(): event.step_materialization_data.materialization.metadata
            for event in done.all_events
            if event.is_step_materialization and event.asset_key
        }
        assert seen["session/trading/dump"]["fact/tables"].value == "5/5"
        assert seen["session/claire/bundle"]["fact/branch"].value == "festive-shamir"
        assert seen["session/claire/bundle"]["fact/env"].value == env
    assert list(instance.get_dynamic_partitions("session_sets")) == [claire.sets()[0].name]


def test_the_guide_has_the_settings_that_are_tested_here() -> None:
    text = GUIDE.read_text("utf-8")
    assert "".join(f"    {line}" for line in SETTINGS.splitlines(keepends=True)) in text
