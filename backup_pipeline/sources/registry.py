"""The kinds of sources: the built-in ones, and those that other packages bring (see `settings.kinds`)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from backup_pipeline.settings.kinds import BUILT_IN, external_kinds, load_built_in, load_kind
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.kind import SiteSource, SourceKind


@cache
def kind_named(name: str) -> SourceKind[Any]:
    """Return a kind by its name in `kind:`.

    Raises:
        KeyError: there is none; the settings' loader has refused such a source before.
    """
    if name in BUILT_IN:
        return load_built_in(name)()  # type: ignore[no-any-return]
    if name in external_kinds():
        return load_kind(name)()  # type: ignore[no-any-return]
    raise KeyError(name)


def kind_of(site: Site, name: str) -> tuple[SourceKind[Any], SiteSource[Any]]:
    """Return a source of a site, and its kind.

    Raises:
        SettingsError: there is no source of that name.
    """
    settings = site.source(name)
    return kind_named(settings.kind_name), SiteSource(site, name, settings)


def place_of(site: Site, name: str) -> Path | None:
    """Return the file or folder that a restore of a source's files brings back; None where it is a database."""
    kind, source = kind_of(site, name)
    return kind.place(source)
