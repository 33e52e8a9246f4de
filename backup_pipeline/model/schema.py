"""The published JSON Schema of the manifest, generated from the model.

`python -m backup_pipeline.model.schema > manifest.schema.json`; a test keeps the published file true.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from backup_pipeline.model.manifest import Manifest

SCHEMA_NAME = "manifest.schema.json"


def manifest_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of manifest.json, version 1."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Manifest.model_json_schema(mode="serialization"),
        "title": "manifest.json",
        "description": "The sealed account of a backup set of backup-pipeline. Its presence is the seal.",
    }


def schema_text() -> str:
    """Return the schema as it is published."""
    return json.dumps(manifest_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
