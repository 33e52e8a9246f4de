"""A source of many tables is one asset in Dagster, with a line per table and a check per kind of check."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg
import pytest

from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.orchestration.names import artefact_key, source_key
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import parse_target
from backup_pipeline_tests.support.sites import GUSTAV, TestSite

_TABLES = 30
_GROUP = artefact_key("nightly", ("supabase", "tables"))


@pytest.fixture
def many(gustav: TestSite) -> TestSite:
    gustav.write(GUSTAV + "table_assets: 20\n")
    _sql(gustav, *(f"create table many{n} (id int primary key, name text not null)" for n in range(_TABLES)))
    _sql(gustav, *(f"insert into many{n} values (1, 'a'), (2, 'b')" for n in range(_TABLES)))
    return gustav


def _sql(site: TestSite, *statements: str) -> None:
    with connected(parse_target(site.variables["DATABASE_URL"], variable="x"), pinned=False) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def _run(
    site: TestSite, instance: dg.DagsterInstance, *, assets: list[dg.AssetKey] | None = None
) -> dg.ExecuteInProcessResult:
    job = build_definitions(site.site).resolve_job_def("nightly_backup")
    return job.execute_in_process(instance=instance, raise_on_error=False, asset_selection=assets)


def _group_metadata(instance: dg.DagsterInstance) -> dict[str, dg.MetadataValue]:
    event = instance.get_latest_materialization_event(_GROUP)
    assert event is not None
    assert event.asset_materialization is not None
    return dict(event.asset_materialization.metadata)


def _lines(metadata: dict[str, dg.MetadataValue]) -> list[dict[str, object]]:
    value = metadata["tables"]
    assert isinstance(value, dg.TableMetadataValue)
    return [dict(record.data) for record in value.records]


def _single_tables(keys: Iterable[dg.AssetKey]) -> list[dg.AssetKey]:
    return [key for key in keys if len(key.path) == 4 and key.path[1] == "supabase"]


def _tables_in_the_set(site: TestSite) -> int:
    """Return how many tables of the source have a record in the last sealed set."""
    store = site.store("nightly")
    manifest = store.read(store.sealed_ids()[-1]).manifest
    assert manifest is not None
    return sum(len(record.key) == 3 and record.source == "supabase" for record in manifest.artefacts)


def test_many_tables_are_one_asset_and_the_set_has_a_record_for_each(
    many: TestSite, instance: dg.DagsterInstance
) -> None:
    assert _run(many, instance).success
    keys = build_definitions(many.site).resolve_asset_graph().get_all_asset_keys()
    assert _GROUP in keys
    assert _single_tables(keys) == []
    result = _run(many, instance)
    assert result.success
    metadata = _group_metadata(instance)
    lines = _lines(metadata)
    assert len(lines) == metadata["tables_captured"].value == _tables_in_the_set(many) >= _TABLES
    assert {line["rows"] for line in lines if "many" in str(line["table"])} == {2}
    checks = {e.check_name: e for e in result.get_asset_check_evaluations() if e.asset_key == _GROUP}
    assert {"content_matches_snapshot", "pandera_schema"} <= set(checks)
    assert all(check.passed and check.metadata["tables"].value == len(lines) for check in checks.values())


def test_many_tables_that_the_definitions_do_not_know_are_one_event(
    many: TestSite, instance: dg.DagsterInstance
) -> None:
    assert _run(many, instance).success
    assert _group_metadata(instance)["tables_captured"].value == _tables_in_the_set(many)
    assert _single_tables(instance.all_asset_keys()) == []


def test_a_failed_check_of_one_of_many_tables_names_table_and_column_and_no_value(
    many: TestSite, instance: dg.DagsterInstance
) -> None:
    assert _run(many, instance).success
    _sql(many, "alter table many7 add column secret_note text", "update many7 set secret_note = 'hush-hush'")
    result = _run(many, instance)
    assert result.success
    failed = [e for e in result.get_asset_check_evaluations() if e.asset_key == _GROUP and not e.passed]
    assert [check.metadata["failed"].value for check in failed] == [1]
    (line,) = [dict(r.data) for r in failed[0].metadata["table"].value.records]  # type: ignore[union-attr]
    assert "many7" in str(line["table"])
    assert line["column"] == "secret_note"
    assert "hush-hush" not in str(failed[0])
    assert "many7" in str(_lines(_group_metadata(instance))[0]["table"])


def test_the_one_asset_can_be_selected_alone_and_captures_no_dump(many: TestSite, instance: dg.DagsterInstance) -> None:
    assert _run(many, instance).success
    result = _run(many, instance, assets=[_GROUP])
    assert result.success
    assert {event.asset_key for event in result.get_asset_materialization_events()} == {_GROUP}
    assert len(_lines(_group_metadata(instance))) == _tables_in_the_set(many)


def test_new_and_dropped_ones_of_many_tables_are_reported(many: TestSite, instance: dg.DagsterInstance) -> None:
    assert _run(many, instance).success
    job = build_definitions(many.site).resolve_job_def("nightly_backup")
    _sql(many, "drop table many3", "create table late (id int primary key)")
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert result.success
    whole = dg.AssetCheckKey(source_key("nightly", "supabase"), "tables_all_known")
    (known,) = [e for e in result.get_asset_check_evaluations() if e.asset_check_key == whole]
    assert (known.metadata["new"].value, known.metadata["gone"].value) == (1, 1)
    assert _group_metadata(instance)["no_longer_there"].value == "public.many3"
