"""backup.yaml and `.env`, read once, every fault reported at once."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values
from pydantic import ValidationError as PydanticError

from backup_pipeline.errors import SettingsError
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import SiteSettings

CONFIG_VARIABLE = "BACKUP_PIPELINE_CONFIG"
DEFAULT_NAME = "backup.yaml"


def unknown_name(what: str, name: str, known: Iterable[str], file: Path) -> SettingsError:
    """Return the error for a name that backup.yaml does not have, with the nearest right one."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return SettingsError(f"There is no {what} {name!r}.", where=str(file), remedy=f"{hint}Known: {', '.join(names)}.")


def find_settings_file(named: Path | None = None) -> Path:
    """Return the settings file: as named, else from BACKUP_PIPELINE_CONFIG, else ./backup.yaml."""
    path = named or Path(os.environ.get(CONFIG_VARIABLE, DEFAULT_NAME))
    if path.is_dir():
        path = path / DEFAULT_NAME
    if not path.is_file():
        raise SettingsError(
            "No settings file.", where=str(path), remedy="Name it with --config, or run where backup.yaml is."
        )
    return path.absolute()


def load_site(named: Path | None = None, *, environment: Mapping[str, str] | None = None) -> Site:
    """Read backup.yaml and the `.env` beside it.

    Args:
        named: the settings file or its folder; found by `find_settings_file` otherwise.
        environment: instead of the process's; `.env` fills what it lacks.

    Raises:
        SettingsError: every fault of the file in one message.
    """
    file = find_settings_file(named)
    variables: dict[str, str] = {k: v for k, v in dotenv_values(file.parent / ".env").items() if v is not None}
    variables.update(os.environ if environment is None else environment)
    try:
        raw: Any = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"Cannot be read: {error}", where=str(file), remedy="Correct the file.") from error
    try:
        settings = SiteSettings.model_validate(raw)
    except PydanticError as error:
        faults = [
            f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsError("; ".join(faults), where=str(file), remedy="Correct the fields named.") from None
    return Site(file, _absolute(settings, file.parent), variables)


def _absolute(value: Any, folder: Path) -> Any:
    """Return settings with every path counted from `folder`."""
    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        return value.model_copy(
            update={name: _absolute(getattr(value, name), folder) for name in type(value).model_fields}
        )
    if isinstance(value, Path):
        return folder / value.expanduser()
    if isinstance(value, dict):
        return {key: _absolute(item, folder) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_absolute(item, folder) for item in value)
    return value
