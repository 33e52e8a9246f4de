"""The sensors tell what the shell tells, once; and housekeeping removes only what nothing depends on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from backup_pipeline.errors import BackupSystemError, RefusedError, SettingsError, StoreError
from backup_pipeline.operations.alerts import send as alerts
from backup_pipeline.operations.status.incident_state import read_state
from backup_pipeline.operations.status.plan import plan_status
from backup_pipeline.orchestration import home
from backup_pipeline.orchestration.alerts import alert_sensors, subject_of
from backup_pipeline.orchestration.housekeeping import housekeeping_definitions, housekeeping_job, old_runs
from backup_pipeline.orchestration.metadata import failure_of
from backup_pipeline.orchestration.names import PLAN_TAG, sets_partitions
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.site import Site
from backup_pipeline_tests.support.receivers import Requests, http_server

SETTINGS = """
sources:
  shop: {kind: folder, path: files}
plans:
  nightly: {sources: [shop]}
  nightly_long: {sources: [shop]}
alerts: {urls_env: ALERT_URLS}
"""


@pytest.fixture
def web() -> Iterator[Requests]:
    with http_server() as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, web: Requests) -> Site:
    (tmp_path / "backup.yaml").write_text(SETTINGS)
    return load_site(tmp_path, environment={"ALERT_URLS": web.url.replace("http", "json")})


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    for name in list(os.environ):
        if name.startswith(("DAGSTER_", "BACKUP_PIPELINE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    home.ensure_home(tmp_path)
    with dg.DagsterInstance.get() as made:
        yield made


def texts(web: Requests) -> list[str]:
    return [found["title"] + "\n" + found["message"] for _, body in web.seen for found in [json.loads(body)]]


def evaluate(site: Site, name: str, result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> str:
    """Call a sensor for a run as the daemon does; return what its tick shows."""
    (sensor,) = [sensor for sensor in alert_sensors(site) if sensor.name == name]
    ended = (dg.DagsterEventType.RUN_SUCCESS, dg.DagsterEventType.RUN_FAILURE)
    event = next(event for event in result.all_events if event.event_type in ended)
    context = dg.build_run_status_sensor_context(
        sensor_name=name, dagster_instance=instance, dagster_run=result.dagster_run, dagster_event=event
    )
    skipped = sensor(context)
    assert isinstance(skipped, dg.SkipReason)
    return str(skipped.skip_message)


def failing_job(error: Exception) -> dg.JobDefinition:
    @dg.op
    def work() -> None:
        raise error

    @dg.job(name="nightly_backup", tags={PLAN_TAG: "nightly"})
    def job() -> None:
        work()

    return job


FAILURE = dg.Failure(
    "No answer.",
    metadata={"error": "SourceError", "what": "No answer.", "where": "shop", "remedy": "Start the server."},
)


def test_a_failed_run_is_told_with_reason_and_remedy_and_not_again_after_the_shell(
    site: Site, web: Requests, instance: dg.DagsterInstance
) -> None:
    result = failing_job(FAILURE).execute_in_process(instance=instance, raise_on_error=False)
    tick = evaluate(site, "alert_on_failed_runs", result, instance)
    (text,) = texts(web)
    assert "nightly: The backup failed." in text
    assert tick.startswith(f"backup of nightly failed. Alert “{text.splitlines()[0]}” was sent to JSON")
    assert web.url not in tick
    assert evaluate(site, "alert_on_failed_runs", result, instance).endswith("Nothing new to report.")
    assert "shop: No answer." in text
    assert "Start the server." in text
    alerts.notify_run_finished(site, "nightly", alerts.FinishedRun(succeeded=False, run_id=result.run_id))
    assert len(texts(web)) == 1


def test_a_foreign_errors_text_is_not_told_for_it_may_hold_a_row(
    site: Site, web: Requests, instance: dg.DagsterInstance
) -> None:
    error = RuntimeError("duplicate key: Key (email)=(anna@example.org) already exists")
    result = failing_job(error).execute_in_process(instance=instance, raise_on_error=False)
    evaluate(site, "alert_on_failed_runs", result, instance)
    (text,) = texts(web)
    assert "anna" not in text
    assert "RuntimeError" in text


def test_a_failed_check_in_a_green_run_is_told_and_its_end_too(
    site: Site, web: Requests, instance: dg.DagsterInstance
) -> None:
    @dg.asset(
        key=["nightly", "verification"], check_specs=[dg.AssetCheckSpec("whole", asset=["nightly", "verification"])]
    )
    def verification(context):
        passed = context.run.tags["passes"] == "yes"
        yield dg.MaterializeResult(
            check_results=[
                dg.AssetCheckResult(
                    check_name="whole",
                    passed=passed,
                    severity=dg.AssetCheckSeverity.WARN,
                    description="2 files changed",
                )
            ]
        )

    for passes in ("no", "no", "yes"):
        result = dg.materialize([verification], instance=instance, tags={"passes": passes})
        assert result.success
        evaluate(site, "alert_on_failed_checks", result, instance)
    first, second = texts(web)
    assert "Check whole of verification failed (WARN)." in first
    assert "2 files changed" in first
    assert "over" in second


def test_the_store_sensor_says_what_it_found(site: Site, instance: dg.DagsterInstance) -> None:
    (sensor,) = [sensor for sensor in alert_sensors(site) if sensor.name == "alert_on_stores"]
    with dg.build_sensor_context(instance=instance) as context:
        skipped = sensor(context)
    assert isinstance(skipped, dg.SkipReason)
    assert "0 incidents open" in str(skipped.skip_message)
    assert set(read_state(site).known_since) == {"nightly", "nightly_long"}


@pytest.mark.parametrize(
    ("job", "assets", "tags", "wanted"),
    [
        ("nightly_backup", [], {PLAN_TAG: "nightly"}, ("nightly", "backup")),
        ("nightly_drill", [], {}, ("nightly", "drill")),
        ("nightly_long_drill", [], {}, ("nightly_long", "drill")),
        ("dagster_housekeeping", [], {}, ("", "dagster_housekeeping")),
        ("__ASSET_JOB", [["nightly", "shop"], ["nightly", "manifest"]], {}, ("nightly", "backup")),
        ("__ASSET_JOB", [["nightly", "verification"]], {}, ("nightly", "verification")),
    ],
)
def test_a_run_is_known_by_its_plan_and_its_work(
    site: Site, job: str, assets: list[list[str]], tags: dict[str, str], wanted: tuple[str, str]
) -> None:
    selection = frozenset(dg.AssetKey(path) for path in assets) or None
    assert subject_of(site, dg.DagsterRun(job_name=job, asset_selection=selection, tags=tags)) == wanted


def test_housekeeping_keeps_the_latest_materialisation_of_each_asset_and_partition(
    instance: dg.DagsterInstance,
) -> None:
    sets = dg.StaticPartitionsDefinition(["a", "b"])

    @dg.asset(partitions_def=sets)
    def verified() -> None: ...

    @dg.asset
    def plain() -> None: ...

    first = dg.materialize([verified], partition_key="a", instance=instance).run_id
    again = dg.materialize([verified], partition_key="a", instance=instance).run_id
    other = dg.materialize([verified], partition_key="b", instance=instance).run_id
    old = dg.materialize([plain], instance=instance).run_id
    new = dg.materialize([plain], instance=instance).run_id
    later = datetime.now(UTC) + timedelta(days=1)
    assert set(old_runs(instance, later)) == {first, old}
    assert old_runs(instance, datetime.now(UTC) - timedelta(days=1)) == []
    assert {again, other, new}.isdisjoint(old_runs(instance, later))


def test_housekeeping_keeps_no_run_of_a_set_that_is_gone(instance: dg.DagsterInstance) -> None:
    sets = sets_partitions("nightly")

    @dg.asset(key=["nightly", "verification"], partitions_def=sets)
    def verification() -> None: ...

    names = ["2026-11-18T020000Z", "2026-11-19T020000Z", "2026-11-20T020000Z"]
    instance.add_dynamic_partitions(str(sets.name), names)
    runs = [dg.materialize([verification], partition_key=name, instance=instance).run_id for name in names]
    later = datetime.now(UTC) + timedelta(days=1)
    assert old_runs(instance, later) == []
    instance.delete_dynamic_partition(str(sets.name), names[0])
    assert old_runs(instance, later) == runs[:1]


def test_housekeeping_removes_old_runs_with_their_events_and_not_itself(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dg.op
    def nothing() -> None: ...

    @dg.job
    def old_job() -> None:
        nothing()

    old = old_job.execute_in_process(instance=instance).run_id
    config = {"ops": {"prune_history": {"config": {"keep_days": 7}}}}
    housekeeping_job.execute_in_process(instance=instance, run_config=config)
    assert instance.has_run(old)
    monkeypatch.setattr(
        "backup_pipeline.orchestration.housekeeping.timedelta", lambda days: timedelta(days=days) - timedelta(days=8)
    )
    dry = {"ops": {"prune_history": {"config": {"keep_days": 7, "dry_run": True}}}}
    housekeeping_job.execute_in_process(instance=instance, run_config=dry)
    assert instance.has_run(old)
    done = housekeeping_job.execute_in_process(instance=instance, run_config=config)
    assert done.success
    assert not instance.has_run(old)
    assert instance.get_records_for_run(old).records == []
    assert instance.has_run(done.run_id)


def test_housekeeping_runs_by_itself_only_where_the_variable_is_set() -> None:
    assert housekeeping_definitions(environment={})[1].default_status is dg.DefaultScheduleStatus.STOPPED
    _, schedule = housekeeping_definitions(environment={"BACKUP_PIPELINE_KEEP_RUNS_DAYS": "30"})
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    with pytest.raises(SettingsError, match="BACKUP_PIPELINE_KEEP_RUNS_DAYS"):
        housekeeping_definitions(environment={"BACKUP_PIPELINE_KEEP_RUNS_DAYS": "soon"})


def test_restores_and_undos_are_told_by_source(site: Site) -> None:
    for work in ("undo", "restore"):
        config = {"ops": {f"nightly__{work}": {"config": {"source": "shop", "confirm": "x"}}}}
        run = dg.DagsterRun(job_name=f"nightly_{work}", run_config=config, tags={PLAN_TAG: "nightly"})
        assert subject_of(site, run) == ("nightly", f"{work} of shop")


@pytest.mark.parametrize("fails", [True, False])
def test_the_plan_of_a_restore_opens_no_incident_and_ends_none(
    site: Site, instance: dg.DagsterInstance, fails: bool
) -> None:
    failed = alerts.FinishedRun(succeeded=False, work="restore of shop", reason="The connection is lost.")
    alerts.notify_run_finished(site, "nightly", failed, datetime.now(UTC) - timedelta(minutes=1))
    (before,) = read_state(site).open

    @dg.op(name="nightly__restore_shop", config_schema={"step": str})
    def restore() -> None:
        if fails:
            raise failure_of(StoreError("The disk is full.", where="other"))

    @dg.job(name="nightly_restore", tags={PLAN_TAG: "nightly"})
    def job() -> None:
        restore()

    sensor = "alert_on_failed_runs" if fails else "alert_on_failed_checks"
    found = []
    for step in ("plan", "apply"):
        config = {"ops": {"nightly__restore_shop": {"config": {"step": step}}}}
        result = job.execute_in_process(run_config=config, instance=instance, raise_on_error=False)
        evaluate(site, sensor, result, instance)
        found.append([one.reason for one in read_state(site).open])
    assert found == [[before.reason], ["other: The disk is full."] if fails else []]


@pytest.mark.parametrize(
    ("error", "opened"),
    [
        (RefusedError("There is no restore to undo.", where="shop"), []),
        (StoreError("The disk is full.", where="shop"), ["run_failed:nightly:undo of shop"]),
    ],
)
def test_a_refused_undo_is_an_answer_and_a_failed_one_an_incident_that_status_names(
    site: Site, instance: dg.DagsterInstance, error: BackupSystemError, opened: list[str]
) -> None:
    @dg.op(name="nightly__undo", config_schema={"source": str, "confirm": str})
    def undo() -> None:
        raise failure_of(error)

    @dg.job(name="nightly_undo", tags={PLAN_TAG: "nightly"})
    def job() -> None:
        undo()

    config = {"ops": {"nightly__undo": {"config": {"source": "shop", "confirm": "x"}}}}
    result = job.execute_in_process(run_config=config, instance=instance, raise_on_error=False)
    event = next(found for found in result.all_events if found.event_type is dg.DagsterEventType.RUN_FAILURE)
    (sensor,) = [found for found in alert_sensors(site) if found.name == "alert_on_failed_runs"]
    sensor(dg.build_run_status_sensor_context("alert_on_failed_runs", event, instance, result.dagster_run))
    assert [incident.key for incident in read_state(site).open] == opened
    reported = [problem.what for problem in plan_status(site, "nightly", datetime.now(UTC)).problems]
    assert any("undo" in what for what in reported) is bool(opened), reported
