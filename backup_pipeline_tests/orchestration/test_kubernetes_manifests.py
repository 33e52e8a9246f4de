"""deploy/kubernetes: valid for three releases, nobody's root, and everything that it names is there."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from backup_pipeline.settings.loader import load_site
from backup_pipeline_tests.support.documents.blocks import ROOT
from backup_pipeline_tests.support.kubernetes.manifests import (
    FOLDER,
    IMAGE,
    launcher_config,
    named,
    objects,
    pod_specs,
    variables,
)
from backup_pipeline_tests.support.kubernetes.schemas import RELEASES, faults_of

OURS = {name: spec for name, spec in pod_specs().items() if spec["containers"][0]["image"] == IMAGE}


@pytest.mark.parametrize("release", RELEASES)
def test_the_manifests_are_valid_for_each_release(release: str) -> None:
    found = {f"{each['kind']} {each['metadata']['name']}": faults_of(each, release) for each in objects()}
    assert {name: faults for name, faults in found.items() if faults} == {}
    assert len(found) > 20
    # What the schemas are for: a field that is none.
    assert faults_of({**named("Service", "code"), "spec": {"ports": [{"port": 4000, "targetport": 1}]}}, release)


def containers() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, pod and container of everything that runs, runs themselves among it."""
    found = [(name, spec, container) for name, spec in pod_specs().items() for container in spec["containers"]]
    config = launcher_config()
    run = config["run_k8s_config"]["pod_spec_config"]
    container = config["run_k8s_config"]["container_config"] | {
        "securityContext": config["security_context"],
        "resources": config["resources"],
    }
    return [*found, ("run", run, container)]


def test_no_pod_is_root_writes_its_image_or_gains_rights() -> None:
    for name, pod, container in containers():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert container["resources"]["limits"]["memory"], name
        assert container["resources"]["requests"]["memory"], name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        volumes = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
        assert volumes <= {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}, name


def test_only_what_starts_and_ends_runs_has_a_token() -> None:
    tokens = {name for name, pod, _ in containers() if pod["automountServiceAccountToken"]}
    assert tokens == {"daemon", "webserver"}
    for name, pod, container in containers():
        mounted = {each["name"] for each in container["volumeMounts"]}
        assert mounted >= {each["name"] for each in pod["volumes"]}, name
        assert name in ("code", "run") or "sources" not in mounted, name


def test_every_name_that_a_pod_uses_is_made_by_the_site() -> None:
    made: dict[str, set[str]] = {"ConfigMap": set(), "Secret": set()}
    for path in FOLDER.glob("*/kustomization.yaml"):
        content = yaml.safe_load(path.read_text("utf-8"))
        made["ConfigMap"] |= {each["name"] for each in content.get("configMapGenerator", [])}
        made["Secret"] |= {each["name"] for each in content.get("secretGenerator", [])}
    claims = {each["metadata"]["name"] for each in objects() if each["kind"] == "PersistentVolumeClaim"}
    claims |= {each["metadata"]["name"] for each in named("StatefulSet", "postgres")["spec"]["volumeClaimTemplates"]}
    accounts = {each["metadata"]["name"] for each in objects() if each["kind"] == "ServiceAccount"}
    for name, pod, container in containers():
        for volume in pod["volumes"]:
            assert volume.get("configMap", {}).get("name") in {None, *made["ConfigMap"]}, name
            assert volume.get("secret", {}).get("secretName") in {None, *made["Secret"]}, name
            assert volume.get("persistentVolumeClaim", {}).get("claimName") in {None, *claims}, name
        for source in container.get("envFrom", []):
            assert source["configMapRef"]["name"] in made["ConfigMap"], name
        assert pod.get("serviceAccountName") in {None, *accounts}, name
    config = launcher_config()
    assert set(config["env_config_maps"]) <= made["ConfigMap"]
    assert config["service_account_name"] in accounts


