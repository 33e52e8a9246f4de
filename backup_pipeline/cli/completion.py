"""Completion of sets' names in the shell, from backup.yaml and the stores on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from backup_pipeline.errors import BackupSystemError


def complete_set(incomplete: str) -> list[str]:
    """Return names of sets that begin so: `PLAN/latest`, `PLAN/SET`, and `VAULT:PLAN/latest`; no vault is asked."""
    from backup_pipeline.operations.sites.stores import LATEST, open_store
    from backup_pipeline.settings.loader import load_site

    try:
        site = load_site(None)
        plans = list(site.settings.plans)
        names = [f"{plan}/{LATEST}" for plan in plans]
        names += [f"{plan}/{set_id}" for plan in plans for set_id in reversed(open_store(site, plan).ids())]
        names += [f"{vault}:{plan}/{LATEST}" for vault in site.settings.vaults for plan in plans]
    except (BackupSystemError, OSError):
        return []
    return [name for name in names if name.startswith(incomplete)]


def complete_incident(incomplete: str) -> list[str]:
    """Return keys of open incidents that begin so."""
    from backup_pipeline.operations.status.incident_state import read_state
    from backup_pipeline.settings.loader import load_site

    try:
        keys = [incident.key for incident in read_state(load_site(None), shared=False).open]
    except (BackupSystemError, OSError):
        return []
    return [key for key in keys if key.startswith(incomplete)]


def complete_place(incomplete: str) -> list[str]:
    """Return names of plans, and `VAULT:` and `VAULT:PLAN`, that begin so."""
    from backup_pipeline.settings.loader import load_site

    try:
        site = load_site(None)
    except (BackupSystemError, OSError):
        return []
    plans, vaults = list(site.settings.plans), list(site.settings.vaults)
    names = [*plans, *(f"{vault}:" for vault in vaults), *(f"{vault}:{plan}" for vault in vaults for plan in plans)]
    return [name for name in names if name.startswith(incomplete)]


SET_NAMES = "PLAN/SET, or PLAN for its latest; VAULT:PLAN/SET in a vault."
SetArgument = Annotated[str, typer.Argument(metavar="SET", help=SET_NAMES, autocompletion=complete_set)]
