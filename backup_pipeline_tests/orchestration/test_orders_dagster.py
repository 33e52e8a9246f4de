"""The order archive's assets, jobs, schedules and sensor, run by Dagster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from backup_pipeline.orchestration.orders import changed_years, orders_definitions
from backup_pipeline.orchestration.orders_years import years_of
from backup_pipeline.settings.loader import load_site
from backup_pipeline_tests.support.orders_samples import Workshop, order

RANGE = "dagster/asset_partition_range"
YAML = """
store: ./backups
sources:
  werkstatt: {kind: orders, database: werkstatt.db, archive: Archiv, first_year: 2020, export_schedule: "0 12 * * *"}
plans:
  workshop: {sources: [werkstatt], schedule: "0 2 * * *"}
"""


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    (tmp_path / "backup.yaml").write_text(YAML)
    return Workshop(tmp_path, [order(i) for i in range(1, 31)])


@pytest.fixture
def defs(workshop: Workshop) -> dg.Definitions:
    return orders_definitions(load_site(workshop.folder), "workshop", "werkstatt")


def run(defs: dg.Definitions, job: str, instance: dg.DagsterInstance, **options: Any) -> dg.ExecuteInProcessResult:
    found = defs.resolve_job_def(f"workshop_werkstatt_orders_{job}")
    return found.execute_in_process(instance=instance, raise_on_error=False, **options)


def test_a_backfill_over_years_exports_them_in_one_run(workshop: Workshop, defs: dg.Definitions) -> None:
    tags = {f"{RANGE}_start": "2021", f"{RANGE}_end": "2023"}
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(defs, "export", instance, tags=tags)
        assert result.success
        materialised = result.asset_materializations_for_node("workshop__werkstatt__order_folders")
        assert sorted(str(event.partition) for event in materialised) == ["2021", "2022", "2023"]
        own = {event.partition: event.metadata["exported of this year"].value for event in materialised}
        assert own == {"2021": 5, "2022": 5, "2023": 5}
        assert {event.metadata["exported"].value for event in materialised} == {15}
    assert sorted(p.name for p in workshop.archive.iterdir() if p.is_dir()) == ["2021", "2022", "2023"]


def test_the_schedules_run_takes_every_order_older_and_undated_ones_too(
    workshop: Workshop, defs: dg.Definitions
) -> None:
    schedule = defs.resolve_schedule_def("workshop_werkstatt_orders_export_schedule")
    workshop.insert(order(40, datum=None, created_at=None, file_path="ohne/000040/a.pdf"))
    with dg.DagsterInstance.ephemeral() as instance:
        with dg.build_schedule_context(instance=instance) as context:
            [request] = schedule.evaluate_tick(context).run_requests or []
        assert run(defs, "export", instance, tags=request.tags).success
        assert run(defs, "verification", instance, tags=request.tags).success
    assert workshop.verify(database=True).ok
    assert workshop.verify().folders == 31


def test_a_bad_order_fails_the_run_with_the_count(workshop: Workshop, defs: dg.Definitions) -> None:
    workshop.insert(order(41, file_path="../x/y/z.pdf"))
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(defs, "export", instance, partition_key="2020")
        assert result.success
        result = run(defs, "export", instance, partition_key="2024")
    assert not result.success
    [failure] = [e for e in result.all_events if e.is_step_failure]
    assert "1 failed" in str(failure.step_failure_data.user_failure_data.description)  # type: ignore[union-attr]


def test_a_damaged_folder_fails_its_check_and_the_run(workshop: Workshop, defs: dg.Definitions) -> None:
    workshop.export()
    (workshop.archive / "2022" / "000003" / "data.csv").write_text("x")
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(defs, "verification", instance, partition_key="2022")
        assert not result.success
        checks = {e.check_name: e.passed for e in result.get_asset_check_evaluations()}
        assert checks["pairs_whole"] is False
        assert checks["auftraege_schema"] is True
        reported = {e.check_name: e.description for e in result.get_asset_check_evaluations()}
        assert reported["pairs_whole"] == "2022: 1 findings in 5 folders"
        assert checks["year_2022"] is False
        again = run(defs, "verification", instance, partition_key="2023")
        assert again.success
        assert [e.check_name for e in again.get_asset_check_evaluations() if "year" in e.check_name] == ["year_2023"]


def test_a_verification_of_all_years_judges_each_by_itself(workshop: Workshop, defs: dg.Definitions) -> None:
    workshop.export()
    (workshop.archive / "2022" / "000003" / "meta.json").unlink()
    with dg.DagsterInstance.ephemeral() as instance:
        schedule = defs.resolve_schedule_def("workshop_werkstatt_orders_verification_schedule")
        with dg.build_schedule_context(instance=instance) as context:
            [request] = schedule.evaluate_tick(context).run_requests or []
        result = run(defs, "verification", instance, tags=request.tags)
    assert not result.success
    years = {e.check_name: e.passed for e in result.get_asset_check_evaluations() if e.check_name.startswith("year_")}
    assert len(years) > 3
    assert [name for name, passed in years.items() if not passed] == ["year_2022"]


def test_the_restore_needs_the_sources_name_and_brings_the_table_back(workshop: Workshop, defs: dg.Definitions) -> None:
    workshop.export()
    rows = workshop.rows()
    workshop.database.unlink()

    def config(**fields: Any) -> dict[str, Any]:
        return {"ops": {"workshop__werkstatt__restored_orders": {"config": fields}}}

    with dg.DagsterInstance.ephemeral() as instance:
        assert not run(defs, "restore", instance, run_config=config(confirm="ja")).success
        assert not workshop.database.exists()
        result = run(defs, "restore", instance, run_config=config(confirm="werkstatt"))
        assert result.success
    assert workshop.rows() == rows


def test_a_restore_is_taken_back_by_the_undo_job(workshop: Workshop, defs: dg.Definitions) -> None:
    workshop.export()
    rows = workshop.rows()
    workshop.execute(("UPDATE auftraege SET kunde_name = 'falsch'", ()))
    spoilt = workshop.rows()
    workshop.restore()
    assert workshop.rows() == rows

    def config(confirm: str) -> dict[str, Any]:
        return {"ops": {"workshop_werkstatt_orders_undo_op": {"config": {"confirm": confirm}}}}

    with dg.DagsterInstance.ephemeral() as instance:
        assert not run(defs, "undo", instance, run_config=config("ja")).success
        assert workshop.rows() == rows
        assert run(defs, "undo", instance, run_config=config("werkstatt")).success
        assert workshop.rows() == spoilt
        assert not run(defs, "undo", instance, run_config=config("werkstatt")).success


def test_the_sensor_asks_for_the_years_that_changed_and_rests_otherwise(
    workshop: Workshop, defs: dg.Definitions
) -> None:
    sensor = defs.resolve_sensor_def("workshop_werkstatt_orders_changed")
    cursor = None

    def tick() -> list[tuple[str, str]]:
        nonlocal cursor
        with (
            dg.DagsterInstance.ephemeral() as instance,
            dg.build_sensor_context(instance, cursor=cursor, repository_def=defs.get_repository_def()) as context,
        ):
            data = sensor.evaluate_tick(context)
            cursor = data.cursor or cursor
            requests = data.run_requests or []
            return [(r.tags[f"{RANGE}_start"], r.tags[f"{RANGE}_end"]) for r in requests]

    assert tick() == [("2020", "2024")]
    assert tick() == []
    workshop.execute(("UPDATE auftraege SET updated_at = '2026-01-01T00:00:00' WHERE record_id = 3", ()))
    workshop.execute(("DELETE FROM auftraege WHERE record_id = 4", ()))
    assert tick() == [("2022", "2023")]
    workshop.execute(("CREATE TABLE other (x)", ()))
    assert tick() == []


def test_years_outside_the_partitions_belong_to_the_first_and_the_last() -> None:
    every = ["2020", "2021", "2022"]
    assert years_of(every, every) is None
    assert years_of(["2021"], every) == frozenset({"2021"})
    assert {"unknown", "2019", "2020"} <= (years_of(["2020"], every) or set())
    assert "2023" in (years_of(["2022"], every) or set())
    assert changed_years({}, {"": (1, ""), "2025": (1, "")}, every) == ["2020", "2022"]
