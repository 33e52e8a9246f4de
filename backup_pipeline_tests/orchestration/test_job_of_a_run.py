"""A run builds the definitions of its own plan, not those of the whole site, and its job is the same."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType, FunctionType

import pytest

from backup_pipeline.orchestration.build import backup_definitions, build_definitions, build_job, plan_definitions
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.site import Site

SETTINGS = """\
store: ./backups
sources:
  files: {kind: folder, path: files}
  more: {kind: folder, path: more}
plans:
  a: {sources: [files, more], schedule: "0 2 * * *"}
  a_b: {sources: [files], verify: "0 4 * * 0"}
  other: {sources: [more]}
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "backup.yaml").write_text(SETTINGS)
    return load_site(tmp_path, environment={})


def test_every_job_is_the_one_of_the_whole_site(site: Site) -> None:
    whole = build_definitions(site).resolve_all_job_defs()
    jobs = {job.name: job for job in whole if not job.name.startswith("__")}
    assert {"a_backup", "a_b_backup", "other_drill"} < set(jobs)
    for name, job in jobs.items():
        alone = build_job(site, name)
        assert alone.name == name
        assert sorted(node.name for node in alone.nodes) == sorted(node.name for node in job.nodes)
        assert alone.asset_layer.executable_asset_keys == job.asset_layer.executable_asset_keys
        assert alone.tags == job.tags
        assert set(alone.resource_defs) == set(job.resource_defs)
        assert alone.get_job_snapshot_id() == job.get_job_snapshot_id()


def plans_built_for(site: Site, job: str, by: FunctionType = plan_definitions) -> list[str]:
    built = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is by.__code__:
            built.append(frame.f_locals["plan"])

    sys.setprofile(note)
    try:
        build_job(site, job)
    finally:
        sys.setprofile(None)
    return built


def test_a_run_of_a_plan_builds_nothing_of_the_others(site: Site) -> None:
    assert plans_built_for(site, "other_drill") == ["other"]
    assert plans_built_for(site, "a_b_drill") == ["a", "a_b"]


def test_a_backup_builds_nothing_of_drills_copies_and_restores(site: Site) -> None:
    assert plans_built_for(site, "a_b_backup", backup_definitions) == ["a_b"]
    assert plans_built_for(site, "a_b_backup") == []
