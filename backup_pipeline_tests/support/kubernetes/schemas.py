"""The published schemas of releases of Kubernetes, in the strict form that knows no field but the documented ones."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

RELEASES = ("1.35", "1.36", "1.37")


@cache
def _document(release: str, name: str) -> Any:
    place = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{release}.0-local-strict" / name
    return json.loads(place.read_text("utf-8"))


@cache
def _validator(release: str, api_version: str, kind: str) -> Draft202012Validator:
    # networking.k8s.io/v1 lies in …-networking-v1.json, v1 in …-v1.json, an answer's status with what all kinds share.
    group = "meta-v1" if kind == "Status" else re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = _document(release, f"{kind.lower()}-{group}.json")
    definitions = Resource.from_contents(_document(release, "_definitions.json"))
    return Draft202012Validator(schema, registry=Registry().with_resource("_definitions.json", definitions))


def faults_of(document: dict[str, Any], release: str) -> list[str]:
    """Return what a release of Kubernetes would find wrong with an object, [] for nothing."""
    validator = _validator(release, document["apiVersion"], document["kind"])
    return [f"{'.'.join(map(str, error.path))}: {error.message}"[:300] for error in validator.iter_errors(document)]
