"""Restore as a person does it in the UI: a plan, its application, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.orchestration.names import (
    SET_TAG,
    SOURCE_TAG,
    STEP_TAG,
    UNDONE_TAG,
    restored_key,
    stage_key,
)
from backup_pipeline.orchestration.restore_runs import latest_runs
from backup_pipeline.orchestration.set_partitions import synchronise_partitions
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import parse_target
from backup_pipeline_tests.support.sites import TestSite

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def _run(
    site: TestSite, instance: dg.DagsterInstance, job: str, *, set_id: str | None = None, op: str = "", **config: object
) -> dg.ExecuteInProcessResult:
    run_config: dict[str, Any] = dict(_QUIET)
    if op:
        run_config["ops"] = {op: {"config": config}}
    return (
        build_definitions(site.site)
        .resolve_job_def(job)
        .execute_in_process(instance=instance, raise_on_error=False, partition_key=set_id, run_config=run_config)
    )


def _tags(instance: dg.DagsterInstance, done: dg.ExecuteInProcessResult) -> Mapping[str, str]:
    run = instance.get_run_by_id(done.run_id)
    assert run is not None
    return run.tags


def _count(site: TestSite) -> int:
    with connected(parse_target(site.variables["DATABASE_URL"], variable="x")) as connection:
        row = connection.execute("select count(*) from public.orders").fetchone()
    assert row is not None
    return int(row[0])


def test_a_restore_is_planned_applied_and_undone(gustav: TestSite, instance: dg.DagsterInstance) -> None:
    assert _run(gustav, instance, "nightly_backup").success
    (set_id,) = gustav.store("nightly").sealed_ids()
    with connected(parse_target(gustav.variables["DATABASE_URL"], variable="x")) as connection:
        connection.execute("delete from public.orders where id > 100")
    assert _count(gustav) == 100
    op = "nightly__restore_supabase"

    assert _run(gustav, instance, "nightly_restore", set_id=set_id).success
    assert _count(gustav) == 100
    for name in ("storage", "keycloak"):
        assert len(instance.fetch_observations(restored_key("nightly", name), limit=5).records) == 1
    records = instance.fetch_observations(restored_key("nightly", "supabase"), limit=1).records
    observation = records[0].asset_observation
    assert observation is not None
    plan = observation.metadata

    def apply(confirm: str, step: str = "apply") -> dg.ExecuteInProcessResult:
        return _run(
            gustav,
            instance,
            "nightly_restore",
            set_id=set_id,
            op=op,
            step=step,
            plan_id=plan["plan_id"].value,
            confirm=confirm,
        )

    assert not apply("another", "Apply").success
    assert _count(gustav) == 100
    done = apply(str(plan["confirm"].value))
    assert done.success, [e.message for e in done.all_events if e.is_failure]
    assert _count(gustav) == 300
    assert len(gustav.store("nightly").sealed_ids()) == 2  # the emergency set
    for name in ("storage", "keycloak"):
        assert len(instance.fetch_observations(restored_key("nightly", name), limit=5).records) == 1, "not asked for"
    restored = _tags(instance, done)
    assert (restored[SOURCE_TAG], restored[STEP_TAG]) == ("supabase", "apply")
    assert UNDONE_TAG not in restored

    emergency = next(each for each in gustav.store("nightly").sealed_ids() if each != set_id)
    synchronise_partitions(gustav.site, "nightly", instance)
    named = f"{emergency}-emergency"
    assert set(instance.get_dynamic_partitions("nightly_sets")) == {set_id, named}
    assert _run(gustav, instance, "nightly_verification", set_id=named).success
    assert instance.get_materialized_partitions(stage_key("nightly", "verification")) == {named}

    undone = _run(
        gustav, instance, "nightly_undo", op="nightly__undo", source="supabase", confirm=str(plan["confirm"].value)
    )
    assert undone.success
    assert _count(gustav) == 100
    assert _tags(instance, done)[UNDONE_TAG] == undone.run_id
    assert [(run.step, run.source, run.undone) for run in latest_runs(instance, "nightly")][:2] == [
        ("undo", "supabase", False),
        ("apply", "supabase", True),
    ]
    assert _tags(instance, undone)[SET_TAG] == f"nightly/{set_id}"
    (newest,) = instance.fetch_observations(restored_key("nightly", "supabase"), limit=1).records
    assert newest.partition_key == set_id
    assert newest.asset_observation is not None
    assert newest.asset_observation.description == "This restore was undone."
    assert newest.asset_observation.metadata["restore"].value == done.run_id


def test_the_launchpad_says_what_each_field_of_a_restore_means(gustav: TestSite) -> None:
    job = build_definitions(gustav.site).resolve_job_def("nightly_restore")
    assert {node.name for node in job.graph.nodes} == {
        f"nightly__restore_{source}" for source in ("supabase", "storage", "keycloak")
    }
    node: Any = job.get_node_named("nightly__restore_supabase")
    fields = node.definition.config_schema.config_type.fields
    assert [name for name, field in fields.items() if field.is_required] == []
    assert {"step", "plan_id", "mode", "into", "tables", "rows", "only", "on_conflict", "without_triggers"} <= set(
        fields
    )
    assert [name for name, field in fields.items() if not field.description] == []


def test_a_drill_makes_its_partition_green_and_shows_what_it_took(
    gustav: TestSite, instance: dg.DagsterInstance
) -> None:
    assert _run(gustav, instance, "nightly_backup").success
    (set_id,) = gustav.store("nightly").sealed_ids()
    done = _run(gustav, instance, "nightly_drill", set_id=set_id)
    assert done.success, [e.message for e in done.all_events if e.is_failure]
    (evaluation,) = done.get_asset_check_evaluations()
    assert evaluation.passed
    event = instance.get_latest_materialization_event(dg.AssetKey(["nightly", "drill"]))
    assert event is not None
    assert event.asset_materialization is not None
    assert {"rto_seconds", "rpo_seconds"} <= set(event.asset_materialization.metadata)
    assert gustav.store("nightly").read(set_id).proven


def test_a_verification_of_a_damaged_set_fails_and_names_the_file(
    gustav: TestSite, instance: dg.DagsterInstance
) -> None:
    assert _run(gustav, instance, "nightly_backup").success
    (set_id,) = gustav.store("nightly").sealed_ids()
    file = gustav.store("nightly").path_of(set_id, "storage_buckets.tar.gz")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    done = _run(gustav, instance, "nightly_verification", set_id=set_id)
    assert not done.success
    (evaluation,) = done.get_asset_check_evaluations()
    assert not evaluation.passed
    assert "storage_buckets.tar.gz" in str(evaluation.metadata["what was found"].value)


def test_the_tables_of_a_sealed_set_are_exported_again_as_json_lines_beside_the_sets(
    gustav: TestSite, instance: dg.DagsterInstance
) -> None:
    assert _run(gustav, instance, "nightly_backup").success
    (set_id,) = gustav.store("nightly").sealed_ids()
    before = gustav.digests("nightly")
    done = _run(gustav, instance, "nightly_reexport", set_id=set_id)
    assert done.success, [e.message for e in done.all_events if e.is_failure]
    event = instance.get_latest_materialization_event(dg.AssetKey(["nightly", "reexport"]))
    assert event is not None
    assert event.asset_materialization is not None
    files = [record.data for record in event.asset_materialization.metadata["files"].records]
    assert {Path(str(row["file"])).name: row["rows"] for row in files}["public.orders.jsonl.gz"] == 300
    assert gustav.digests("nightly") == before


def test_a_plans_group_is_unpartitioned_so_that_materialising_all_is_a_backup(gustav: TestSite) -> None:
    specs = [s for s in build_definitions(gustav.site).resolve_all_asset_specs() if s.group_name == "nightly"]
    assert {s.key.path[1] for s in specs} == {"supabase", "storage", "keycloak", "manifest", "retention"}
    assert all(s.partitions_def is None for s in specs)
