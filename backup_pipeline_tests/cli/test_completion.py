"""Names of sets that the shell completes."""

from __future__ import annotations

from pathlib import Path

import pytest

from backup_pipeline.cli.completion import complete_place, complete_set
from backup_pipeline_tests.support.sites import TestSite

SETTINGS = """
sources: {files: {kind: folder, path: files}}
plans: {nightly: {sources: [files]}, weekly: {sources: [files]}}
vaults: {offsite: {url: "file:///nowhere/at/all", encryption: none}}
"""


def test_sets_and_places_are_completed_and_no_vault_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = TestSite(tmp_path)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "x.txt").write_text("x")
    site.write(SETTINGS)
    assert site.run("backup", "nightly").code == 0
    (set_id,) = site.store("nightly").ids()
    monkeypatch.setenv("BACKUP_PIPELINE_CONFIG", str(tmp_path))
    assert complete_set("nightly/") == ["nightly/latest", f"nightly/{set_id}"]
    assert complete_set("off") == ["offsite:nightly/latest", "offsite:weekly/latest"]
    assert complete_place("") == ["nightly", "weekly", "offsite:", "offsite:nightly", "offsite:weekly"]


def test_nothing_is_completed_where_the_settings_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "backup.yaml").write_text("plans: [")
    monkeypatch.setenv("BACKUP_PIPELINE_CONFIG", str(tmp_path))
    assert complete_set("") == []
    assert complete_place("") == []
