"""Buttons of the front page on a real UI: they start the run that the launchpad would, once, and say who asked."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import requests
from starlette.testclient import TestClient

from backup_pipeline.web.front.context import Front
from backup_pipeline_tests.support.copies_site import CopiesSite
from backup_pipeline_tests.support.dagster_runs import loaded
from backup_pipeline_tests.support.front_pages import OWN, guarded_pages, pages_of
from backup_pipeline_tests.support.running_ui import Ui
from backup_pipeline_tests.support.sites import TestSite
from backup_pipeline_tests.web.front.conftest import Walked

SITE = """
store: backups
sources:
  files: {kind: folder, path: files}
plans:
  nightly: {sources: [files], retention: {keep_last: 5}}
"""
RUN = """query ($id: ID!) { runOrError(runId: $id) { ... on Run {
  jobName runConfigYaml tags { key value } assetSelection { path } repositoryOrigin { repositoryLocationName } } } }"""
LAUNCH = """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
  ... on LaunchRunSuccess { run { runId } } } }"""


def press(ui: Ui, **fields: str) -> requests.Response:
    return requests.post(
        f"{ui.address}/backups/start", data=fields, headers={"Origin": ui.address}, allow_redirects=False, timeout=60
    )


def started(answer: requests.Response) -> str:
    assert answer.status_code == 303, answer.text
    return answer.headers["location"].partition("?started=")[2]


def run(ui: Ui, run_id: str) -> dict[str, object]:
    found = dict(ui.ask(RUN, id=run_id)["runOrError"])
    tags = {each["key"]: each["value"] for each in found.pop("tags")}
    return {**found, "tags": {key: value for key, value in tags.items() if not key.startswith((".", "dagster/"))}}


@pytest.mark.takes(seconds=25, together="restore in a browser")
def test_buttons_start_the_runs_of_the_launchpad_and_the_pages_follow_them(walked: Walked) -> None:
    site, ui = walked.site, walked.ui
    shutil.rmtree(site.site.store_folder("started"), ignore_errors=True)
    page = requests.get(f"{ui.address}/backups", timeout=60).text
    assert "No. Something is wrong with started." in page
    assert "Back up started now" in page
    backup = started(press(ui, plan="started", work="backup"))
    # Pressed twice, in two windows: either the first has ended by then, or the second is refused.
    assert press(ui, plan="started", work="backup").status_code in (303, 409)
    assert ui.wait_for_run(backup) == "SUCCESS"
    (set_id, *_) = site.store("started").sealed_ids()
    drill = started(press(ui, plan="started", work="drill", set=set_id))
    assert ui.wait_for_run(drill) == "SUCCESS"
    assert "Yes" in requests.get(f"{ui.address}/backups", timeout=60).text
    shown = requests.get(f"{ui.address}/backups/started/{set_id}", timeout=60).text
    assert "front page from 127.0.0.1" in shown
    assert f"/runs/{drill}" in shown
    ours = run(ui, backup)
    selector = {
        "repositoryLocationName": "backup-pipeline",
        "repositoryName": "__repository__",
        "jobName": "started_backup",
    }
    params = {"selector": selector, "mode": "default", "runConfigData": {}}
    theirs = run(ui, ui.ask(LAUNCH, params=params)["launchRun"]["run"]["runId"])
    assert ours["tags"].pop("backup_pipeline/started_by") == "front page from 127.0.0.1"  # type: ignore[attr-defined]
    assert theirs["tags"].pop("backup_pipeline/started_by") == "ui"  # type: ignore[attr-defined]
    # Written when the set is begun.
    assert ours["tags"].pop("backup_pipeline/set") == f"started/{set_id}"  # type: ignore[attr-defined]
    theirs["tags"].pop("backup_pipeline/set", "")  # type: ignore[attr-defined]
    assert ours == theirs


@pytest.mark.parametrize(("work", "job"), [("drill", "drill_from"), ("verification", "verification_from")])
def test_buttons_of_a_copy_start_the_jobs_that_read_it_from_its_vault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str, job: str
) -> None:
    site = CopiesSite(tmp_path).begin()
    site.variables["VAULT_IDENTITY_FILE"] = str(site.identity)
    site.write_env()
    assert site.run("backup", "nightly").code == 0
    [set_id] = site.store("nightly").sealed_ids()
    shutil.rmtree(site.site.store_folder("nightly") / set_id)
    with loaded(site.folder, (site.folder / "backup.yaml").read_text(), monkeypatch) as (instance, workspace):
        front = Front(settings=site.folder / "backup.yaml", workspace=workspace)
        pages = TestClient(guarded_pages(front), base_url="http://127.0.0.1:3000", follow_redirects=False)
        page = pages.get(f"/backups/offsite:nightly/{set_id}").text
        [form] = [form for form in page.split("<form")[1:] if f'value="{work}"' in form.partition("</form>")[0]]
        fields = dict(re.findall(r'name="(\w+)" value="([^"]+)"', form.partition("</form>")[0]))
        assert pages.post("/backups/start", data=fields, headers=OWN).status_code == 303
        [run] = instance.get_runs()
        assert (run.job_name, run.tags["dagster/partition"]) == (f"nightly_{job}_offsite", set_id)
        assert pages.post("/backups/start", data=fields, headers=OWN).status_code == 409
        for wrong in ({"work": "backup"}, {"plan": "nowhere:nightly"}, {"plan": "offsite:weekly"}):
            assert pages.post("/backups/start", data={**fields, **wrong}, headers=OWN).status_code == 400
        gone = {**fields, "set": "2020-01-01T000000Z", "work": "drill" if work != "drill" else "verification"}
        assert pages.post("/backups/start", data=gone, headers=OWN).status_code == 404
        assert len(instance.get_runs()) == 1


def test_what_no_button_names_starts_nothing(tmp_path: Path) -> None:
    site = TestSite(tmp_path)
    site.write(SITE)
    pages = pages_of(tmp_path)
    for fields in (
        {"plan": ""},
        {"plan": "nightly"},
        {"plan": "other", "work": "backup"},
        {"plan": "nightly", "work": "undo"},
    ):
        assert pages.post("/backups/start", data=fields, headers=OWN).status_code == 400
    assert pages.post("/backups/start", data={"plan": "nightly", "work": "backup"}, headers=OWN).status_code == 503
    assert pages.get("/backups/start").status_code in (404, 405)
