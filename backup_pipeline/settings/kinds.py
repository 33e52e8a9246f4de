"""Kinds of sources that other packages bring: found by entry points, asked for their settings' model.

A package names its kind in its metadata:

    [project.entry-points."backup_pipeline.sources"]
    redis = "my_package.redis:RedisKind"

The class fulfils `backup_pipeline.sources.kind.SourceKind`; here only `settings`, its model of pydantic, is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from backup_pipeline.errors import SettingsError

GROUP = "backup_pipeline.sources"


@cache
def external_kinds() -> Mapping[str, EntryPoint]:
    """Return the entry points of the kinds that are installed beside the built-in ones, by name."""
    return {found.name: found for found in entry_points(group=GROUP)}


def load_kind(name: str) -> Any:
    """Return the class of an external kind.

    Raises:
        SettingsError: its package cannot be imported.
    """
    found = external_kinds()[name]
    try:
        return found.load()
    except Exception as error:
        raise SettingsError(
            f"The kind of sources {name} cannot be loaded ({type(error).__name__}: {error}).",
            where=found.value,
            remedy="Correct or remove the package that brings it.",
        ) from error


def source_models(built_in: Mapping[str, type[Any]]) -> dict[str, type[Any]]:
    """Return the settings' models of all kinds by name; a built-in kind is never replaced."""
    others = {name: load_kind(name).settings for name in external_kinds() if name not in built_in}
    return {**built_in, **others}
