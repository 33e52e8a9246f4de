"""The manifest's published schema is the one of the code, and real manifests fit it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from backup_pipeline.model.schema import SCHEMA_NAME, manifest_schema, schema_text
from backup_pipeline_tests.support.sites import TestSite

ROOT = Path(__file__).resolve().parents[2]


def test_the_published_schema_is_what_the_code_generates() -> None:
    assert (ROOT / SCHEMA_NAME).read_text("utf-8") == schema_text()


def test_a_real_manifest_fits_the_schema_and_a_broken_one_does_not(tmp_path: Path) -> None:
    site = TestSite(tmp_path)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "one.txt").write_text("one")
    site.write("sources: {files: {kind: folder, path: files}}\nplans: {daily: {sources: [files]}}\n")
    assert site.run("backup", "daily").code == 0
    store = site.store("daily")
    document = json.loads(store.path_of(store.ids()[-1], "manifest.json").read_text("utf-8"))
    validator = jsonschema.Draft202012Validator(manifest_schema())
    validator.validate(document)
    document["artefacts"][0]["files"][0]["sha256"] = "short"
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(document)
