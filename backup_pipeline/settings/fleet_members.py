"""Fleets expanded: a source and a plan for each member, by its template. Members that are gone stay restorable.

Rows that are wrong are skipped and reported; a file that cannot be read leaves the members that were known before. So
whoever writes the file can stop neither the other members nor the site.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from pydantic import BaseModel

from backup_pipeline.errors import SettingsError
from backup_pipeline.model.known_databases import KnownDatabases
from backup_pipeline.model.source_names import source_of_database
from backup_pipeline.settings.absolute_paths import with_absolute_paths
from backup_pipeline.settings.fleet import Fleet
from backup_pipeline.settings.fleet_template import fields_used, source_of_member
from backup_pipeline.settings.member_rows import MemberRow, rows_of_file, rows_of_list
from backup_pipeline.settings.types import Plan, SiteSettings, SourceSettings

MEMBERS_NAME = "members.json"
"""In the folder of a fleet's stores: the members that were known last."""
# Fields that say where a member is, beside those that the template uses: nothing else of a row is remembered.
_PLACE = frozenset({"name", "host", "network"})


class KnownMember(BaseModel):
    """A member as it was known last: its values, and since when it is absent."""

    name: str
    fields: dict[str, str]
    absent_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class FleetMember:
    """One member of a fleet.

    Attributes:
        name: as its list has it.
        plan: the name of its plan; of its source too, unless that is a database of a server.
        fields: its values.
        server: host and port that it is captured from; its own name where it is no server's.
        network: the network of that server.
        absent_since: since when it is in the list no more: it is not captured, its sets stay.
    """

    name: str
    plan: str
    fields: Mapping[str, str] = field(default_factory=dict, compare=False)
    server: str = ""
    network: str = ""
    absent_since: datetime | None = None


@dataclass(frozen=True)
class FleetMembers:
    """A fleet's members, and what is wrong with its list (`where`, what)."""

    members: tuple[FleetMember, ...] = ()
    faults: tuple[tuple[str, str], ...] = ()

    @property
    def present(self) -> tuple[FleetMember, ...]:
        """Those that are captured."""
        return tuple(one for one in self.members if one.absent_since is None)


def fleet_folder(store: Path, fleet: str) -> Path:
    """Return the folder that holds the stores of a fleet's members."""
    return store / fleet


def expanded(settings: SiteSettings, site_folder: Path) -> tuple[SiteSettings, dict[str, FleetMembers]]:
    """Return the settings with a source and a plan for each member of fleets with a list or a file.

    Args:
        settings: as they stand in the file, with absolute paths.
        site_folder: from which the paths of templates count.
    """
    found: dict[str, FleetMembers] = {}
    sources: dict[str, SourceSettings] = dict(settings.sources)
    plans = dict(settings.plans)
    for name, fleet in settings.fleets.items():
        if fleet.sources_from.server is not None:
            continue
        folder = fleet_folder(settings.store, name)
        own: dict[str, SourceSettings] = {}
        found[name] = _members(name, fleet, known_members(folder), partial(_add, own, plans, folder, fleet))
        sources |= {plan: with_absolute_paths(source, site_folder) for plan, source in own.items()}
    return (settings.model_copy(update={"sources": sources, "plans": plans}) if found else settings), found


def with_server_members(
    settings: SiteSettings, databases: Mapping[str, KnownDatabases], address: Callable[[str], str]
) -> tuple[SiteSettings, dict[str, FleetMembers]]:
    """Return the settings with a plan for each database of the servers that fleets name.

    Args:
        settings: with a source for each database.
        databases: what is known of each server.
        address: gives host and port of a source's server.
    """
    plans = dict(settings.plans)
    found = {}
    for name, fleet in settings.fleets.items():
        server = fleet.sources_from.server
        if server is None:
            continue
        at, members = address(server), []
        for one in databases[server].databases if server in databases else ():
            plan = source_of_database(name, one.name)
            plans[plan] = _plan(fleet, one.source, fleet_folder(settings.store, name) / plan)
            members.append(FleetMember(one.name, plan, {}, at, network_of(at), one.absent_since))
        found[name] = FleetMembers(tuple(members))
    return (settings.model_copy(update={"plans": plans}) if found else settings), found


