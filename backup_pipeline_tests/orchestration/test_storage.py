"""Dagster's storage and run launcher follow the environment, and no secret of theirs is written down or shown."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.launcher.sync_in_memory_run_launcher import SyncInMemoryRunLauncher
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._serdes import serialize_value
from dagster_postgres import PostgresRunStorage
from sqlalchemy.exc import OperationalError

from backup_pipeline.errors import SettingsError
from backup_pipeline.orchestration import home
from backup_pipeline.orchestration.launcher import executor_from_environment
from backup_pipeline.orchestration.sqlite_storage import SqliteEvents
from backup_pipeline.orchestration.storage import postgres_url
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.system.processes import run


@pytest.fixture
def dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("DAGSTER_", "BACKUP_PIPELINE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    return home.ensure_home(tmp_path)


@dg.op
def nothing() -> None:
    pass


@dg.job
def trivial() -> None:
    nothing()


def _url(server, database) -> str:
    target = server.target(database)
    return f"postgresql://{target.user}:{target.password}@{target.host}:{target.port}/{target.database}"


def test_without_a_url_runs_are_kept_in_sqlite_below_the_home(dagster_home: Path) -> None:
    with dg.DagsterInstance.get() as instance:
        assert trivial.execute_in_process(instance=instance).success
        assert instance.get_runs_count() == 1
        assert isinstance(instance.run_launcher, DefaultRunLauncher)
    assert (dagster_home / "storage" / "history" / "runs.db").is_file()


@pytest.mark.parametrize("by_file", [False, True])
def test_with_a_url_runs_are_kept_in_postgresql_and_the_password_nowhere(
    dagster_home: Path, server, database, monkeypatch: pytest.MonkeyPatch, by_file: bool, tmp_path: Path
) -> None:
    target = database()
    url = _url(server, target.database)
    if by_file:
        secret = tmp_path / "url"
        secret.write_text(url + "\n")
        monkeypatch.setenv("DAGSTER_POSTGRES_URL_FILE", str(secret))
    else:
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", url)
    with dg.DagsterInstance.get() as instance:
        assert isinstance(instance.run_storage, PostgresRunStorage)
        result = trivial.execute_in_process(instance=instance)
        assert result.success
        shown = instance.info_str() + serialize_value(instance.get_ref())
        # What another process is given is enough for it to find the same runs.
        with dg.DagsterInstance.from_ref(instance.get_ref()) as other:
            assert other.get_run_by_id(result.run_id) is not None
    assert target.password not in shown
    for path in dagster_home.rglob("*"):
        assert path.is_dir() or target.password.encode() not in path.read_bytes(), path


def test_dagsters_own_command_accepts_the_file_on_sqlite_and_on_postgresql(
    dagster_home: Path, server, database
) -> None:
    command = [sys.executable, "-m", "dagster", "instance", "info"]
    plain = run(command, env={"DAGSTER_HOME": str(dagster_home)}, cwd=dagster_home)
    assert b"SqliteRunStorage" in plain.stdout
    assert b"applyLimitPerUniqueValue: true" in plain.stdout
    target = database()
    env = {"DAGSTER_HOME": str(dagster_home), "DAGSTER_POSTGRES_URL": _url(server, target.database)}
    on_server = run(command, env=env, cwd=dagster_home)
    assert b"PostgresRunStorage" in on_server.stdout
    assert target.password.encode() not in on_server.stdout + on_server.stderr.encode()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("postgresql://u:p@h/d", "postgresql+psycopg2://u:p@h/d"),
        ("postgres://u:p@h/d", "postgresql+psycopg2://u:p@h/d"),
        ("postgresql+psycopg://u:p@h/d", "postgresql+psycopg2://u:p@h/d"),
    ],
)
def test_the_url_names_the_driver_that_dagster_needs(given: str, wanted: str) -> None:
    assert postgres_url({"DAGSTER_POSTGRES_URL": given}) == wanted


@pytest.mark.parametrize(
    "environment",
    [
        {"DAGSTER_POSTGRES_URL": "mysql://u:geheim@h/d"},
        {"DAGSTER_POSTGRES_URL_FILE": "/nowhere/url"},
    ],
)
def test_a_wrong_url_or_file_names_its_variable_and_no_secret(environment: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        postgres_url(environment)
    assert caught.value.where in environment
    assert caught.value.remedy
    assert "geheim" not in str(caught.value)


def test_the_run_launcher_follows_the_environment(dagster_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "BACKUP_PIPELINE_RUN_LAUNCHER",
        "dagster._core.launcher.sync_in_memory_run_launcher:SyncInMemoryRunLauncher",
    )
    with dg.DagsterInstance.get() as instance:
        assert isinstance(instance.run_launcher, SyncInMemoryRunLauncher)
        reference = instance.get_ref()
    assert reference.run_launcher_data is not None
    assert reference.run_launcher_data.class_name == "EnvironmentRunLauncher"


@pytest.mark.parametrize("value", ["nonsense", "dagster:NoSuchLauncher", "dagster:AssetKey", "nowhere_at_all:Thing"])
def test_a_wrong_run_launcher_is_one_clear_error(
    dagster_home: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("BACKUP_PIPELINE_RUN_LAUNCHER", value)
    with dg.DagsterInstance.get() as instance, pytest.raises(SettingsError, match="BACKUP_PIPELINE_RUN_LAUNCHER"):
        _ = instance.run_launcher


def test_compute_logs_are_files_unless_the_environment_says_otherwise(
    dagster_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.get() as instance:
        logs = instance.compute_log_manager
        assert isinstance(logs, LocalComputeLogManager)
        assert Path(logs.get_captured_local_path(["run", "step"], "out")).is_relative_to(dagster_home / "storage")
    elsewhere = "dagster._core.storage.noop_compute_log_manager:NoOpComputeLogManager"
    monkeypatch.setenv("BACKUP_PIPELINE_COMPUTE_LOGS", elsewhere)
    with dg.DagsterInstance.get() as instance:
        assert type(instance.compute_log_manager).__name__ == "NoOpComputeLogManager"
    monkeypatch.setenv("BACKUP_PIPELINE_COMPUTE_LOGS", "dagster:AssetKey")
    with dg.DagsterInstance.get() as instance, pytest.raises(SettingsError, match="BACKUP_PIPELINE_COMPUTE_LOGS"):
        _ = instance.compute_log_manager


def test_the_executor_is_in_process_unless_the_environment_says_otherwise() -> None:
    assert executor_from_environment({}).name == "in_process"
    several = executor_from_environment(
        {"BACKUP_PIPELINE_EXECUTOR": "multiprocess", "BACKUP_PIPELINE_EXECUTOR_CONFIG": '{"max_concurrent": 2}'}
    )
    assert several.name == "multiprocess"
    assert executor_from_environment({"BACKUP_PIPELINE_EXECUTOR": "dagster:multiprocess_executor"}).name
    with pytest.raises(SettingsError, match="not of the form"):
        executor_from_environment({"BACKUP_PIPELINE_EXECUTOR": "nonsense"})
    with pytest.raises(SettingsError, match="_CONFIG"):
        executor_from_environment({"BACKUP_PIPELINE_EXECUTOR_CONFIG": "[1"})


def test_an_older_copy_of_our_file_is_renewed_and_a_users_own_is_left_alone(dagster_home: Path) -> None:
    file = dagster_home / "dagster.yaml"
    ours = file.read_bytes()
    file.write_bytes(ours.replace(b"version 3", b"version 2", 1).replace(b"telemetry", b"old"))
    older = file.read_bytes()
    home.ensure_home(dagster_home.parent)
    assert file.read_bytes() == ours
    (kept,) = (dagster_home / ".former").glob("dagster.yaml.*")
    assert kept.read_bytes() == older
    file.write_text("telemetry: {enabled: false}\n")
    home.ensure_home(dagster_home.parent)
    assert file.read_text() == "telemetry: {enabled: false}\n"
    assert list((dagster_home / ".former").glob("dagster.yaml.*")) == [kept]


def test_without_dagster_home_it_lies_beside_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "restored afterwards")
    assert home.ensure_home(tmp_path, {}) == tmp_path / ".dagster"
    assert os.environ["DAGSTER_HOME"] == str(tmp_path / ".dagster")
    assert home.workspace_file().is_file()
    with pytest.raises(SettingsError, match="absolute"):
        home.ensure_home(tmp_path, {"DAGSTER_HOME": "here"})


def test_one_run_per_plan_is_what_the_queue_allows(dagster_home: Path) -> None:
    reference = InstanceRef.from_dir(str(dagster_home))
    with dg.DagsterInstance.from_ref(reference) as instance:
        queue = instance.get_concurrency_config().run_queue_config
    assert queue is not None
    assert {"key": "backup_pipeline/plan", "value": {"applyLimitPerUniqueValue": True}, "limit": 1} in list(
        queue.tag_concurrency_limits
    )


def _open_files(folder: Path) -> list[str]:
    return [file.path for file in psutil.Process().open_files() if file.path.startswith(str(folder))]


def test_files_of_runs_stay_open_while_used_but_never_many_and_none_at_the_end(dagster_home: Path) -> None:
    with dg.DagsterInstance.get() as instance:
        runs = [trivial.execute_in_process(instance=instance).run_id for _ in range(18)]
        events = [path for path in _open_files(dagster_home) if path.endswith(".db") and "/history/runs/" in path]
        assert 1 < len(set(events)) <= 16
        assert all(instance.all_logs(run) for run in runs)
    assert _open_files(dagster_home) == []
    assert list(dagster_home.rglob("*-wal")) == []


def test_a_file_that_another_process_removed_is_made_anew_and_no_event_is_lost(dagster_home: Path) -> None:
    with dg.DagsterInstance.get() as instance:
        run_id = trivial.execute_in_process(instance=instance).run_id
        (found,) = dagster_home.rglob(f"{run_id}.db")
        for path in found.parent.glob(f"{run_id}.db*"):
            path.unlink()
        assert list(instance.all_logs(run_id)) == []
        run = instance.get_run_by_id(run_id)
        assert run is not None
        instance.report_engine_event("written after the removal", run)
        with dg.DagsterInstance.from_ref(instance.get_ref()) as other:
            assert [entry.message for entry in other.all_logs(run_id)] == ["written after the removal"]


def test_a_history_server_that_is_down_is_said_at_once_and_without_its_password() -> None:
    from backup_pipeline.errors import SourceError
    from backup_pipeline.orchestration.storage import require_history

    require_history({})
    with pytest.raises(SourceError, match="history cannot be reached") as caught:
        require_history({"DAGSTER_POSTGRES_URL": "postgresql://dagster:hidden-word@127.0.0.1:1/dagster"})
    assert "hidden-word" not in str(caught.value)
    assert "DAGSTER_POSTGRES_URL" in str(caught.value)


def test_a_run_keeps_its_connections_and_survives_their_end(
    dagster_home: Path, server, database, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = database()
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", _url(server, target.database))
    others = "from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    with connected(target) as connection:

        def backends() -> set[int]:
            return {int(row[0]) for row in connection.execute(f"select pid {others}".encode())}

        with dg.DagsterInstance.get() as instance:
            assert trivial.execute_in_process(instance=instance).success
            kept = backends()
            assert 1 <= len(kept) <= 2
            assert trivial.execute_in_process(instance=instance).success
            assert backends() == kept
            connection.execute(f"select pg_terminate_backend(pid) {others}".encode())
            assert trivial.execute_in_process(instance=instance).success
            assert instance.get_runs_count() == 3
        # The server needs a moment to notice that they are closed.
        for _ in range(1200):
            if not backends():
                break
            time.sleep(0.05)
        assert not backends()


@dg.asset
def counted() -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(metadata={"rows": 7})


def _stored(instance: dg.DagsterInstance) -> dg.EventLogEntry:
    """Return the event of a materialisation that a run has stored."""
    run = dg.materialize([counted], instance=instance).run_id
    (event,) = instance.all_logs(run, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    return event


def _store_for_a_minute(instance: dg.DagsterInstance, event: dg.EventLogEntry) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        instance.event_log_storage.store_event(event)
        time.sleep(0.05)


def test_an_event_that_waits_to_be_written_is_there_for_whoever_reads(dagster_home: Path) -> None:
    with dg.DagsterInstance.get() as instance, dg.DagsterInstance.from_ref(instance.get_ref()) as other:
        event = _stored(instance)
        instance.event_log_storage.store_event(event)
        assert len(instance.fetch_materializations(counted.key, limit=9).records) == 2
        instance.event_log_storage.store_event(event)
        # Another process, such as the UI's, has it a moment later.
        until = time.monotonic() + 60
        while len(other.fetch_materializations(counted.key, limit=9).records) < 3:
            assert time.monotonic() < until
            time.sleep(0.05)
        instance.event_log_storage.store_event(event)
    with dg.DagsterInstance.get() as later:
        assert len(later.fetch_materializations(counted.key, limit=9).records) == 4


def test_when_waiting_events_cannot_be_written_the_next_one_fails(dagster_home: Path) -> None:
    with dg.DagsterInstance.get() as instance:
        event = _stored(instance)
        (index,) = (dagster_home / "storage").rglob("index.db")
        index.rename(index.with_suffix(".away"))
        index.mkdir()
        with pytest.raises(OperationalError):
            _store_for_a_minute(instance, event)
        index.rmdir()
        index.with_suffix(".away").rename(index)


@dg.asset(check_specs=[dg.AssetCheckSpec(name, asset="orders") for name in ("whole", "drifted")])
def orders() -> Iterator[object]:
    yield dg.MaterializeResult(metadata={"rows": 3}, data_version=dg.DataVersion("3"))
    yield dg.AssetCheckResult(passed=True, check_name="whole")
    yield dg.AssetCheckEvaluation(asset_key=dg.AssetKey("orders"), check_name="drifted", passed=False)
    # Of a check that was not planned.
    yield dg.AssetCheckEvaluation(asset_key=dg.AssetKey("orders"), check_name="new", passed=True)


def test_events_that_are_written_together_are_stored_as_dagster_stores_each(tmp_path: Path) -> None:
    with dg.instance_for_test() as instance:
        runs = [dg.materialize([orders], instance=instance, raise_on_error=False).run_id for _ in range(2)]
        events = [one.event_log_entry for run_id in runs for one in instance.get_records_for_run(run_id).records]
    stored = []
    for kind in (SqliteEventLogStorage, SqliteEvents):
        folder = tmp_path / kind.__name__
        storage = kind(str(folder))
        for event in events:
            storage.store_event(event)
        storage.dispose()
        with contextlib.closing(sqlite3.connect(folder / "index.db")) as index:
            stored.append({table: _rows(index, table) for table in _INDEX})
    assert stored[0] == stored[1]
    assert len(stored[0]["asset_check_executions"]) == 6


_INDEX = ("event_logs", "asset_keys", "asset_check_executions", "asset_event_tags")


def _rows(index: sqlite3.Connection, table: str) -> list[dict[str, object]]:
    found = index.execute(f"select * from {table} order by id")
    names = [column[0] for column in found.description]
    # Made with the row by SQLite itself.
    return [
        {name: value for name, value in zip(names, row, strict=True) if name != "create_timestamp"} for row in found
    ]
