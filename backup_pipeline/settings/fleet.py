"""Settings of a fleet: many sources by one template, each with a plan of its own; `fleet_members` expands them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from backup_pipeline.settings.types import (
    Commands,
    Duration,
    PlanCopies,
    Retention,
    Settings,
    SourceName,
    TimeLimit,
    VaultLocation,
)


def _as_rows(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return tuple({"name": each} if isinstance(each, str) else each for each in value)
    return value


class MembersFrom(Settings):
    """Where a fleet's members come from: one of `list`, `file` and `server`."""

    list: Annotated[tuple[dict[str, Any], ...] | None, BeforeValidator(_as_rows)] = None
    """The members themselves: names, or mappings with a `name` and what the template needs."""
    file: Path | None = None
    """A file that another program writes: JSON, YAML or CSV (with a line of headings), one member per row."""
    at: str = ""
    """Where the members stand in a JSON or YAML file, as in `databases.value` of `terraform output -json`."""
    server: SourceName | None = None
    """A source with `databases`: each database of that server is a member."""
    name: str = Field(default="name", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The field that names a member; no two may have the same."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(each is not None for each in (self.list, self.file, self.server)) != 1:
            raise ValueError("name one of list, file and server")
        return self


class FleetPlan(Settings):
    """What the plan of each member is, beside its source and the fleet's schedule."""

    run_before: Commands = ()
    """Commands run before its capture."""
    run_after: Commands = ()
    """Commands run after its capture, or when it has failed."""
    retention: Retention = Retention(keep_last=30)
    """What is kept of each member."""
    store: VaultLocation | None = None
    """`vault:NAME`, or the URL of a vault, keeps the members' sets there alone; without it they are below `store`."""
    copies: tuple[PlanCopies, ...] = ()
    """Vaults that every sealed set of each member is copied into."""
    overdue_after: Duration | None = None
    """When a missing set of a member is an incident; from the fleet's schedule when absent."""
    timeout: TimeLimit = timedelta(hours=24)
    """How long the backup of one member may take in all."""


class Fleet(Settings):
    """Many sources by one template: each member becomes a source and a plan `<fleet>_<name>`."""

    sources_from: MembersFrom
    """Where the members come from."""
    source: dict[str, Any] = Field(default_factory=dict)
    """The template: settings of a source, in which `{field}` is the member's and `{FIELD}` the same as a variable is
    written. A database may have `dsn`, a connection string without a password, and `passfile`."""
    plan: FleetPlan = FleetPlan()
    """What the plan of each member is."""
    schedule: str | None = None
    """Cron expression of the moment at which the window opens."""
    window: TimeLimit | None = None
    """How long backups may begin (6h); what has not begun by then is left, reported, and first the next time."""
    drill: int = Field(default=0, ge=0)
    """How many members each run proves by a drill after the backups, within the window: those proven longest ago."""
    parallel: int = Field(default=4, ge=1, le=256)
    """Backups at once in all."""
    per_server: int = Field(default=2, ge=1, le=64)
    """Backups at once from one server (host and port)."""
    per_network: int | None = Field(default=None, ge=1, le=256)
    """Backups at once from one network: the member's field `network`, else the domain of its host, or its /24 (/64)."""
