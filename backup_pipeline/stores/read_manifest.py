"""Parsing manifest.json, for every store: the manifest, or why it does not count."""

from __future__ import annotations

import contextlib
import json

from pydantic import ValidationError as PydanticError

from backup_pipeline.model.manifest import MANIFEST_VERSION, Manifest
from backup_pipeline.model.set_id import SetId


def parse_manifest(data: bytes, set_id: SetId) -> tuple[Manifest | None, str]:
    """Return the manifest of a set and "", or None and what is wrong with it."""
    try:
        manifest = Manifest.model_validate_json(data)
    except PydanticError as error:
        with contextlib.suppress(ValueError, RecursionError):
            document = json.loads(data)
            version = document.get("manifest_version") if isinstance(document, dict) else None
            if version not in (None, MANIFEST_VERSION):
                known = f"it reads up to {MANIFEST_VERSION}"
                return None, f"manifest version {version} is not known to this release ({known})"
        first = error.errors(include_input=False, include_url=False)[0]
        return None, f"manifest cannot be read: {'.'.join(map(str, first['loc']))}: {first['msg']}"
    if manifest.set_id != set_id:
        return None, f"manifest belongs to set {manifest.set_id}"
    return manifest, ""
