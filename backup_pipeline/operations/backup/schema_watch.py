"""What has changed in a plan's databases since its last set: new, gone and altered tables, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.manifest import Manifest
from backup_pipeline.model.record import ColumnRecord
from backup_pipeline.operations.backup.known_tables import remember_tables
from backup_pipeline.operations.sites.known_databases import refresh_databases
from backup_pipeline.operations.sites.stores import is_whole_backup, open_store
from backup_pipeline.rules.drift import column_drift
from backup_pipeline.settings.server_databases import servers_of
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.registry import kind_of

_NEW = (
    "It is exported from the next run on; reload the definitions to see it in the graph, "
    "and name it in master_tables if it holds master data."
)
_GONE = "If that was not meant, restore it from the last set that has it."
_ALTERED = "Check whether the site's own schema for it, and what reads its exports, still fit."


_NEW_DATABASE = "The next run captures it; reload the definitions to see it in the graph, or exclude it in backup.yaml."
_GONE_DATABASE = "If that was not meant, restore it from the last set that has it."


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """One table that is not as in the last set, or one database of a server."""

    source: str
    table: str
    change: str
    remedy: str


@dataclass(frozen=True, slots=True)
class SchemaComparison:
    """What was found: changes, and the sources whose databases did not answer."""

    changes: tuple[SchemaChange, ...]
    silent: tuple[str, ...]


def changes_of(
    source: str,
    now: dict[tuple[str, str], tuple[ColumnRecord, ...]],
    before: dict[tuple[str, str], tuple[ColumnRecord, ...]],
) -> list[SchemaChange]:
    """Compare a source's tables with those of its last set. Pure."""
    found = []
    for name in sorted(now.keys() | before.keys()):
        table = ".".join(name)
        if name not in before:
            found.append(SchemaChange(source, table, "new", _NEW))
        elif name not in now:
            found.append(SchemaChange(source, table, "gone", _GONE))
        else:
            drift = column_drift(now[name], before[name])
            if not drift.passed:
                what = ", ".join(f"{row['change']} {row['column']}".strip() for row in drift.table)
                found.append(SchemaChange(source, table, what, _ALTERED))
    return found


def compare_schemas(site: Site, plan: str) -> SchemaComparison:
    """Compare the databases of a plan with its last set; nothing to compare with is no change.

    Servers are asked for their databases before, and the answers kept for the next run.
    """
    last = _last_manifest(site, plan)
    current = refresh_databases(site, [plan])
    site = current.site
    changes = [] if last is None else _database_changes(site, plan, last)
    silent = list(current.silent)
    for name in site.plan(plan).sources:
        kind, source = kind_of(site, name)
        try:
            tables = kind.discover_tables(source)
        except BackupSystemError:
            silent.append(name)
            continue
        if tables is None:
            continue
        remember_tables(site.store_folder(plan), name, [(name, each.schema, each.name) for each in tables])
        if last is not None and name in last.sources:
            before = {(r.key[1], r.key[2]): r.columns for r in last.artefacts if r.source == name and len(r.key) == 3}
            changes += changes_of(name, {(each.schema, each.name): each.columns for each in tables}, before)
    open_store(site, plan).share()
    return SchemaComparison(tuple(changes), tuple(silent))


def _database_changes(site: Site, plan: str, last: Manifest) -> list[SchemaChange]:
    """Return which databases of servers the last set does not have, and which it has that are gone."""
    found = []
    for server in servers_of(site, plan):
        for one in site.databases[server].databases if server in site.databases and server in last.sources else ():
            if one.source in site.plan(plan).sources and one.source not in last.sources:
                found.append(SchemaChange(server, one.name, "new database", _NEW_DATABASE))
            elif one.absent_since is not None and one.source in last.sources:
                found.append(SchemaChange(server, one.name, f"gone: {one.absent_because}", _GONE_DATABASE))
    return found


def _last_manifest(site: Site, plan: str) -> Manifest | None:
    store = open_store(site, plan)
    for set_id in reversed(store.sealed_ids()):
        known = store.read(set_id)
        if is_whole_backup(known):
            return known.manifest
    return None
