"""A set that could not be drilled here, in Dagster, its sensors, the alerts and the status page: neutral everywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from backup_pipeline.operations.status.incident_state import read_state
from backup_pipeline.orchestration.alerts import alert_sensors
from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.orchestration.names import sets_partitions, stage_key
from backup_pipeline.postgres.server import installations
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_restore import sealed_set
from backup_pipeline_tests.support.receivers import Requests, http_server
from backup_pipeline_tests.support.sites import TestSite, dsn

SETTINGS = """
store: backups
sources: {shop: {kind: postgres, dsn_env: SHOP_URL}}
plans: {nightly: {sources: [shop], drill: "0 5 * * 0"}}
alerts: {urls_env: ALERT_URLS}
"""
# Of contrib, which the embedded server has not got.
SOURCE = "create extension hstore; create table tags (t hstore); insert into tags values ('a=>1')"
DRILLED = stage_key("nightly", "drill")


@pytest.fixture
def web() -> Iterator[Requests]:
    with http_server() as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, installed_database: Callable[[str], PostgresTarget], web: Requests) -> TestSite:
    made = TestSite(tmp_path)
    made.variables = {"SHOP_URL": dsn(installed_database(SOURCE)), "ALERT_URLS": web.url.replace("http", "json")}
    made.write(SETTINGS)
    return made


def drill_run(site: TestSite, instance: dg.DagsterInstance, set_id: str) -> dg.ExecuteInProcessResult:
    """Run the job, then the sensor that the daemon calls for a run that succeeded."""
    config: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    job = build_definitions(site.site).resolve_job_def("nightly_drill")
    result = job.execute_in_process(instance=instance, raise_on_error=False, partition_key=set_id, run_config=config)
    assert result.success, [event.message for event in result.all_events if event.is_failure]
    ended = next(e for e in result.all_events if e.event_type is dg.DagsterEventType.RUN_SUCCESS)
    (sensor,) = [one for one in alert_sensors(site.site) if one.name == "alert_on_failed_checks"]
    sensor(
        dg.build_run_status_sensor_context(
            sensor_name=sensor.name, dagster_instance=instance, dagster_run=result.dagster_run, dagster_event=ended
        )
    )
    return result


def page_of(site: TestSite) -> str:
    page = site.folder / "status.html"
    site.run("status", "--html", str(page))
    return " ".join(re.sub(r"<[^>]+>", " ", page.read_text()).split())


def test_a_set_that_could_not_be_drilled_here_is_neutral_until_it_is_proven(
    site: TestSite, instance: dg.DagsterInstance, web: Requests
) -> None:
    set_id = sealed_set(site.site, "nightly")
    name = sets_partitions("nightly").name
    assert name is not None
    instance.add_dynamic_partitions(name, [set_id])
    (stores,) = [one for one in alert_sensors(site.site) if one.name == "alert_on_stores"]

    with pytest.MonkeyPatch.context() as machine:
        machine.setattr(installations, "program_folders", list)
        machine.setattr(installations.shutil, "which", lambda _: None)
        result = drill_run(site, instance, set_id)
        assert result.get_asset_check_evaluations() == [], "neither passed nor failed"
        (record,) = instance.fetch_observations(DRILLED, limit=2).records
        observed = record.asset_observation
        assert observed is not None
        assert observed.partition == set_id
        assert "could not be drilled here, which says nothing against the set" in (observed.description or "")
        assert observed.metadata["outcome"].value == "could not be drilled here"
        assert "hstore" in str(observed.metadata["what this machine lacks"].value)
        assert "apt-get install" in str(observed.metadata["what this machine lacks"].value)
    assert instance.get_materialized_partitions(DRILLED) == set(), "neither green"
    assert instance.get_latest_materialization_event(DRILLED) is None

    stores(dg.build_sensor_context(instance=instance))
    (incident,) = read_state(site.site).open
    assert incident.kind == "not_drillable"
    reported = [json.loads(body) for _, body in web.seen]
    (text,) = [one["title"] + "\n" + one["message"] for one in reported]
    assert "could not be drilled here. Nothing speaks against it" in text
    assert "hstore" in text
    assert "apt-get install" in text

    page = page_of(site)
    assert f"Set {set_id} could not be drilled here, which says nothing against it" in page
    assert "There is no complete and good backup" not in page
    assert "Failing" not in page

    drill_run(site, instance, set_id)
    assert instance.get_materialized_partitions(DRILLED) == {set_id}
    stores(dg.build_sensor_context(instance=instance))
    assert read_state(site.site).open == ()
    assert "could not be drilled here" not in page_of(site)

    # What was proven stays so, green and all, when the machine loses what it had.
    with pytest.MonkeyPatch.context() as machine:
        machine.setattr(installations, "program_folders", list)
        machine.setattr(installations.shutil, "which", lambda _: None)
        assert drill_run(site, instance, set_id).get_asset_check_evaluations() == []
    assert instance.get_materialized_partitions(DRILLED) == {set_id}
    assert site.store("nightly").read(set_id).proven
    assert "There is no complete and good backup" not in page_of(site)
