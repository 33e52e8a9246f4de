"""Generated files are what the code says: the JSON Schema, .env.template, the settings reference, the example site."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from dotenv import dotenv_values

from backup_pipeline.settings.env_template import TEMPLATE_VARIABLES, env_template
from backup_pipeline.settings.loader import check_settings, load_site
from backup_pipeline.settings.reference import settings_reference
from backup_pipeline.settings.schema import schema_text
from backup_pipeline.settings.types import site_settings, source_kinds
from backup_pipeline.settings.variables import named_variables

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("file", "made", "command"),
    [
        ("backup.schema.json", schema_text, "settings.schema > backup.schema.json"),
        (".env.template", env_template, "settings.env_template > .env.template"),
        ("docs/settings.md", settings_reference, "settings.reference > docs/settings.md"),
    ],
)
def test_a_published_file_is_what_the_code_generates(file, made, command):
    assert (ROOT / file).read_text("utf-8") == made(), f"run: python -m backup_pipeline.{command}"


def test_the_example_site_has_no_faults_and_fits_the_schema():
    assert check_settings(ROOT / "backup.yaml") == []
    schema = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load((ROOT / "backup.yaml").read_text()), schema)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("sources", "supabase", "dsn_evn"), "X"),
        (("sources", "supabase", "kind"), "postgress"),
        (("plans", "nightly", "retention", "keep_within"), "14"),
        (("sources", "2bad"), {"kind": "folder", "path": "x"}),
        (("file_mode",), 384),
    ],
)
def test_the_schema_finds_what_the_loader_finds(tmp_path, path, value):
    data = yaml.safe_load((ROOT / "backup.yaml").read_text())
    place = data
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, json.loads(schema_text()))
    (tmp_path / "backup.yaml").write_text(yaml.safe_dump(data))
    assert check_settings(tmp_path / "backup.yaml")


@pytest.mark.parametrize("after", ["supabase", ["supabase"]])
def test_the_schema_takes_one_name_without_brackets_as_the_loader_does(after):
    data = yaml.safe_load((ROOT / "backup.yaml").read_text())
    data["sources"]["storage"]["after"] = after
    jsonschema.validate(data, json.loads(schema_text()))
    assert site_settings().model_validate(data).sources["storage"].after == ("supabase",)


def test_the_template_documents_every_variable_of_the_example_site():
    known = {variable.name for variable in TEMPLATE_VARIABLES}
    assert set(named_variables(load_site(ROOT / "backup.yaml", environment={}).settings)) <= known


def test_no_example_of_the_template_can_be_taken_for_a_value():
    assert all(v.example.startswith("<") and v.example.endswith(">") for v in TEMPLATE_VARIABLES)
    shown = dotenv_values(ROOT / ".env.template")
    assert shown
    assert all(value.startswith("<") for value in shown.values())


def test_every_kind_of_source_has_its_section_in_the_reference():
    text = settings_reference()
    assert all(f"## `kind: {kind}`" in text for kind in source_kinds())
    assert all(f"| `{name}` |" in text for settings in source_kinds().values() for name in settings.model_fields)
