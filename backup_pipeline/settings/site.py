"""A site: its settings, the folder they count from, and the environment that holds its secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from backup_pipeline.model.known_databases import KnownDatabases
from backup_pipeline.settings.fleet_members import FleetMember, FleetMembers
from backup_pipeline.settings.types import Connection, Plan, SiteSettings, SourceSettings

IDENTITY_VARIABLE, IDENTITY_NAME = "VAULT_IDENTITY_FILE", "identity.txt"
"""What names the file with the identity of vaults, and its name where it lies beside backup.yaml, as in the demo."""


def vault_named(store: object, urls: Mapping[str, str]) -> str:
    """Return the vault that a plan's `store` means: `vault:NAME`, or the URL of one of them; "" where it means none."""
    if not isinstance(store, str):
        return ""
    if store.startswith("vault:"):
        name = store.removeprefix("vault:")
        return name if name in urls else ""
    return next((name for name, url in urls.items() if url.rstrip("/") == store.rstrip("/")), "")


@dataclass(frozen=True)
class Site:
    """What every operation is given.

    Attributes:
        file: path of backup.yaml.
        settings: what stands in it, with every path absolute, and a source for each known database of a server.
        environment: variables (process environment over `.env`), never printed.
        databases: what is known of each source that stands for the databases of a server, by its name.
        fleets: the members of each fleet, by its name.
        named_databases: the sources of databases that the settings name themselves, as `SERVER/DATABASE`.
    """

    file: Path
    settings: SiteSettings
    environment: Mapping[str, str] = field(repr=False)
    databases: Mapping[str, KnownDatabases] = field(default_factory=dict)
    fleets: Mapping[str, FleetMembers] = field(default_factory=dict)
    named_databases: frozenset[str] = frozenset()

    @property
    def folder(self) -> Path:
        """The folder of backup.yaml."""
        return self.file.parent

    @property
    def single_plans(self) -> tuple[str, ...]:
        """The plans that stand in the file: all but those of the members of fleets."""
        return tuple(name for name in self.settings.plans if name not in self._members)

    @cached_property
    def _members(self) -> Mapping[str, tuple[str, FleetMember]]:
        return {one.plan: (name, one) for name, fleet in self.fleets.items() for one in fleet.members}

    def member_of(self, plan: str) -> tuple[str, FleetMember] | None:
        """Return the fleet and the member whose plan this is; None for any other plan."""
        return self._members.get(plan)

    def plan(self, name: str) -> Plan:
        """Return a plan by name; SettingsError with the nearest names otherwise."""
        from backup_pipeline.settings.loader import unknown_name

        if name not in self.settings.plans:
            raise unknown_name("plan", name, self.settings.plans, self.file)
        return self.settings.plans[name]

    def source(self, name: str) -> SourceSettings:
        """Return a source by name; SettingsError with the nearest names otherwise."""
        from backup_pipeline.settings.loader import unknown_name

        if name not in self.settings.sources:
            raise unknown_name("source", name, self.settings.sources, self.file)
        return self.settings.sources[name]

    @property
    def identity_file(self) -> str:
        """Path of the file with the vaults' identity: named in the environment, or beside backup.yaml; "" for none."""
        beside = self.file.absolute().with_name(IDENTITY_NAME)
        return self.value(IDENTITY_VARIABLE) or (str(beside) if beside.exists() else "")

    def server_of(self, source: str) -> str:
        """Return the source that a source was found by, as a database of its server; "" for any other."""
        return next(
            (name for name, known in self.databases.items() if source in (one.source for one in known.databases)), ""
        )

    def is_server(self, source: str) -> bool:
        """Return whether a source stands for the databases of a server, each of which is a source of its own."""
        found = self.settings.sources.get(source)
        return found is not None and found.server_databases is not None

    def store_folder(self, plan: str) -> Path:
        """Return the folder of a plan's sets; of what is known of them where the sets themselves are in a vault."""
        own = self.plan(plan).store
        return own if isinstance(own, Path) else self.settings.store / plan

    def vault_of(self, plan: str) -> str:
        """Return the vault that a plan keeps its sets in, "" for a plan with a folder."""
        own = self.plan(plan).store
        return vault_named(own, {name: vault.url for name, vault in self.settings.vaults.items()}) if own else ""

    def dsn(self, connection: Connection) -> tuple[str, str]:
        """Return the first set variable of `dsn_env` and its value; ("", "") when none is set."""
        for name in connection.dsn_env:
            if value := self.environment.get(name, "").strip():
                return name, value
        return "", ""

    def value(self, variable: str | None) -> str:
        """Return a variable's value, "" when unset or None."""
        return self.environment.get(variable, "").strip() if variable else ""
