"""Runs are what the history says: each is found under its plan, and one whose process was killed has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._core.workspace.context import BaseWorkspaceRequestContext, WorkspaceProcessContext
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from backup_pipeline.operations.status.incident_state import read_state
from backup_pipeline.orchestration.alerts import alert_sensors, subject_of
from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.orchestration.liveness import SILENT_SECONDS, death_of, end_dead_runs, marked_alive
from backup_pipeline.orchestration.names import OPERATION_TAG, PLAN_TAG, PLANS_TAG, STARTED_BY_TAG
from backup_pipeline.orchestration.run_subject import missing_tags
from backup_pipeline.settings.loader import load_site
from backup_pipeline_tests.support.dagster_runs import loaded
from backup_pipeline_tests.support.sites import TestSite

SETTINGS = """
sources:
  shop: {kind: folder, path: files}
  desk: {kind: folder, path: files}
plans:
  nightly: {sources: [shop, desk]}
  weekly: {sources: [desk]}
"""
TAGS = (PLAN_TAG, OPERATION_TAG, STARTED_BY_TAG)


@pytest.fixture
def history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[dg.DagsterInstance, WorkspaceProcessContext]]:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "note.txt").write_text("kept")
    with loaded(tmp_path, SETTINGS, monkeypatch) as found:
        yield found


def asset_run(
    *keys: str, tags: dict[str, str] | None = None, job: str = "__ASSET_JOB", **more: object
) -> dg.DagsterRun:
    selection = frozenset(dg.AssetKey(key.split("/")) for key in keys) or None
    return dg.DagsterRun(job_name=job, asset_selection=selection, tags=tags or {}, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("run", "reported"),
    [
        (asset_run("nightly/shop", "nightly/shop/tarball"), ("nightly", "capture", "ui")),
        (
            asset_run("nightly/shop", "nightly/desk", "nightly/manifest", "nightly/retention"),
            ("nightly", "backup", "ui"),
        ),
        (asset_run("nightly/drill", tags={"dagster/backfill": "abc"}), ("nightly", "drill", "backfill")),
        (asset_run("nightly/shop/restored"), ("nightly", "restore", "ui")),
        (asset_run("nightly/shop/public/drill"), ("nightly", "capture", "ui")),
        (asset_run("workshop/werkstatt/order_folders"), ("workshop", "orders_export", "ui")),
        (asset_run(job="nightly_undo", tags={PLAN_TAG: "nightly"}), ("nightly", "undo", "ui")),
        (
            asset_run(job="dagster_housekeeping", tags={"dagster/schedule_name": "weekly"}),
            ("", "dagster_housekeeping", "schedule weekly"),
        ),
        (
            asset_run(asset_check_selection=frozenset({dg.AssetCheckKey(dg.AssetKey(["nightly", "shop"]), "x")})),
            ("nightly", "check", "ui"),
        ),
    ],
)
def test_what_a_run_is_about_is_told_from_what_it_selects(run: dg.DagsterRun, reported: tuple[str, str, str]) -> None:
    tags = {**run.tags, **missing_tags(run)}
    assert tuple(tags.get(name, "") for name in TAGS) == reported
    # What somebody has tagged stays.
    assert missing_tags(run.with_tags({**tags, OPERATION_TAG: "mine"})) == {}


def submitted(
    instance: dg.DagsterInstance,
    request: BaseWorkspaceRequestContext,
    *keys: str,
    job: str = "__ASSET_JOB",
    steps: list[str] | None = None,
) -> str:
    """Put a run into the queue, as the webserver does for the page of an asset, a group or a job; return its id."""
    location = request.get_code_location("backup-pipeline")
    repository = next(iter(location.get_repositories().values()))
    full = repository.get_full_job(job)
    run = instance.create_run(
        job_name=job,
        run_id=None,
        run_config={},
        resolved_op_selection=None,
        status=None,
        tags={} if job == "__ASSET_JOB" else dict(full.tags),
        root_run_id=None,
        parent_run_id=None,
        step_keys_to_execute=steps,
        execution_plan_snapshot=None,
        job_snapshot=None,
        parent_job_snapshot=None,
        asset_selection=frozenset(dg.AssetKey(key.split("/")) for key in keys) or None,
        asset_check_selection=None,
        op_selection=None,
        remote_job_origin=full.get_remote_origin(),
        job_code_origin=full.get_python_origin(),
        asset_graph=repository.asset_graph,
    )
    instance.submit_run(run.run_id, request)
    return run.run_id


def test_a_run_of_the_asset_pages_waits_in_the_queue_with_its_plan(
    history: tuple[dg.DagsterInstance, WorkspaceProcessContext],
) -> None:
    instance, workspace = history
    with workspace.create_request_context() as request:
        run_id = submitted(instance, request, "nightly/shop")
    queued = instance.get_runs(dg.RunsFilter(tags={PLAN_TAG: "nightly", OPERATION_TAG: "capture"}))
    assert [(found.run_id, found.status) for found in queued] == [(run_id, DagsterRunStatus.QUEUED)]
    assert queued[0].tags[STARTED_BY_TAG] == "ui"
    assert GRPC_INFO_TAG not in queued[0].tags


def test_a_backup_has_the_steps_that_its_job_has_when_it_begins(
    history: tuple[dg.DagsterInstance, WorkspaceProcessContext],
) -> None:
    instance, workspace = history
    steps = ["nightly__shop", "nightly__database_that_is_gone"]
    with workspace.create_request_context() as request:
        backup = submitted(instance, request, job="nightly_backup", steps=steps)
        part = submitted(instance, request, "nightly/shop", steps=steps)
    known = {name: instance.get_run_by_id(name) for name in (backup, part)}
    assert {name: found.step_keys_to_execute for name, found in known.items() if found} == {backup: None, part: steps}
    queued = instance.get_runs(dg.RunsFilter(tags={PLAN_TAG: "nightly", OPERATION_TAG: "backup"}))
    assert [(found.run_id, found.tags[STARTED_BY_TAG]) for found in queued] == [(backup, "ui")]


def test_one_run_per_plan_leaves_the_queue_wherever_it_was_started(
    history: tuple[dg.DagsterInstance, WorkspaceProcessContext],
) -> None:
    instance, workspace = history

    def leaving() -> list[str]:
        # What the daemon does in each of its rounds, up to the start of the processes.
        daemon = QueuedRunCoordinatorDaemon(interval_seconds=1)
        return [run.run_id for run in daemon._get_runs_to_dequeue(instance, instance.get_concurrency_config(), None)]

    with workspace.create_request_context() as request:
        page = submitted(instance, request, "nightly/shop")
        job = submitted(instance, request, job="nightly_backup")
        both = submitted(instance, request, "nightly/desk", "weekly/desk")
        other = submitted(instance, request, "weekly/desk")
    assert leaving() == [page, other]
    for run_id in (page, other):
        instance.report_run_canceled(instance.get_run_by_id(run_id))  # type: ignore[arg-type]
    assert leaving() == [job]
    instance.report_run_canceled(instance.get_run_by_id(job))  # type: ignore[arg-type]
    with workspace.create_request_context() as request:
        third = submitted(instance, request, job="weekly_backup")
    assert leaving() == [both]
    # Also while it runs.
    instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, "__ASSET_JOB"), run_id=both)
    assert leaving() == []
    instance.report_run_canceled(instance.get_run_by_id(both))  # type: ignore[arg-type]
    assert leaving() == [third]
    tags = instance.get_run_by_id(both).tags  # type: ignore[union-attr]
    assert (tags[PLAN_TAG], tags[PLANS_TAG]) == ("nightly", "nightly, weekly")


def test_a_backup_of_the_shell_is_tagged_and_its_mark_is_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = TestSite(tmp_path)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "note.txt").write_text("kept")
    site.write(SETTINGS)
    done = site.run("backup", "nightly")
    assert done.code == 0, done.text
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / ".dagster"))
    with dg.DagsterInstance.get() as instance:
        (run,) = instance.get_runs()
        assert run.tags[PLAN_TAG] == "nightly"
        assert run.tags[OPERATION_TAG] == "backup"
        assert run.tags[STARTED_BY_TAG].startswith("shell, ")
    assert [path for path in (tmp_path / ".dagster" / "storage" / "running").iterdir() if path.is_file()] == []


def test_no_event_of_a_failed_step_holds_a_secret_that_its_cause_repeats(
    history: tuple[dg.DagsterInstance, WorkspaceProcessContext],
) -> None:
    instance, _ = history
    secret = 's3cret "Wörd"'
    load_site(environment={"SHOP_PASSWORD": secret})

    @dg.op
    def capture() -> None:
        dg.get_dagster_logger().warning("the server said: %s", secret)
        try:
            raise ValueError(f"wrong password {secret}")
        except ValueError as error:
            raise dg.Failure("refused", metadata={"told": secret}) from error

    @dg.job
    def failing() -> None:
        capture()

    result = failing.execute_in_process(instance=instance, raise_on_error=False)
    reported = [str(entry) for entry in instance.all_logs(result.run_id)]
    assert [text for text in reported if "s3cret" in text] == []
    assert any("wrong password ***" in text for text in reported)
    assert any("the server said: ***" in text for text in reported)


HANGING = """
import os, sys, time
from backup_pipeline.orchestration.liveness import marked_alive
with marked_alive(sys.argv[1]):
    print("up", flush=True)
    time.sleep(600)
