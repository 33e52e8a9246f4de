"""Paths in settings, counted from the folder of backup.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar, cast

from pydantic import BaseModel

_T = TypeVar("_T")


def with_absolute_paths(value: _T, folder: Path) -> _T:
    """Return settings (a model, or what stands in one) with every path counted from `folder`."""
    found: object = value
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        found = value.model_copy(update={name: with_absolute_paths(getattr(value, name), folder) for name in fields})
    elif isinstance(value, Path):
        found = folder / value.expanduser()
    elif isinstance(value, dict):
        found = {key: with_absolute_paths(item, folder) for key, item in value.items()}
    elif isinstance(value, tuple):
        found = tuple(with_absolute_paths(item, folder) for item in value)
    return cast("_T", found)
