"""All that a first site can protect: what is named, what stands in `.env`, the servers of this machine, files."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

from backup_pipeline.operations.first_site.databases import (
    add_server,
    add_variable,
    find_in_variables,
    find_on_this_machine,
    given_variable,
)
from backup_pipeline.operations.first_site.files import add_path, find_files
from backup_pipeline.operations.first_site.found import Discovery, FoundSource
from backup_pipeline.settings.loader import ENV_NAME
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.variables import read_env_file

_LOCALTIME = Path("/etc/localtime")
_ZONES = "zoneinfo/"


@dataclass(frozen=True, slots=True)
class Named:
    """What a person named: connection strings, variables that hold some, paths; and how widely it is searched."""

    dsns: Sequence[str] = ()
    variables: Sequence[str] = ()
    paths: Sequence[Path] = ()
    all_databases: bool = False


def discover(folder: Path, named: Named, environment: Mapping[str, str]) -> Discovery:
    """Return what can be backed up. What is named must answer; what is searched for may not, and is then mentioned.

    Args:
        folder: the site's folder, with or without an `.env`.
        named: databases and paths that are named; where databases are, no others are searched for, and the same holds
            for paths.
        environment: the process's variables.

    Raises:
        BackupSystemError: something that is named is not there, or does not answer.
    """
    findings = Discovery()
    in_file = read_env_file(folder / ENV_NAME)
    variables = {**in_file, **environment}
    for dsn in named.dsns:
        add_server(dsn, variables, findings, every=named.all_databases)
    for name in named.variables:
        add_variable(name, given_variable(name, variables), variables, findings, every=named.all_databases)
    if not (named.dsns or named.variables or named.paths):
        find_in_variables(in_file, variables, findings)
        if not findings.sources:  # only databases so far
            find_on_this_machine(variables, findings)
    for path in named.paths:
        add_path(path, folder, findings)
    if not (named.dsns or named.variables or named.paths):
        find_files(folder, findings)
    elif not named.paths:
        _mention_files(folder, findings)
    return findings


def _mention_files(folder: Path, findings: Discovery) -> None:
    """Note files and folders that would be found where no database was named: whoever names one expects them too."""
    beside = Discovery()
    find_files(folder, beside)
    for source in beside.sources:
        add = f"--add {shlex.quote(str(source.settings['path']))} takes it"
        findings.passed_over.append((source.label, f"only what is named is taken; {add}"))


def not_yet_sources(site: Site, paths: Sequence[Path]) -> list[FoundSource]:
    """Return what paths are of which no source of a site's settings is.

    Raises:
        SettingsError: there is nothing at one of them that can be backed up.
    """
    dumped = [source.model_dump() for source in site.settings.sources.values()]
    known = {(site.folder / value).resolve() for each in dumped for value in each.values() if isinstance(value, Path)}
    findings = Discovery()
    for path in paths:
        if path.resolve() not in known:
            add_path(path, site.folder, findings)
    return findings.sources


def timezone_here(environment: Mapping[str, str]) -> str:
    """Return the time zone of this machine by its IANA name; UTC where it cannot be known."""
    candidates = [environment.get("TZ", "").removeprefix(":")]
    if _LOCALTIME.is_symlink():
        candidates.append(str(_LOCALTIME.readlink()).rpartition(_ZONES)[2])
    for name in candidates:
        if name in available_timezones() and not name.startswith("Etc/"):
            return ZoneInfo(name).key
    return "UTC"