def test_what_a_site_writes_lies_on_a_claim(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "site" / "backup.yaml", tmp_path)
    site = load_site(tmp_path, environment={})
    state = variables(FOLDER / "base" / "pipeline.env")["BACKUP_PIPELINE_STATE"]
    written = [site.settings.store, *(site.store_folder(plan) for plan in site.settings.plans), Path(state)]
    for name, pod, container in containers():
        if name not in ("code", "run"):
            continue
        claims = {each["name"] for each in pod["volumes"] if "persistentVolumeClaim" in each}
        mounts = [Path(each["mountPath"]) for each in container["volumeMounts"] if each["name"] in claims]
        for path in written:
            assert any(path.is_relative_to(mount) for mount in mounts), f"{name}: {path}"


def test_every_command_of_the_manifests_is_one_of_the_image() -> None:
    scripts = {script.name for script in entry_points(group="console_scripts")}
    for name, spec in OURS.items():
        (container,) = spec["containers"]
        probes = [
            probe["exec"]["command"] for key, probe in container.items() if key.endswith("Probe") and "exec" in probe
        ]
        for words in [container["args"], *probes]:
            if words[:2] == ["python", "-m"]:
                assert find_spec(words[2]) is not None, f"{name}: {words}"
            else:
                assert words[0] in scripts, f"{name}: {words}"
        assert "command" not in container, f"{name}: the image's entry point, tini, is to be process 1"


def test_a_run_has_time_to_end_before_it_is_killed_and_before_the_monitor_gives_up() -> None:
    grace = launcher_config()["run_k8s_config"]["pod_spec_config"]["terminationGracePeriodSeconds"]
    monitoring = yaml.safe_load((FOLDER / "base" / "dagster.yaml").read_text("utf-8"))["run_monitoring"]
    assert 30 < grace < monitoring["cancel_timeout_seconds"]


def test_its_dagster_yaml_differs_from_the_images_only_where_it_says() -> None:
    def lines(path: Path) -> set[str]:
        return {line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")}

    theirs, ours = lines(ROOT / "dagster.yaml"), lines(FOLDER / "base" / "dagster.yaml")
    changed = {line for line in ours - theirs if "# Kubernetes" not in line}
    assert changed == set()
    assert len(theirs - ours) == len(ours - theirs) == 2


def rendered(tmp_path: Path, *components: str) -> list[dict[str, Any]]:
    """What kubectl makes of the site, with further components; skipped where there is no kubectl."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    site = tmp_path / "kubernetes" / "site"
    content = yaml.safe_load((site / "kustomization.yaml").read_text("utf-8"))
    content["components"] += [f"../{name}" for name in components]
    (site / "kustomization.yaml").write_text(yaml.safe_dump(content), "utf-8")
    for generator in content["secretGenerator"]:
        for file in generator["files"]:
            (site / file).write_text("a secret\n", "utf-8")
    done = subprocess.run(["kubectl", "kustomize", site], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_without_a_disk_nothing_claims_one(tmp_path: Path) -> None:
    made = rendered(tmp_path, "no-disk", "steps")
    assert [fault for each in made for fault in faults_of(each, RELEASES[-1])] == []
    assert not [each for each in made if each["kind"] == "PersistentVolumeClaim"]
    claiming = [each for each in made if "persistentVolumeClaim" in str(each) and each["kind"] != "ConfigMap"]
    assert claiming == []


def test_kubectl_makes_of_the_site_what_the_files_say(tmp_path: Path) -> None:
    made = rendered(tmp_path)
    assert [fault for each in made for fault in faults_of(each, RELEASES[-1])] == []
    assert {each["metadata"].get("namespace", "backup") for each in made} == {"backup"}
    (code,) = [each for each in made if each["kind"] == "Deployment" and each["metadata"]["name"] == "code"]
    (container,) = code["spec"]["template"]["spec"]["containers"]
    assert {"name": "DAGSTER_CURRENT_IMAGE", "value": container["image"]} in container["env"]
    assert container["image"].startswith("registry.example.org/")
    (launcher,) = [each for each in made if each["metadata"]["name"] == "run-launcher"]
    assert json.loads(launcher["data"]["run-launcher.json"]) == launcher_config()
