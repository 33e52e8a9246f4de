"""Which kinds of sources there are: the built-in ones, and those that other packages bring by entry points.

A package names its kind in its metadata:

    [project.entry-points."backup_pipeline.sources"]
    redis = "my_package.redis:RedisKind"

The class fulfils `backup_pipeline.sources.kind.SourceKind`; here only `settings`, its model of pydantic, is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from backup_pipeline.errors import SettingsError

GROUP = "backup_pipeline.sources"
BUILT_IN: Mapping[str, tuple[str, str]] = {
    "postgres": ("PostgresKind", "PostgresSource"),
    "sqlite": ("SqliteKind", "SqliteSource"),
    "orders": ("OrdersKind", "OrdersSource"),
    "folder": ("FolderKind", "FolderSource"),
    "repository": ("RepositoryKind", "RepositorySource"),
}
"""By name: the class in `sources/<name>/kind.py`, and the model in `sources/<name>/settings.py`.

They stand in a layer above this one and are imported by name; the class only when the first source of its kind is met.
"""


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


def load_built_in(name: str) -> Any:
    """Return the class of a built-in kind."""
    return getattr(import_module(f"{GROUP}.{name}.kind"), BUILT_IN[name][0])


def source_models() -> dict[str, type[Any]]:
    """Return the settings' models of all kinds by name; a built-in kind is never replaced."""
    built_in = {n: getattr(import_module(f"{GROUP}.{n}.settings"), model) for n, (_, model) in BUILT_IN.items()}
    others = {name: load_kind(name).settings for name in external_kinds() if name not in built_in}
    return {**built_in, **others}
