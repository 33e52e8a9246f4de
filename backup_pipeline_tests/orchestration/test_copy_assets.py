"""Copies in Dagster: an asset per vault partitioned by set, asked for by a sensor, tried again, and alerted once."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from backup_pipeline.model.proof import ProofKind
from backup_pipeline.operations.sites.copy_records import vault_record
from backup_pipeline.operations.sites.stores import open_sets
from backup_pipeline.operations.status.incident_state import read_state
from backup_pipeline.operations.status.plan import plan_status
from backup_pipeline.orchestration.alerts import alert_sensors
from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.orchestration.copy_assets import due_copies, next_try
from backup_pipeline.orchestration.liveness import end_dead_runs
from backup_pipeline.orchestration.names import PLAN_TAG, SET_TAG, sets_partitions, stage_key
from backup_pipeline.orchestration.run_subject import missing_tags
from backup_pipeline_tests.support.copies_site import CopiesSite
from backup_pipeline_tests.support.receivers import Requests, http_server

COPY = stage_key("nightly", "copy_in_offsite")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@pytest.fixture
def web() -> Iterator[Requests]:
    with http_server() as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, web: Requests) -> CopiesSite:
    made = CopiesSite(tmp_path)
    made.variables["ALERT_URLS"] = web.url.replace("http", "json")
    return made.begin()


def backed_up(site: CopiesSite, instance: dg.DagsterInstance) -> None:
    job = build_definitions(site.site).resolve_job_def("nightly_backup")
    assert job.execute_in_process(instance=instance, raise_on_error=False, run_config=QUIET).success


def copied(site: CopiesSite, instance: dg.DagsterInstance, set_id: str) -> dg.ExecuteInProcessResult:
    job = build_definitions(site.site).resolve_job_def("nightly_copy_in_offsite")
    return job.execute_in_process(instance=instance, partition_key=set_id, raise_on_error=False, run_config=QUIET)


def asked(site: CopiesSite, instance: dg.DagsterInstance, now: datetime | None = None) -> list[str | None]:
    found = due_copies(site.site, "nightly", "offsite", instance, now or datetime.now(UTC))
    requests = found.run_requests if isinstance(found, dg.SensorResult) else []
    return [request.partition_key for request in requests or []]


def told_by_sensor(
    site: CopiesSite, name: str, result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance
) -> None:
    (sensor,) = [sensor for sensor in alert_sensors(site.site) if sensor.name == name]
    ended = (dg.DagsterEventType.RUN_SUCCESS, dg.DagsterEventType.RUN_FAILURE)
    event = next(event for event in result.all_events if event.event_type in ended)
    context = dg.build_run_status_sensor_context(
        sensor_name=name, dagster_instance=instance, dagster_run=result.dagster_run, dagster_event=event
    )
    sensor(context)


def test_a_sealed_set_is_asked_for_once_copied_and_shown_in_the_grid(
    site: CopiesSite, instance: dg.DagsterInstance
) -> None:
    backed_up(site, instance)
    [set_id] = site.store("nightly").sealed_ids()
    # The backup's own run copies nothing: a vault that is slow or away is no part of it.
    assert vault_record(site.site, "offsite").copies == {}
    assert asked(site, instance) == [set_id]
    result = copied(site, instance, set_id)
    assert result.success
    assert instance.get_materialized_partitions(COPY) == {set_id}
    event = instance.get_latest_materialization_event(COPY)
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["sent_bytes"].value > 0
    assert asked(site, instance) == []


def test_a_copy_that_fails_alerts_once_is_tried_again_later_and_is_over_when_made(
    site: CopiesSite, instance: dg.DagsterInstance, web: Requests
) -> None:
    backed_up(site, instance)
    [set_id] = site.store("nightly").sealed_ids()
    away = site.vault.rename(site.parent / "unplugged")
    for _ in range(2):
        result = copied(site, instance, set_id)
        assert not result.success
        told_by_sensor(site, "alert_on_failed_runs", result, instance)
    told = [json.loads(body)["message"] for _, body in web.seen]
    assert len(told) == 1
    assert f"Set {set_id} has no copy in offsite" in told[0]
    failure = vault_record(site.site, "offsite").failures["nightly"]
    assert failure.attempts == 2
    assert asked(site, instance, failure.at + timedelta(minutes=9)) == []
    assert asked(site, instance, failure.at + timedelta(minutes=11)) == [set_id]

    away.rename(site.vault)
    result = copied(site, instance, set_id)
    assert result.success
    told_by_sensor(site, "alert_on_failed_checks", result, instance)
    assert not [found for found in read_state(site.site).open if "no copy in offsite" in found.what]


def test_the_pauses_between_tries_grow_to_six_hours() -> None:
    moment = datetime(2026, 11, 26, 12, tzinfo=UTC)
    pauses = [(next_try(moment, attempts) - moment) / timedelta(minutes=1) for attempts in (1, 2, 3, 8, 100)]
    assert pauses == [5, 10, 20, 360, 360]


def test_a_backfill_copies_older_sets(site: CopiesSite, instance: dg.DagsterInstance) -> None:
    for text in ("first", "second"):
        site.change_files(text)
        backed_up(site, instance)
    first, second = site.store("nightly").sealed_ids()
    assert asked(site, instance) == [second]
    assert copied(site, instance, second).success
    assert asked(site, instance) == []
    name = sets_partitions("nightly").name
    assert name is not None
    assert set(instance.get_dynamic_partitions(name)) == {first, second}
    assert copied(site, instance, first).success
    assert instance.get_materialized_partitions(COPY) == {first, second}


def test_a_copy_keeps_no_backup_of_its_plan_waiting(site: CopiesSite, instance: dg.DagsterInstance) -> None:
    """The queue lets one run per value of the plan's tag start at a time."""
    backed_up(site, instance)
    [set_id] = site.store("nightly").sealed_ids()
    assert copied(site, instance, set_id).dagster_run.tags[PLAN_TAG] == "offsite:nightly"
    # Runs from the pages of assets have no job of ours, and are counted in the same way.
    from_the_page = dg.DagsterRun("__ASSET_JOB", asset_selection=frozenset([COPY]))
    assert missing_tags(from_the_page)[PLAN_TAG] == "offsite:nightly"
    both = dg.DagsterRun("__ASSET_JOB", asset_selection=frozenset([COPY, stage_key("nightly", "manifest")]))
    assert missing_tags(both)[PLAN_TAG] == "nightly"