def known_members(folder: Path) -> tuple[KnownMember, ...]:
    """Return the members that were known last; none where that cannot be read."""
    try:
        return read_members((folder / MEMBERS_NAME).read_bytes())
    except (OSError, ValueError, TypeError, KeyError):
        return ()


def read_members(data: bytes) -> tuple[KnownMember, ...]:
    """Return the members that a file of them names.

    Raises:
        ValueError, TypeError, KeyError: it is damaged.
    """
    return tuple(KnownMember.model_validate(each) for each in json.loads(data)["members"])


def after_reading(members: FleetMembers, known: Sequence[KnownMember], now: datetime) -> list[KnownMember]:
    """Return what is to be remembered of a fleet: who is there, and who is not any more, since when."""
    since = {one.name: one.absent_since for one in known}
    return [
        KnownMember(
            name=one.name,
            fields=dict(one.fields),
            absent_since=None if one.absent_since is None else since.get(one.name) or now,
        )
        for one in members.members
    ]


Add = Callable[[FleetMember], FleetMember]


def _members(name: str, fleet: Fleet, known: Sequence[KnownMember], add: Add) -> FleetMembers:
    members: dict[str, FleetMember] = {}
    faults: list[tuple[str, str]] = []
    readable = True
    try:
        rows = _rows(name, fleet)
    except SettingsError as error:
        faults.append((error.where, error.what))
        rows, readable = [], False
    first: dict[str, str] = {}
    used = fields_used(fleet.source) | _PLACE
    for row in rows:
        member = row.fields.get(fleet.sources_from.name, "")
        if not member:
            faults.append((f"{row.where}, field {fleet.sources_from.name}", "is missing or empty: it names the member"))
        elif member in first:
            faults.append((f"{row.where}, field {fleet.sources_from.name}", f"{member} stands in {first[member]} too"))
        else:
            first[member] = row.where
            fields = {key: text for key, text in row.fields.items() if key.lower() in used} | {"name": member}
            try:
                members[member] = add(FleetMember(member, source_of_database(name, member), fields))
            except SettingsError as error:
                faults.append((f"{row.where}, {error.where}", error.what))
    for one in known:
        if one.name in members:
            continue
        # A row that is wrong now is still a member: its sets stay its own, and it is not captured.
        gone = one.absent_since or (datetime.now().astimezone() if readable else None)
        lost = FleetMember(one.name, source_of_database(name, one.name), one.fields, absent_since=gone)
        try:
            members[one.name] = add(lost)
        except SettingsError:
            continue
    return FleetMembers(tuple(members.values()), tuple(faults))


def _rows(name: str, fleet: Fleet) -> list[MemberRow]:
    given = fleet.sources_from
    if given.file is not None:
        return rows_of_file(given.file, given.at, given.name)
    return rows_of_list(given.list or (), f"fleets.{name}.sources_from.list")


def _add(
    sources: dict[str, SourceSettings], plans: dict[str, Plan], folder: Path, fleet: Fleet, member: FleetMember
) -> FleetMember:
    """Add the source and the plan of a member, and return it with its server.

    Raises:
        SettingsError: its values do not fit the template.
    """

    source = source_of_member(fleet.source, member.fields)
    sources[member.plan] = source
    plans[member.plan] = _plan(fleet, member.plan, folder / member.plan)
    server = source.served_by or member.fields.get("host", "") or member.plan
    return replace(member, server=server, network=member.fields.get("network", "") or network_of(server))


def _plan(fleet: Fleet, source: str, store: Path) -> Plan:
    own = {field: getattr(fleet.plan, field) for field in type(fleet.plan).model_fields}
    return Plan.model_construct(
        **{
            **{field: info.get_default(call_default_factory=True) for field, info in Plan.model_fields.items()},
            **own,
            "sources": (source,),
            "store": fleet.plan.store or store,
            "schedule": fleet.schedule,
        }
    )


def network_of(server: str) -> str:
    """Return the network of a server: the /24 or /64 of an address, the domain of a name, else the host itself."""
    host = server.rpartition(":")[0] or server
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.partition(".")[2] or host
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 64), strict=False))
