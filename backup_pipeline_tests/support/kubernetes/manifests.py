"""The manifests of deploy/kubernetes as they stand in their files, and the pods that they describe."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from backup_pipeline_tests.support.documents.blocks import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
IMAGE = "backup-pipeline:1.0.0"


@cache
def objects() -> tuple[dict[str, Any], ...]:
    """All objects but kustomize's own files, which no API server gets."""
    found: list[dict[str, Any]] = []
    for path in sorted(FOLDER.glob("*/*.yaml")):
        documents = [each for each in yaml.safe_load_all(path.read_text("utf-8")) if each]
        found += [each for each in documents if "apiVersion" in each and "kustomize" not in each["apiVersion"]]
    return tuple(found)


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in objects() if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pod_specs() -> dict[str, dict[str, Any]]:
    """The pod of each Deployment and StatefulSet, by its name."""
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in objects()
        if each["kind"] in ("Deployment", "StatefulSet")
    }


def launcher_config() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "site" / "run-launcher.json").read_text("utf-8"))
    return found


def variables(path: Path) -> dict[str, str]:
    """The variables of an .env file of kustomize's."""
    lines = [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def rights(*, steps: bool = False) -> dict[str, set[tuple[str, str, str]]]:
    """What each service account may do, with the component `steps` or without: (API group, resource, verb)."""
    found: dict[str, set[tuple[str, str, str]]] = {
        each["metadata"]["name"]: set() for each in objects() if each["kind"] == "ServiceAccount"
    }
    bindings = [each for each in objects() if each["kind"] == "RoleBinding"]
    for binding in (each for each in bindings if steps or not each["metadata"]["name"].startswith("steps-")):
        rules = named("Role", binding["roleRef"]["name"])["rules"]
        granted = {
            (group, resource, verb)
            for rule in rules
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        for subject in binding["subjects"]:
            found[subject["name"]] |= granted
    return found
