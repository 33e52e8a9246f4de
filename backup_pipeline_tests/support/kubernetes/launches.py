"""A site whose runs are Jobs of a cluster of the test's own, with the configuration of deploy/kubernetes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline_tests.support.dagster_runs import loaded
from backup_pipeline_tests.support.kubernetes.api_server import NAMESPACE, Cluster, cluster_in
from backup_pipeline_tests.support.kubernetes.manifests import FOLDER, IMAGE, launcher_config, variables
from backup_pipeline_tests.support.launched_runs import LaunchedRuns


def site_objects(settings: str, history: str = "") -> dict[tuple[str, str], dict[str, str]]:
    """The ConfigMaps and Secrets of a site, as deploy/kubernetes/site makes them of its files.

    Without an address of its history's PostgreSQL it is kept in SQLite, below the same home as the test's.
    """
    pipeline = variables(FOLDER / "base" / "pipeline.env")
    if not history:
        del pipeline["DAGSTER_POSTGRES_URL_FILE"]
    return {
        ("ConfigMap", "pipeline"): pipeline,
        ("ConfigMap", "environment"): {},
        ("ConfigMap", "site"): {"backup.yaml": settings},
        ("Secret", "history"): {"dagster_postgres_url": history},
        ("Secret", "sources"): {},
    }


def without_a_disk(configuration: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a site with the component `no-disk`: each pod has folders of its own."""
    changed: dict[str, Any] = json.loads(json.dumps(configuration))
    for volume in changed["run_k8s_config"]["pod_spec_config"]["volumes"]:
        if volume.pop("persistentVolumeClaim", None):
            volume["emptyDir"] = {}
    return changed


def configuration_for(cluster: Cluster, account: str, **more: Any) -> str:
    """The site's run-launcher.json for a process outside of the cluster."""
    outside = {"load_incluster_config": False, "kubeconfig_file": str(cluster.kubeconfig(account))}
    return json.dumps(launcher_config() | outside | more)


@dataclass
class Launches(LaunchedRuns):
    """Runs as Jobs of a cluster."""

    cluster: Cluster


@contextmanager
def launches_in(folder: Path, monkeypatch: pytest.MonkeyPatch, settings: str, **more: Any) -> Iterator[Launches]:
    """Give a loaded site whose runs are Jobs; `more` is what befalls the cluster."""
    with (
        loaded(folder, settings, monkeypatch) as (instance, workspace),
        cluster_in(folder / "cluster", site_objects(settings), **more) as cluster,
    ):
        monkeypatch.setenv("POD_NAMESPACE", NAMESPACE)
        monkeypatch.setenv("BACKUP_PIPELINE_RUN_LAUNCHER", "kubernetes")
        home = str(folder / "home")
        configuration = configuration_for(cluster, "daemon", job_image=IMAGE, dagster_home=home)
        monkeypatch.setenv("BACKUP_PIPELINE_RUN_LAUNCHER_CONFIG", configuration)
        yield Launches(folder, instance, workspace, cluster)
        assert cluster.faults == []
