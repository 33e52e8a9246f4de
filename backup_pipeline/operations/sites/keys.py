"""Keys of a site: those it signs with, and what it keeps for its vaults. Needs none of the libraries of vaults."""

from __future__ import annotations

from backup_pipeline.operations.sites.identity import state_folder
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.vault.machine_keys import MachineKeys


def machine_keys(site: Site, vault: str = "") -> MachineKeys:
    """Return what this machine keeps for its vaults, its signing key among it; for one vault, with its `keys_env`."""
    given = site.value(site.settings.vaults[vault].keys_env) if vault else ""
    return MachineKeys(state_folder(site) / "vault-keys", given)
