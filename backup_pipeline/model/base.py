"""The base of every value of the model: frozen, exact about its fields, readable as JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic import JsonValue as JsonValue


class Frozen(BaseModel):
    """A value that never changes and refuses fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")