"""


def started_run(instance: dg.DagsterInstance) -> dg.DagsterRun:
    """A run that has started, of the plan, as one of the shell."""
    run = instance.create_run_for_job(build_definitions(load_site()).resolve_job_def("nightly_backup"))
    instance.report_dagster_event(
        dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, "nightly_backup"), run_id=run.run_id
    )
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    assert found.status is DagsterRunStatus.STARTED
    return found


def killed(run: dg.DagsterRun) -> None:
    """Execute nothing for a run in a process, and kill it."""
    process = subprocess.Popen([sys.executable, "-c", HANGING, run.run_id], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    assert death_of(run.run_id) == ""
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_a_killed_run_is_ended_by_the_monitor_and_by_the_next_run_of_the_shell(
    history: tuple[dg.DagsterInstance, WorkspaceProcessContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging

    instance, workspace = history
    alive, first, second = started_run(instance), started_run(instance), started_run(instance)
    killed(first)
    with marked_alive(alive.run_id):
        assert instance.run_launcher.check_run_worker_health(alive).status is WorkerStatus.RUNNING
        list(execute_run_monitoring_iteration(workspace, logging.getLogger("monitor")))
        statuses = {run.run_id: run.status for run in instance.get_runs()}
        assert statuses[first.run_id] is DagsterRunStatus.FAILURE
        # One without a mark was not seen from here: it is left alone.
        assert statuses[alive.run_id] is statuses[second.run_id] is DagsterRunStatus.STARTED
        killed(second)
        assert end_dead_runs(instance) == [second.run_id]
        assert end_dead_runs(instance) == []
        # The promise of dagster.yaml: an interval, and the silence of a process on another machine, in two minutes.
        assert instance.run_monitoring_poll_interval_seconds + SILENT_SECONDS < 120


def test_a_run_on_another_host_is_dead_when_its_process_is_silent_for_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with marked_alive("a-run"):
        mark = tmp_path / "storage" / "running" / "a-run"
        text = mark.read_text()
        monkeypatch.setattr("socket.gethostname", lambda: "another-container")
        assert mark.read_text() == text
        assert death_of("a-run") == ""
        silent = time.time() - SILENT_SECONDS - 1
        os.utime(mark, (silent, silent))
        assert "silent for" in death_of("a-run")
    assert death_of("a-run") == ""
    assert death_of("never-seen") == ""


def test_a_partial_capture_changes_nothing_of_what_is_known(gustav: TestSite) -> None:
    from backup_pipeline.operations.backup.known_tables import known_tables
    from backup_pipeline.operations.backup.run import BackupRun, RunIdentity

    assert gustav.run("backup", "nightly").code == 0
    store = gustav.site.store_folder("nightly")
    known = known_tables(store, "supabase")
    assert len(known) == 2
    from datetime import UTC, datetime

    run = BackupRun(
        gustav.site, "nightly", RunIdentity("r", "r", datetime.now(UTC)), sources=("supabase",), partial=True
    )
    records = list(run.capture("supabase", frozenset({known[0]})))
    run.close()
    assert [record.key for record in records] == [known[0]]
    assert known_tables(store, "supabase") == known


def test_execute_on_a_check_of_a_capture_is_refused_and_leaves_nothing(
    history: tuple[dg.DagsterInstance, WorkspaceProcessContext],
) -> None:
    instance, _ = history
    site = load_site()
    check = dg.AssetCheckKey(dg.AssetKey(["nightly", "shop", "tarball"]), "tarball_complete")
    job = build_definitions(site).resolve_implicit_global_asset_job_def()
    subset = job.get_subset(asset_selection=set(), asset_check_selection={check})
    result = subset.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "is evaluated while its asset is captured" in str(failure.step_failure_data.error_display_string)
    assert not site.store_folder("nightly").exists() or not list(site.store_folder("nightly").glob("*T*Z"))
    assert subject_of(site, asset_run(asset_check_selection=frozenset({check}))) == ("nightly", "check")
    # Whoever clicked has been answered: nobody else is told.
    event = next(found for found in result.all_events if found.event_type is dg.DagsterEventType.RUN_FAILURE)
    asked = result.dagster_run.with_tags({PLAN_TAG: "nightly", OPERATION_TAG: "check"})
    (sensor,) = [found for found in alert_sensors(site) if found.name == "alert_on_failed_runs"]
    run = asset_run(asset_check_selection=frozenset({check}), run_id=asked.run_id, status=asked.status)
    sensor(dg.build_run_status_sensor_context("alert_on_failed_runs", event, instance, run))
    assert read_state(site).open == ()
