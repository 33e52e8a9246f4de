"""`make demo` on a small scale: a whole site is built, backed up, verified, proven, and removed again."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from backup_pipeline.operations.demo.site import build_demo_site
from backup_pipeline_tests.support.documents.blocks import ROOT
from backup_pipeline_tests.support.sites import TestSite


@pytest.mark.story
@pytest.mark.takes(seconds=150)
def test_the_demo_ends_with_every_plan_proven_and_can_be_removed(tmp_path: Path) -> None:
    planned = subprocess.run(
        ["make", "-n", "demo", f"DEMO={tmp_path}/demo"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = re.search(r"bin/backup-pipeline (demo .+)", planned.stdout)
    assert found
    program = [sys.executable, "-c", "from backup_pipeline.cli.main import main; main()"]

    def run(*words: str) -> str:
        done = subprocess.run([*program, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr if words[0] == "demo" else done.stdout

    reported = run(*shlex.split(found[1]), "--orders", "20")
    assert "What was backed up" in reported
    # The newest set of each plan came back from the vault, and is still where it was recovered to.
    assert len(re.findall(r"/\S+Z equal: \d+ files", reported)) == 4
    assert len(list((tmp_path / "demo" / "recovered" / "backups").glob("*/*Z/manifest.json"))) == 4
    assert (tmp_path / "demo" / "recovered" / "backup.yaml").is_file()
    assert (tmp_path / "demo" / "identity.txt").stat().st_mode & 0o777 == 0o600
    plans = json.loads(run("status", "--json", "--config", f"{tmp_path}/demo"))["plans"]
    assert {plan["plan"] for plan in plans} == {"nightly", "session", "workshop", "history"}
    assert all(plan["last_proven"] for plan in plans)
    assert all(plan["copies"][0]["missing"] == [] for plan in plans)
    assert [plan["plan"] for plan in plans if plan["standing"] == "failing"] == []
    run("demo", "--folder", f"{tmp_path}/demo", "--remove")
    assert not (tmp_path / "demo").exists()


@pytest.mark.story
@pytest.mark.takes(seconds=12)
def test_the_demos_site_can_be_backed_up_and_is_removed_with_its_server(tmp_path: Path) -> None:
    site = TestSite(tmp_path / "demo")
    try:
        build_demo_site(site.folder, lambda _: None, orders=20)
        done = site.run("backup", "session", "--json")
        assert (done.code, json.loads(done.out)["sealed"]) == (0, True), done.text
    finally:
        removed = site.run_alone("demo", "--folder", str(site.folder), "--remove")
    assert removed.code == 0, removed.text
    assert not site.folder.exists()
