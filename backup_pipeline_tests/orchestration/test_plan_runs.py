"""What a plan looks like in Dagster, and what its runs do there."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from backup_pipeline.model.manifest import Purpose
from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.orchestration.names import artefact_key, key_part, manifest_key, sets_partitions, source_key
from backup_pipeline.orchestration.partition_names import known_partition, partition_name, set_of_partition
from backup_pipeline.orchestration.proof_assets import due_sets
from backup_pipeline.orchestration.run_resource import selected_sources
from backup_pipeline.orchestration.schema_sensor import schema_sensor
from backup_pipeline.orchestration.set_partitions import partitions_sensor, synchronise_partitions
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import parse_target
from backup_pipeline.settings.loader import load_site
from backup_pipeline_tests.support.sites import GUSTAV, TestSite

_EVERYTHING = """
store: backups
sources:
  shop: {kind: postgres, dsn_env: SHOP_URL}
  werkstatt: {kind: orders, database: werkstatt.db, archive: Archiv}
plans:
  nightly:
    sources: [shop, werkstatt]
    schedule: "0 2 * * *"
    verify: "0 4 * * 0"
    drill: "0 5 * * 0"
    copies: [{to: offsite, check: "0 6 * * 0", drill: "0 7 * * 0"}]
vaults:
  offsite: {url: "file:///nowhere", recipients: [age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]}