def test_a_copy_under_way_is_not_asked_for_again(site: CopiesSite, instance: dg.DagsterInstance) -> None:
    backed_up(site, instance)
    [set_id] = site.store("nightly").sealed_ids()
    job = build_definitions(site.site).resolve_job_def("nightly_copy_in_offsite")
    run = instance.create_run_for_job(job, tags={"dagster/partition": set_id})
    instance.report_engine_event("begun", run)
    assert asked(site, instance) == []
    instance.report_run_failed(run)
    assert asked(site, instance) == [set_id]


def test_a_check_reads_what_is_stored_fails_on_damage_and_alerts(
    site: CopiesSite, instance: dg.DagsterInstance, web: Requests
) -> None:
    backed_up(site, instance)
    [set_id] = site.store("nightly").sealed_ids()
    assert copied(site, instance, set_id).success
    job = build_definitions(site.site).resolve_job_def("nightly_check_in_offsite")
    good = job.execute_in_process(instance=instance, raise_on_error=False, run_config=QUIET)
    assert good.success
    assert vault_record(site.site, "offsite").checks["nightly"].findings == ()

    chunk = next(path for path in (site.vault / "chunks").rglob("*") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    bad = job.execute_in_process(instance=instance, raise_on_error=False, run_config=QUIET)
    assert not bad.success
    [evaluation] = bad.get_asset_check_evaluations()
    assert not evaluation.passed
    told_by_sensor(site, "alert_on_failed_runs", bad, instance)
    told = json.loads(web.seen[-1][1])["message"]
    assert "Copies in offsite are not whole" in told


def test_what_is_proven_from_the_vault_is_shown_and_needs_the_identity(
    site: CopiesSite, instance: dg.DagsterInstance
) -> None:
    backed_up(site, instance)
    [set_id] = site.store("nightly").sealed_ids()
    assert copied(site, instance, set_id).success

    def read_there(stage: str) -> dg.ExecuteInProcessResult:
        job = build_definitions(site.site).resolve_job_def(f"nightly_{stage}_from_offsite")
        return job.execute_in_process(instance=instance, partition_key=set_id, raise_on_error=False, run_config=QUIET)

    without = read_there("drill")
    assert not without.success
    [failure] = without.get_step_failure_events()
    assert failure.step_failure_data.user_failure_data is not None
    assert "VAULT_IDENTITY_FILE" in str(failure.step_failure_data.user_failure_data.metadata["remedy"].value)
    site.variables["VAULT_IDENTITY_FILE"] = str(site.identity)
    site.write_env()
    for stage in ("verification", "drill"):
        assert read_there(stage).success
        assert instance.get_materialized_partitions(stage_key("nightly", f"{stage}_from_offsite")) == {set_id}
    copy = open_sets(site.site, "offsite:nightly").read(set_id)
    assert [proof.kind for proof in copy.proofs] == [ProofKind.VERIFICATION, ProofKind.DRILL]
    [copies] = plan_status(site.site, "nightly", datetime.now(UTC)).copies
    assert copies.proven is not None
    assert copies.proven[0] == set_id


def test_checks_and_drills_of_copies_have_schedules_for_what_is_there(
    site: CopiesSite, instance: dg.DagsterInstance
) -> None:
    site.entry = ', check: "0 7 * * 0", drill: "0 6 1 * *"'
    site.settle()

    def ticks() -> dict[str, list[str | None]]:
        found = {}
        for name in ("check_in", "drill_from"):
            schedule = build_definitions(site.site).resolve_schedule_def(f"nightly_{name}_offsite_schedule")
            moment = datetime(2026, 12, 1, 6, tzinfo=UTC)
            with dg.build_schedule_context(instance=instance, scheduled_execution_time=moment) as context:
                request = schedule(context)
            found[name] = [request.partition_key] if isinstance(request, dg.RunRequest) else []
        return found

    assert ticks() == {"check_in": [], "drill_from": []}
    backed_up(site, instance)
    [set_id] = site.store("nightly").sealed_ids()
    assert copied(site, instance, set_id).success
    assert ticks() == {"check_in": [None], "drill_from": [set_id]}


def test_each_copy_cleans_by_its_policy_and_a_refusal_is_a_warning(
    site: CopiesSite, instance: dg.DagsterInstance
) -> None:
    site.entry = ", retention: {keep_last: 1}"
    site.settle()
    results = []
    for text in ("first", "second"):
        site.change_files(text)
        backed_up(site, instance)
        results.append(copied(site, instance, site.store("nightly").sealed_ids()[-1]))
        assert results[-1].success
    event = instance.get_latest_materialization_event(COPY)
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert metadata["copies_marked"].value == 1
    first = site.store("nightly").sealed_ids()[0]
    marked = vault_record(site.site, "offsite").copy_of("nightly", first)
    assert marked is not None
    assert marked.marked_at is not None
    [check] = results[-1].get_asset_check_evaluations()
    assert check.passed
    # What a copy that cannot be read needs is not known, so nothing is cleaned; the new copy is made all the same.
    (site.vault / "copies" / "2026-01-01T000000Z-00000000000000000000000000000000").write_text("no copy")
    site.change_files("third")
    backed_up(site, instance)
    record = site.folder / ".backup-pipeline" / "copies" / "offsite.json"
    record.write_text(re.sub(r'"cleaned_at": ".*?"', '"cleaned_at": null', record.read_text()))
    result = copied(site, instance, site.store("nightly").sealed_ids()[-1])
    assert result.success
    [check] = result.get_asset_check_evaluations()
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.WARN
    assert "cannot be read" in str(check.description)


def test_a_copy_whose_run_was_killed_is_asked_for_again_after_a_pause(
    site: CopiesSite, instance: dg.DagsterInstance
) -> None:
    backed_up(site, instance)
    [set_id] = site.store("nightly").sealed_ids()
    job = build_definitions(site.site).resolve_job_def("nightly_copy_in_offsite")
    run = instance.create_run_for_job(job, tags={"dagster/partition": set_id, SET_TAG: f"nightly/{set_id}"})
    instance.report_run_failed(run, "Its process was killed.")
    assert asked(site, instance) == []
    assert asked(site, instance, datetime.now(UTC) + timedelta(minutes=6)) == [set_id]


@pytest.mark.parametrize("chunks", [1, pytest.param(4, marks=pytest.mark.story)])
def test_a_copy_killed_on_its_way_alerts_is_tried_again_and_becomes_whole(
    tmp_path: Path, web: Requests, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    site = CopiesSite(tmp_path, vault=", megabytes_per_second: 1")
    site.variables["ALERT_URLS"] = web.url.replace("http", "json")
    site.begin()
    (site.folder / "files" / "large.bin").write_bytes(random.Random(7).randbytes(9_000_000))
    backed_up(site, instance)
    [set_id] = site.store("nightly").sealed_ids()
    before = site.digests("nightly")
    instance.add_dynamic_partitions("nightly_sets", [set_id])
    monkeypatch.setenv("BACKUP_PIPELINE_CONFIG", str(site.folder / "backup.yaml"))
    tags = json.dumps({"dagster/partition": set_id, PLAN_TAG: "offsite:nightly", SET_TAG: f"nightly/{set_id}"})
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "backup_pipeline.definitions"]
    process = subprocess.Popen(
        [*command, "-j", "nightly_copy_in_offsite", "--tags", tags], cwd=site.folder, stdout=subprocess.DEVNULL
    )

    def stored() -> int:
        return sum(path.is_file() for path in (site.vault / "chunks").rglob("*"))

    until = time.monotonic() + 200
    while stored() < chunks and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list((site.vault / "copies").glob("*"))

    [killed] = end_dead_runs(instance)
    [sensor] = [sensor for sensor in alert_sensors(site.site) if sensor.name == "alert_on_failed_runs"]
    [event] = [
        entry.dagster_event
        for entry in instance.all_logs(killed)
        if entry.dagster_event and entry.dagster_event.event_type is dg.DagsterEventType.RUN_FAILURE
    ]
    run = instance.get_run_by_id(killed)
    assert run is not None
    context = dg.build_run_status_sensor_context("alert_on_failed_runs", event, instance, run)
    for _ in range(2):
        sensor(context)
    told = [json.loads(body)["message"] for _, body in web.seen]
    assert len(told) == 1
    assert f"Set {set_id} has no copy in offsite" in told[0]
    assert "process was killed" in told[0]
    assert vault_record(site.site, "offsite").failures["nightly"].attempts == 1

    assert asked(site, instance) == []
    assert asked(site, instance, datetime.now(UTC) + timedelta(minutes=12)) == [set_id]
    there = stored()
    result = copied(site, instance, set_id)
    assert result.success
    told_by_sensor(site, "alert_on_failed_checks", result, instance)
    made = result.asset_materializations_for_node("nightly__copy_in_offsite")[0].metadata
    assert made["sent_chunks"].value == stored() - there
    assert chunks == 1 or made["sent_chunks"].value < made["chunks"].value, "what was sent is not sent again"
    assert not [found for found in read_state(site.site).open if "no copy in offsite" in found.what]
    assert site.digests("nightly") == before
    for name in ("nightly/latest", "offsite:nightly/latest"):
        done = site.run("verify", name, "--identity", str(site.identity))
        assert done.code == 0, done.text


def test_the_sensor_asks_also_for_a_set_that_dagster_does_not_know_yet(
    site: CopiesSite, instance: dg.DagsterInstance
) -> None:
    # Sealed in another history, as by a shell with a DAGSTER_HOME of its own.
    site.vault.rename(site.parent / "unplugged")
    assert site.run("backup", "nightly").code == 12
    (site.parent / "unplugged").rename(site.vault)
    record = site.folder / ".backup-pipeline" / "copies" / "offsite.json"
    record.unlink()
    [set_id] = site.store("nightly").sealed_ids()
    repository = build_definitions(site.site).get_repository_def()
    sensor = repository.get_sensor_def("nightly_copy_in_offsite_sensor")
    context = dg.SensorEvaluationContext(
        instance_ref=instance.get_ref(),
        last_tick_completion_time=None,
        last_run_key=None,
        cursor=None,
        repository_name=repository.name,
        repository_def=repository,
        sensor_name=sensor.name,
    )
    with context:
        tick = sensor.evaluate_tick(context)
    [request] = tick.run_requests or []
    assert request.partition_key == set_id
    assert request.tags[PLAN_TAG] == "offsite:nightly"
    assert [list(one.partition_keys) for one in tick.dynamic_partitions_requests or []] == [[set_id]]
