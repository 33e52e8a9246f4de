"""Captures that begin together on Celery workers are of different servers."""

from __future__ import annotations

from pathlib import Path

from dagster_celery.tags import DAGSTER_CELERY_STEP_PRIORITY_TAG

from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.orchestration.launcher import EXECUTOR_VARIABLE
from backup_pipeline.orchestration.step_turns import PRIORITY_TAG
from backup_pipeline.settings.loader import load_site

SETTINGS = """
store: backups
sources:
  a1: {kind: postgres, dsn_env: A1_URL}
  a2: {kind: postgres, dsn_env: A2_URL}
  a3: {kind: postgres, dsn_env: A3_URL}
  b1: {kind: postgres, dsn_env: B1_URL}
  b2: {kind: postgres, dsn_env: B2_URL}
  unset: {kind: postgres, dsn_env: UNSET_URL}
  files: {kind: folder, path: files}
plans:
  all: {sources: [a1, a2, a3, b1, b2, unset, files]}
"""
URLS = {f"{name}_URL": f"postgresql://u:p@{name[0].lower()}.internal/{name}" for name in ("A1", "A2", "A3", "B1", "B2")}


def turns(folder: Path, executor: str) -> list[str]:
    """Return the steps of captures as dagster-celery's loop sends them."""
    (folder / "backup.yaml").write_text(SETTINGS)
    site = load_site(folder, environment={**URLS, EXECUTOR_VARIABLE: executor})
    job = build_definitions(site).get_repository_def().get_job("all_backup")
    tags = {node.name: node.tags.get(PRIORITY_TAG) for node in job.nodes}
    captures = sorted(name for name in tags if tags[name])
    assert all(10 <= int(tags[name] or 0) <= 255 for name in captures)
    return [name.removeprefix("all__") for name in sorted(captures, key=lambda name: -int(tags[name] or 0))]


def test_steps_of_one_server_are_sent_with_those_of_others_between_them(tmp_path: Path) -> None:
    assert PRIORITY_TAG == DAGSTER_CELERY_STEP_PRIORITY_TAG
    assert turns(tmp_path, "celery") == ["a1", "b1", "unset", "files", "a2", "b2", "a3"]


def test_without_celery_no_step_has_its_tag(tmp_path: Path) -> None:
    assert turns(tmp_path, "") == []
