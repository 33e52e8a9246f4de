"""Fleets on the front page: one line for a fleet, a page with one for each member, and each member's own page."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.model.fleet_run import FleetRecord, MemberOutcome
from backup_pipeline.operations.fleets.member import back_up_member
from backup_pipeline.operations.sites.fleet_record import keep_record
from backup_pipeline.settings.loader import load_site
from backup_pipeline_tests.support.front_pages import pages_of

FOLDERS = """
store: backups
fleets:
  tenants:
    sources_from: {file: tenants.json}
    source: {kind: folder, path: "data/{name}"}
    schedule: "0 22 * * *"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data" / "one").mkdir(parents=True)
    (tmp_path / "data" / "one" / "file").write_text("one")
    (tmp_path / "tenants.json").write_text(json.dumps(["one", "two", {"name": ""}]))
    (tmp_path / "backup.yaml").write_text(FOLDERS)
    site = load_site(tmp_path)
    assert back_up_member(site, "tenants_one", "").state == "sealed"
    failed = MemberOutcome(plan="tenants_two", state="failed", at=utc_now(), what="<b>gone</b>")
    keep_record(site, "tenants", FleetRecord(began=utc_now(), ended=utc_now(), outcomes={"tenants_two": failed}))
    return tmp_path


def test_home_says_how_a_fleet_is_and_what_is_wrong_with_its_list(folder: Path) -> None:
    client = pages_of(folder)
    text = client.get("/backups").text
    assert "No. Something is wrong with tenants." in text
    assert "2 members: 1 good, 1 failed" in text
    assert "tenants.json, row 3, field name" in text
    assert "No copy leaves this machine" in text


def test_a_member_whose_copy_was_not_made_needs_attention(folder: Path) -> None:
    site = load_site(folder)
    outcome = MemberOutcome(plan="tenants_one", state="sealed", at=utc_now(), what="no copy in offsite: full")
    keep_record(site, "tenants", FleetRecord(began=utc_now(), outcomes={"tenants_one": outcome}))
    text = pages_of(folder).get("/backups").text
    assert "1 of 2 members: sealed, and not all is done (tenants_one: no copy in offsite: full)" in text


def test_a_fleets_page_has_a_line_for_each_member_the_worst_first(folder: Path) -> None:
    text = pages_of(folder).get("/backups/tenants").text
    assert text.index("tenants_two</a>") < text.index("tenants_one</a>")
    assert "&lt;b&gt;gone&lt;/b&gt;" in text


def test_a_member_has_its_own_page_and_is_restored_from_it(folder: Path) -> None:
    client = pages_of(folder)
    text = client.get("/backups/tenants_one").text
    assert "A member of fleet <" not in text
    assert "A member of fleet tenants." in text
    assert 'name="work"' not in text
    newest = load_site(folder).store_folder("tenants_one")
    (set_id,) = [path.name for path in newest.iterdir() if path.name[:1].isdigit()]
    assert datetime.fromisoformat(set_id).year > 2000
    assert f"/backups/restore/tenants_one/{set_id}" in text


def test_metrics_count_the_members_of_a_fleet_by_state(folder: Path) -> None:
    text = pages_of(folder).get("/metrics").text
    assert 'backup_pipeline_fleet_members{fleet="tenants",state="failed"} 1' in text
    assert 'backup_pipeline_fleet_standing{fleet="tenants"} 2' in text
