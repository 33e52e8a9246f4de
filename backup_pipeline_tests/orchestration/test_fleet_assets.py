"""Fleets in Dagster: a partition for each member, one run for the window and one for partitions of one's choice."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest

from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.orchestration.fleet_assets import fleet_key, synchronise_members
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.site import Site

FOLDERS = """
store: backups
fleets:
  tenants:
    sources_from: {file: tenants.json}
    source: {kind: folder, path: "data/{name}"}
    schedule: "0 22 * * *"
    window: 6h
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    for name in ("one", "two"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "file").write_text(name)
    (tmp_path / "tenants.json").write_text(json.dumps(["one", "two", "lost"]))
    (tmp_path / "backup.yaml").write_text(FOLDERS)
    return load_site(tmp_path)


def materialised(instance: dg.DagsterInstance) -> set[str]:
    return set(instance.get_materialized_partitions(fleet_key("tenants")))


def test_the_window_is_one_run_that_materialises_each_sealed_member(site: Site, instance: dg.DagsterInstance) -> None:
    job = build_definitions(site).resolve_job_def("tenants_backup")
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    assert materialised(instance) == {"tenants_one", "tenants_two"}
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "2 members of tenants are sealed, 1 failed, 0 are postponed" in str(failure.event_specific_data)
    assert set(instance.get_dynamic_partitions("tenants_members")) == {f"tenants_{n}" for n in ("one", "two", "lost")}


def test_partitions_of_ones_choice_are_one_run_of_these_members_alone(site: Site, instance: dg.DagsterInstance) -> None:
    synchronise_members(site, "tenants", instance)
    definitions = build_definitions(site)
    asset = definitions.resolve_assets_def(fleet_key("tenants"))
    assert asset.backfill_policy == dg.BackfillPolicy.single_run()
    result = dg.materialize([asset], instance=instance, partition_key="tenants_two")
    assert result.success
    assert materialised(instance) == {"tenants_two"}


def test_a_thousand_members_are_few_definitions(site: Site) -> None:
    (site.folder / "tenants.json").write_text(json.dumps([f"t{number}" for number in range(1000)]))
    definitions = build_definitions(load_site(site.file))
    assert len(definitions.resolve_asset_graph().get_all_asset_keys()) == 2
    assert {job.name for job in definitions.resolve_all_job_defs()} >= {"tenants_backup"}
    assert [one.name for one in definitions.schedules or ()][-1] == "tenants_backup_schedule"


def test_the_sensor_follows_the_list(site: Site, instance: dg.DagsterInstance) -> None:
    synchronise_members(site, "tenants", instance)
    (site.folder / "tenants.json").write_text(json.dumps(["one", "new"]))
    (sensor,) = [s for s in build_definitions(site).sensors or () if s.name == "tenants_members_sensor"]
    with dg.build_sensor_context(instance=instance) as context:
        result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    requests = {type(one).__name__: one.partition_keys for one in result.dynamic_partitions_requests or ()}
    assert requests == {
        "AddDynamicPartitionsRequest": ["tenants_new"],
        "DeleteDynamicPartitionsRequest": ["tenants_lost", "tenants_two"],
    }
