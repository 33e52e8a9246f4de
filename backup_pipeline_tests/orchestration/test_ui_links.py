"""Links within the UI: they stay below its path, and hold what a person typed as text."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import yaml

from backup_pipeline.model.restore import RestoreOptions, RestorePlan
from backup_pipeline.model.set_id import SetId
from backup_pipeline.orchestration.ui_links import apply_link, page_link, run_page
from backup_pipeline.settings.loader import load_site
from backup_pipeline_tests.support.invented_sets import SITE

SET = SetId("2026-11-21T020000Z")


def test_links_stay_below_the_path_of_the_ui_and_quote_what_they_carry(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "backup.yaml").write_text(SITE + "alerts: {ui_url_env: UI_URL}\n", "utf-8")
    site = load_site(tmp_path, environment={"UI_URL": "https://ui.example.org/backup/"})
    assert page_link(site, "nightly", "a/b") == "/backup/backups/nightly/a%2Fb"
    assert run_page(site, "7") == "/backup/runs/7"
    options = RestoreOptions(files=("a) & b/ü.txt",))
    plan = RestorePlan(
        plan_id="f" * 16,
        set_id=SET,
        plan="nightly",
        source="files",
        options=options,
        target="here",
        confirm="files",
        exists=True,
    )
    link = apply_link(site, plan, f"{SET}-partial", "offsite")
    assert link.startswith("/backup/locations/__repository__@backup-pipeline/jobs/nightly_restore/playground/setup?")
    assert not set(link) & set("() ")
    values = parse_qs(urlsplit(link).query)
    assert values["tags[0][value]"] == [f"{SET}-partial"]
    config = yaml.safe_load(values["config"][0])["ops"]["nightly__restore_files"]["config"]
    assert config == {
        "step": "apply",
        "plan_id": "f" * 16,
        "confirm": "",
        "vault": "offsite",
        "files": ["a) & b/ü.txt"],
    }
