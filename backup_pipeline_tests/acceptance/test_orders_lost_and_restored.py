"""The demo's order archive exported, verified, lost and restored equal: from the shell, and asked of a real UI."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.operations.demo.files import write_workshop
from backup_pipeline_tests.acceptance.conftest import ORDERS, Served
from backup_pipeline_tests.support.running_ui import Ui
from backup_pipeline_tests.support.sites import TestSite

SETTINGS = """
store: backups
sources:
  werkstatt: {kind: orders, database: werkstatt.db, archive: Archiv, first_year: 2019}
plans:
  workshop: {sources: [werkstatt], schedule: "0 2 * * *"}
"""
YEARS = [str(year) for year in range(2019, 2027)]
BACKFILL = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
BACKFILL_STATUS = """
query ($id: String!) {
  partitionBackfillOrError(backfillId: $id) { __typename ... on PartitionBackfill { status error { message } } }
}
"""
RUNS = """
query ($id: String!) {
  runsOrError(filter: {tags: [{key: "dagster/backfill", value: $id}]}) { ... on Runs { results { runId status } } }
}
"""
LAUNCH = """
mutation ($job: String!, $config: RunConfigData!, $tags: [ExecutionTag!]) {
  launchRun(executionParams: {
    selector: {repositoryLocationName: "backup-pipeline", repositoryName: "__repository__", jobName: $job},
    runConfigData: $config, executionMetadata: {tags: $tags}
  }) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on PythonError { message }
  }
}
"""


@pytest.fixture
def workshop(tmp_path: Path) -> TestSite:
    """The demo's workshop with fewer orders, in a site of its own."""
    site = TestSite(tmp_path)
    site.write(SETTINGS)
    write_workshop(tmp_path / "werkstatt.db", tmp_path / "Archiv", ORDERS)
    return site


def table(site: TestSite) -> list[tuple[Any, ...]]:
    """Every value of `auftraege`, with its type."""
    with closing(sqlite3.connect(site.folder / "werkstatt.db")) as connection:
        names = [row[1] for row in connection.execute("pragma table_info(auftraege)")]
        columns = ", ".join(f"{name}, typeof({name})" for name in names)
        return connection.execute(f"select {columns} from auftraege order by record_id").fetchall()


def execute(site: TestSite, statement: str) -> None:
    with closing(sqlite3.connect(site.folder / "werkstatt.db")) as connection, connection:
        connection.execute(statement)


def pdfs(site: TestSite) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (site.folder / "Archiv").rglob("*.pdf")}


def test_the_shell_brings_the_lost_archive_back_equal_and_undoes_a_restore(workshop: TestSite) -> None:
    before, files = table(workshop), pdfs(workshop)
    assert len(before) == len(files) == ORDERS
    done = workshop.run("orders", "export")
    assert (done.code, f"{ORDERS} exported, 0 failed" in done.out) == (0, True), done.text
    assert workshop.run("orders", "verify").code == 0

    execute(workshop, "update auftraege set kunde_name = 'falsch' where record_id % 2")
    execute(workshop, "delete from auftraege where record_id > 60")
    spoilt = table(workshop)
    assert workshop.run("orders", "restore", "--dry-run").code == 0
    assert table(workshop) == spoilt
    assert workshop.run("orders", "restore").code == 0
    assert table(workshop) == before
    assert workshop.run("orders", "undo").code == 0
    assert table(workshop) == spoilt

    (workshop.folder / "werkstatt.db").unlink()
    assert workshop.run("orders", "verify", "--without-database").code == 0
    assert workshop.run("orders", "restore").code == 0
    assert table(workshop) == before

    # The database is lost, and half of the folders with it.
    (workshop.folder / "werkstatt.db").unlink()
    folders = sorted({path.parent for path in files})
    for folder in folders[::2]:
        shutil.rmtree(folder)
    assert workshop.run("orders", "verify", "--without-database").code == 6
    refused = workshop.run("orders", "restore")
    assert (refused.code, (workshop.folder / "werkstatt.db").exists()) == (6, False)
    assert f"{ORDERS // 2} missing" in refused.err
    assert workshop.run("orders", "restore", "--skip-invalid").code == 0
    left = {folder.name for folder in folders[1::2]}
    assert table(workshop) == [row for row in before if row[2] in left]
    assert len(left) == ORDERS // 2
    assert pdfs(workshop) == {path: data for path, data in files.items() if path.parent.name in left}


def backfill(ui: Ui, asset: str, years: list[str]) -> list[str]:
    """Backfill an asset over years; return how its runs ended."""
    params = {"assetSelection": [{"path": ["workshop", "werkstatt", asset]}], "partitionNames": years}
    answer = ui.ask(BACKFILL, params=params)["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    for _ in range(1000):
        found = ui.ask(BACKFILL_STATUS, id=answer["backfillId"])["partitionBackfillOrError"]
        assert not found.get("error"), found
        if found["status"].startswith("COMPLETED"):
            runs = ui.ask(RUNS, id=answer["backfillId"])["runsOrError"]["results"]
            return [run["status"] for run in runs]
        time.sleep(0.3)
    raise AssertionError("the backfill did not end")


def launch(ui: Ui, what: str, config: dict[str, Any] | None = None, tags: dict[str, str] | None = None) -> str:
    """Launch a job of the archive as its Launchpad does; return how the run ended, or why there was none."""
    pairs = [{"key": key, "value": value} for key, value in (tags or {}).items()]
    answer = ui.ask(LAUNCH, job=f"workshop_werkstatt_orders_{what}", config=config or {}, tags=pairs)["launchRun"]
    if answer["__typename"] != "LaunchRunSuccess":
        return str(answer["__typename"])
    return ui.wait_for_run(answer["run"]["runId"])


@pytest.mark.story
@pytest.mark.takes(seconds=40, together="ui")
def test_from_the_ui_the_lost_archive_comes_back_equal(served: Served) -> None:
    workshop, ui = served.site, served.ui
    before, files = table(workshop), pdfs(workshop)
    database = workshop.folder / "werkstatt.db"
    # A backfill over all years is one run.
    assert backfill(ui, "order_folders", YEARS) == ["SUCCESS"]
    assert len(list((workshop.folder / "Archiv").glob("*/*/meta.json"))) == ORDERS
    tags = {f"dagster/asset_partition_range_{end}": year for end, year in (("start", "2019"), ("end", "2026"))}
    assert launch(ui, "verification", tags=tags) == "SUCCESS"
    database.unlink()
    assert launch(ui, "restore") == "RunConfigValidationInvalid"
    config = {"ops": {"workshop__werkstatt__restored_orders": {"config": {"confirm": "werkstatt"}}}}
    assert launch(ui, "restore", config) == "SUCCESS"
    assert table(workshop) == before
    assert pdfs(workshop) == files
    # The shell finds the archive as the UI left it.
    assert workshop.run("orders", "verify").code == 0
