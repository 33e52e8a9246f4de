"""The JSON Schema of backup.yaml, generated from the types, so that editors complete and check the file.

`python -m backup_pipeline.settings.schema > backup.schema.json`; a test keeps the published file true.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from backup_pipeline.settings.field_docs import field_docs
from backup_pipeline.settings.types import site_settings

SCHEMA_NAME = "backup.schema.json"


class _SchemaGenerator(GenerateJsonSchema):
    """Writes defaults as a person writes them in the file: 30d, not ISO 8601's P30D."""

    def encode_default(self, dft: Any) -> Any:
        """Return a default in the file's form."""
        if isinstance(dft, timedelta):
            return duration_text(dft)
        return super().encode_default(dft)

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """Return the schema of settings by name."""
        made = super().dict_schema(schema)
        # Names that do not fit the pattern are faults, not free properties.
        if "patternProperties" in made:
            made["additionalProperties"] = False
        return made

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Return the schema of a group of settings, with the meaning of each."""
        made = super().model_schema(schema)
        texts = field_docs(schema["cls"])
        for name, field in made["properties"].items():
            if name in texts:
                field["description"] = texts[name]
        return made

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Return a field's schema with its default."""
        made = super().default_schema(schema)
        # Whole groups of settings repeat the defaults of their fields; those stand with the fields.
        if isinstance(made.get("default"), dict):
            made.pop("default")
        return made


def duration_text(duration: timedelta) -> str:
    """Return a duration as backup.yaml takes it: 30m, 12h, 14d."""
    if duration.total_seconds() % 3600:
        return f"{duration.total_seconds() // 60:.0f}m"
    hours = int(duration.total_seconds() // 3600)
    return f"{hours // 24}d" if hours % 24 == 0 else f"{hours}h"


def settings_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of backup.yaml."""
    made = site_settings().model_json_schema(schema_generator=_SchemaGenerator)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **made,
        "title": "backup.yaml",
        "description": "Settings of backup-pipeline: what to protect, when, where to, and how long it is kept.",
    }


def schema_text() -> str:
    """Return the schema as the text of `backup.schema.json`."""
    return json.dumps(settings_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
