"""backup.yaml and `.env`, read once, every fault reported at once, each with its line.

Imports little, since `list` and `show` wait for it: no Dagster, no pandas, no database driver.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError as PydanticError

from backup_pipeline.errors import SettingsError
from backup_pipeline.redaction import hide, secrets_in
from backup_pipeline.settings.absolute_paths import with_absolute_paths
from backup_pipeline.settings.cross_field_checks import coherence_faults
from backup_pipeline.settings.document import MOST_BYTES, FileFault, read_document
from backup_pipeline.settings.env_template import TEMPLATE_VARIABLES
from backup_pipeline.settings.field_errors import field_faults
from backup_pipeline.settings.fleet_members import expanded
from backup_pipeline.settings.server_databases import with_known_databases, with_named_databases
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import SiteSettings, site_settings
from backup_pipeline.settings.variables import merged, named_variables, read_env_file, secret_variables

CONFIG_VARIABLE = "BACKUP_PIPELINE_CONFIG"
DEFAULT_NAME = "backup.yaml"
ENV_NAME = ".env"


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
        environment: instead of the process's; `.env` fills what it lacks. `X_FILE` names a file with the value of X.

    Raises:
        SettingsError: every fault of the file in one message.
    """
    file = find_settings_file(named)
    settings, fleets = expanded(_read_settings(file), file.parent)
    layers = [read_env_file(file.parent / ENV_NAME), os.environ if environment is None else environment]
    names = (*named_variables(settings), *(variable.name for variable in TEMPLATE_VARIABLES))
    given = Site(file, settings, merged(layers, names), fleets=fleets)
    site = with_known_databases(with_named_databases(given))
    hide(secrets_in(site.environment, secret_variables=secret_variables(settings)), public=_public_names(site))
    return site


def _public_names(site: Site) -> Iterator[str]:
    """Yield names that messages need; where one of them is a password too, it is one that everybody guesses."""
    yield from site.settings.plans
    for known in site.databases.values():
        yield from (one.name for one in known.databases)
    for name, source in site.settings.sources.items():
        yield name
        if (connection := source.connection) is not None:
            with contextlib.suppress(ValueError):
                parts = urlsplit(site.dsn(connection)[1].removeprefix("jdbc:"))
                yield from filter(None, (parts.username, parts.hostname, parts.path.strip("/")))
            yield site.value(connection.user_env)


def check_settings(file: Path) -> list[FileFault]:
    """Return every fault of a settings file, by line; nothing else is read."""
    return _diagnosed(file)[1]


def _read_settings(file: Path) -> SiteSettings:
    settings, faults = _diagnosed(file)
    if settings is not None and not faults:
        return with_absolute_paths(settings, file.parent)
    shown = _shown(file)
    lines = [fault.text(shown) for fault in faults]
    remedy = "Correct what is named; docs/settings.md explains every setting."
    if len(lines) == 1:
        where, _, what = lines[0].partition(": ")
        raise SettingsError(what, where=where, remedy=remedy)
    raise SettingsError("\n".join([f"{len(lines)} faults.", *lines]), where=shown, remedy=remedy)


def _diagnosed(file: Path) -> tuple[SiteSettings | None, list[FileFault]]:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise SettingsError(
                f"This is no settings file: it has {file.stat().st_size / 1e6:,.0f} MB.",
                where=str(file),
                remedy="Name the right file with --config.",
            )
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(
            f"Cannot be read: {why}.", where=str(file), remedy="Correct the file or its mode."
        ) from error
    document = read_document(text)
    if document.data is None and document.faults:
        return None, list(document.faults)
    faults = [*document.faults, *coherence_faults(document, file.parent)]
    settings = None
    try:
        settings = site_settings().model_validate(document.data)
    except PydanticError as error:
        reported = {fault.path for fault in faults}
        faults += [fault for fault in field_faults(document, error) if fault.path not in reported]
    except RecursionError:
        faults.append(document.fault((), "an alias holds itself"))
    return settings, sorted(set(faults), key=lambda fault: (fault.line, str(fault.path), fault.what))


def _shown(file: Path) -> str:
    """Return the file's path as a person in this folder would write it."""
    try:
        return str(file.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(file)
