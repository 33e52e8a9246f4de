"""Dagster instances of a test's own, and a site's definitions loaded as Dagster's daemon loads them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget, ModuleTarget, WorkspaceLoadTarget

from backup_pipeline.orchestration.home import ensure_home


@contextlib.contextmanager
def instance_in(folder: Path) -> Iterator[dg.DagsterInstance]:
    """Give a Dagster instance whose home, with our dagster.yaml, is made as `home` in a folder."""
    home = folder / "home"
    home.mkdir()
    with mock.patch.dict(os.environ, {"DAGSTER_HOME": str(home)}):
        ensure_home(home)
        with dg.DagsterInstance.get() as made:
            yield made


@contextlib.contextmanager
def loaded(
    folder: Path, settings: str, monkeypatch: pytest.MonkeyPatch, *, code_server: bool = False
) -> Iterator[tuple[dg.DagsterInstance, WorkspaceProcessContext]]:
    """Write a site with these settings into a folder; give its Dagster instance and its loaded workspace.

    Definitions in this process stay as they were first loaded; with a code server they can be loaded anew.
    """
    for name in list(os.environ):
        if name.startswith(("DAGSTER_", "BACKUP_PIPELINE_")):
            monkeypatch.delenv(name)
    (folder / "backup.yaml").write_text(settings)
    monkeypatch.setenv("BACKUP_PIPELINE_CONFIG", str(folder / "backup.yaml"))
    monkeypatch.setenv("DAGSTER_HOME", str(folder / "home"))
    ensure_home(folder)
    target: WorkspaceLoadTarget = ModuleTarget("backup_pipeline.definitions", None, None, "backup-pipeline")
    origin = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(module_name="backup_pipeline.definitions"), location_name="backup-pipeline"
    )
    if not code_server:
        target = InProcessWorkspaceLoadTarget([origin])
    with dg.DagsterInstance.get() as instance, WorkspaceProcessContext(instance, target) as workspace:
        yield instance, workspace