"""


def _run(
    site: TestSite, instance: dg.DagsterInstance, *, assets: list[dg.AssetKey] | None = None
) -> dg.ExecuteInProcessResult:
    job = build_definitions(site.site).resolve_job_def("nightly_backup")
    return job.execute_in_process(
        instance=instance,
        raise_on_error=False,
        asset_selection=assets,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )


def _sql(site: TestSite, *statements: str) -> None:
    with connected(parse_target(site.variables["DATABASE_URL"], variable="x"), pinned=False) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_definitions_are_built_while_the_databases_are_down(gustav: TestSite) -> None:
    gustav.variables["DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/none"
    gustav.write_env()
    definitions = build_definitions(gustav.site)
    keys = definitions.resolve_asset_graph().get_all_asset_keys()
    assert {artefact_key("nightly", ("supabase", "dump")), manifest_key("nightly")} <= keys


def test_a_table_that_appeared_since_the_definitions_is_exported_and_shown(
    gustav: TestSite, instance: dg.DagsterInstance
) -> None:
    assert _run(gustav, instance).success
    definitions = build_definitions(gustav.site)
    _sql(gustav, "create table late (id int primary key)", "insert into late values (1), (2)")
    job = definitions.resolve_job_def("nightly_backup")
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert result.success
    event = instance.get_latest_materialization_event(artefact_key("nightly", ("supabase", "public", "late")))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["dagster/row_count"].value == 2
    reported = {e.check_name: e for e in result.get_asset_check_evaluations() if e.asset_key.path[-1] == "supabase"}
    assert reported["tables_all_known"].passed, "a new table that was exported is nothing wrong"
    assert reported["tables_all_known"].metadata["new"].value == 1
    known = gustav.store("nightly").read(gustav.store("nightly").ids()[-1])
    assert known.manifest is not None
    record = known.manifest.record("supabase", "public", "late")
    assert record is not None
    assert record.rows == 2


def test_a_table_dropped_since_the_definitions_is_reported_and_the_set_is_sealed(
    gustav: TestSite, instance: dg.DagsterInstance
) -> None:
    _sql(gustav, "create table soon_gone (id int primary key)")
    assert _run(gustav, instance).success
    job = build_definitions(gustav.site).resolve_job_def("nightly_backup")
    _sql(gustav, "drop table soon_gone")
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert result.success
    assert len(gustav.store("nightly").sealed_ids()) == 2
    event = instance.get_latest_materialization_event(source_key("nightly", "supabase"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["no_longer_there"].value == "soon_gone"


def test_a_run_of_one_source_makes_a_partial_set_that_is_no_backup_of_the_plan(
    gustav: TestSite, instance: dg.DagsterInstance
) -> None:
    keys = [artefact_key("nightly", ("storage", "tarball")), source_key("nightly", "storage"), manifest_key("nightly")]
    assert _run(gustav, instance, assets=keys).success
    manifest = gustav.store("nightly").read(gustav.store("nightly").ids()[-1]).manifest
    assert manifest is not None
    assert manifest.partial
    assert manifest.sources == ("storage",)
    assert due_sets(gustav.site, "nightly", newest_only=True) == []


def test_no_folder_of_a_store_is_open_to_others(gustav: TestSite) -> None:
    gustav.write(GUSTAV.replace("store: backups", "store: deep/down").replace(", store: sets", ""))
    assert gustav.run("backup", "nightly").code == 0
    folders = [gustav.folder / "deep", *(path for path in (gustav.folder / "deep").rglob("*") if path.is_dir())]
    assert gustav.folder / "deep" / "down" / "nightly" in folders
    assert [path for path in folders if path.stat().st_mode & 0o077] == []


def test_a_sealed_set_becomes_a_partition_and_the_plans_lock_is_free(
    gustav: TestSite, instance: dg.DagsterInstance
) -> None:
    assert _run(gustav, instance).success
    assert not (gustav.folder / "sets" / ".backup.lock").exists()
    name = sets_partitions("nightly").name
    assert name is not None
    assert tuple(instance.get_dynamic_partitions(name)) == gustav.store("nightly").sealed_ids()


def test_the_partition_of_a_partial_set_says_so_and_one_named_before_keeps_its_name(
    gustav: TestSite, instance: dg.DagsterInstance
) -> None:
    part = [source_key("nightly", "storage"), manifest_key("nightly")]
    name = str(sets_partitions("nightly").name)
    assert _run(gustav, instance, assets=part).success
    (first,) = gustav.store("nightly").sealed_ids()
    assert list(instance.get_dynamic_partitions(name)) == [f"{first}-partial"]
    instance.delete_dynamic_partition(name, f"{first}-partial")
    instance.add_dynamic_partitions(name, [first])
    synchronise_partitions(gustav.site, "nightly", instance)
    assert list(instance.get_dynamic_partitions(name)) == [first]
    assert known_partition(instance, "nightly", first) == first
    assert partition_name(first, Purpose.EMERGENCY, partial=True) == f"{first}-emergency"
    assert set_of_partition(f"{first}-emergency") == set_of_partition(first) == first
    assert set_of_partition("2019") == "2019"


def test_sets_copied_in_or_removed_by_hand_appear_and_disappear_in_the_partitions(
    gustav: TestSite, instance: dg.DagsterInstance
) -> None:
    import shutil

    assert _run(gustav, instance).success
    store = gustav.store("nightly")
    (first,) = store.sealed_ids()
    shutil.copytree(store.path_of(first), store.folder / "2020-01-01T000000Z")
    sensor = partitions_sensor(gustav.site, "nightly")

    def changes() -> list[tuple[str, list[str]]]:
        found = sensor(dg.build_sensor_context(instance=instance))
        assert isinstance(found, dg.SensorResult)
        return [(type(r).__name__, list(r.partition_keys)) for r in found.dynamic_partitions_requests or ()]

    assert changes() == [("AddDynamicPartitionsRequest", ["2020-01-01T000000Z"])]
    shutil.rmtree(store.path_of(first))
    assert changes() == [
        ("AddDynamicPartitionsRequest", ["2020-01-01T000000Z"]),
        ("DeleteDynamicPartitionsRequest", [str(first)]),
    ]


def test_a_verification_from_the_shell_shows_once_and_a_failed_one_fails_its_check(
    gustav: TestSite, instance: dg.DagsterInstance
) -> None:
    assert _run(gustav, instance).success
    store = gustav.store("nightly")
    (set_id,) = store.sealed_ids()
    sensor = partitions_sensor(gustav.site, "nightly")
    cursor: str | None = None

    def shown() -> list[tuple[str, str | None, bool]]:
        nonlocal cursor
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        found = sensor(context)
        cursor = context.cursor
        events = found.asset_events if isinstance(found, dg.SensorResult) else []
        return [
            ("check", None, event.passed)
            if isinstance(event, dg.AssetCheckEvaluation)
            else (event.asset_key.to_user_string(), event.partition, True)
            for event in events
        ]

    assert shown() == []
    assert gustav.run("verify", "latest").code == 0
    listed = ("nightly/manifest", None, True)
    assert shown() == [("nightly/verification", str(set_id), True), ("check", None, True), listed]
    assert shown() == []
    (store.path_of(set_id) / "storage_buckets.tar.gz").write_bytes(b"")
    assert gustav.run("verify", "latest").code != 0
    assert shown() == [("check", None, False), listed]


def test_the_manifest_lists_the_plans_sets_and_links_to_their_restores(
    gustav: TestSite, instance: dg.DagsterInstance
) -> None:
    assert _run(gustav, instance).success
    (first,) = gustav.store("nightly").sealed_ids()
    assert gustav.run("verify", "latest").code == 0
    result = _run(gustav, instance)
    (shown,) = [e.metadata for e in result.asset_materializations_for_node("nightly__manifest")]
    rows = {row.data["set"]: row.data for row in shown["sets"].records}
    assert list(rows)[-1] == first
    assert str(rows[first]["verified"]).startswith("yes, ")
    assert (rows[first]["kind"], rows[first]["proven"], rows[first]["copies"]) == ("backup", "not yet", "none")
    links = str(shown["pages and runs of sets"].value)
    assert (
        f"[{first}](/backups/nightly/{first}) · [restore](/backups/restore/nightly/{first}) · [backup](/runs/" in links
    )
    assert f"[backup](/runs/{result.run_id})" in links
    for source in ("supabase", "storage", "keycloak"):
        assert f"nightly__restore_{source}" in str(shown[f"start a restore: {source}"].value)
    assert shown["size"].value.endswith("B")
    assert shown["duration"].value.endswith("s")
    assert isinstance(shown["size_bytes"].value, int)


def test_every_schedule_and_sensor_says_what_it_does(tmp_path: Path) -> None:
    (tmp_path / "backup.yaml").write_text(_EVERYTHING)
    definitions = build_definitions(load_site(tmp_path, environment={}))
    every = [*definitions.schedules, *definitions.sensors]
    assert len(every) > 10
    assert [each.name for each in every if not each.description] == []


def test_checks_are_asset_checks_with_counts_in_their_metadata(gustav: TestSite, instance: dg.DagsterInstance) -> None:
    assert _run(gustav, instance).success
    result = _run(gustav, instance)
    checks = {
        (evaluation.asset_key.path[-1], evaluation.check_name): evaluation
        for evaluation in result.get_asset_check_evaluations()
    }
    assert checks["dump", "dump_complete"].passed
    assert checks["orders", "content_matches_snapshot"].passed
    assert ("orders", "pandera_schema") in checks


def test_a_sources_event_names_the_versions_that_it_was_made_of(gustav: TestSite, instance: dg.DagsterInstance) -> None:
    assert _run(gustav, instance).success
    dump = artefact_key("nightly", ("supabase", "dump"))
    tags = {}
    for key in (dump, source_key("nightly", "supabase")):
        (record,) = instance.fetch_materializations(key, limit=1).records
        assert record.asset_materialization is not None
        tags[key] = record.asset_materialization.tags or {}
    made_of = tags[source_key("nightly", "supabase")][f"dagster/input_data_version/{dump.to_user_string()}"]
    assert made_of == tags[dump]["dagster/data_version"]


def test_an_event_of_a_failure_names_what_where_and_the_remedy(gustav: TestSite, instance: dg.DagsterInstance) -> None:
    (gustav.folder / "storage").rename(gustav.folder / "elsewhere")
    result = _run(gustav, instance)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    data = failure.step_failure_data.user_failure_data
    assert data is not None
    assert str(gustav.folder / "storage") in str(data.metadata["what"].value) + str(data.metadata["where"].value)
    assert data.metadata["remedy"].value


def test_a_selection_tells_which_sources_a_run_captures_and_whether_that_is_all(gustav: TestSite) -> None:
    site = gustav.site
    everything = build_definitions(site).resolve_asset_graph().get_all_asset_keys()
    assert selected_sources(site, "nightly", None) == (("supabase", "storage", "keycloak"), False)
    assert selected_sources(site, "nightly", everything) == (("supabase", "storage", "keycloak"), False)
    one_table = [artefact_key("nightly", ("supabase", "public", "orders")), manifest_key("nightly")]
    assert selected_sources(site, "nightly", one_table) == (("supabase",), True)


def test_odd_names_become_keys_that_dagster_takes_and_never_meet() -> None:
    names = ["orders", "or ders", "or-ders", 'or"ders', "or\nders", "\u00e9", "e\u0301", "a/b", "a_b"]
    names += ["x" * 300, "x" * 301]
    parts = [key_part(name) for name in names]
    assert len(set(parts)) == len(names)
    assert all(part.replace("_", "a").isalnum() and part.isascii() and len(part) < 120 for part in parts)


def test_a_plan_whose_manifest_is_overdue_says_so_by_its_freshness_policy(gustav: TestSite) -> None:
    text = (gustav.folder / "backup.yaml").read_text().replace("store: sets,", 'store: sets, schedule: "0 2 * * *",')
    gustav.write(text)
    definitions = build_definitions(gustav.site)
    spec = next(s for s in definitions.resolve_all_asset_specs() if s.key == manifest_key("nightly"))
    policy = spec.freshness_policy
    assert policy is not None
    window = policy.fail_window.to_timedelta()  # type: ignore[attr-defined]
    assert 24 * 3600 < window.total_seconds() < 36 * 3600
    schedule = definitions.resolve_schedule_def("nightly_backup_schedule")
    assert schedule.cron_schedule == "0 2 * * *"
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def test_a_new_table_and_an_altered_one_are_noticed_between_backups_and_told_once(
    gustav: TestSite, instance: dg.DagsterInstance
) -> None:
    assert _run(gustav, instance).success
    sensor = schema_sensor(gustav.site, "nightly")
    quiet = sensor(dg.build_sensor_context(instance=instance))
    assert isinstance(quiet, dg.SkipReason)
    _sql(gustav, "create table brand_new (id int primary key)", "alter table customers add column mail text")
    reported = sensor(dg.build_sensor_context(instance=instance))
    assert isinstance(reported, dg.SensorResult)
    rows = [record.data for event in reported.asset_events for record in event.metadata["changes"].records]
    assert {(row["table"], row["change"]) for row in rows} == {
        ("public.brand_new", "new"),
        ("public.customers", "added mail"),
    }
    assert all(row["what to do"] for row in rows)
    assert isinstance(sensor(dg.build_sensor_context(instance=instance, cursor=reported.cursor)), dg.SkipReason)
