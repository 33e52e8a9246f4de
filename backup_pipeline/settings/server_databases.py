"""Sources that stand for all databases of a server: each known database becomes a source of its own.

Which databases a server has is asked by backups and by a sensor (`operations.sites.known_databases`), which keep the
list beside a plan's sets. Here it is read, so that settings can be loaded without the server.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError as PydanticError

from backup_pipeline.model.known_databases import KnownDatabase, KnownDatabases
from backup_pipeline.model.source_names import source_of_database
from backup_pipeline.settings.fleet_members import fleet_folder, with_server_members
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import SiteSettings, SourceSettings

KNOWN_FOLDER = ".known"
"""In a plan's store: what was found of its sources."""
GONE_FOR = timedelta(days=90)
"""For how long the last set of a database that is absent is kept for it alone."""
_REST = re.compile(r"_[a-z0-9]+(_[a-z0-9]+)*")
_MOST_BYTES = 16 << 20


def list_file(store: Path, server: str) -> Path:
    """Return where the databases of a server are listed in a plan's store."""
    # No source has a point in its name: this is no list of tables.
    return store / KNOWN_FOLDER / f"{server}.databases.json"


def servers_of(site: Site, plan: str) -> tuple[str, ...]:
    """Return the sources of a plan, or of a fleet, that stand for the databases of a server."""
    if plan in site.settings.fleets:
        server = site.settings.fleets[plan].sources_from.server
        return (server,) if server else ()
    return tuple(name for name in site.plan(plan).sources if site.is_server(name))


def sources_for_retention(site: Site, plan: str, now: datetime) -> tuple[str, ...]:
    """Return the sources that a plan captures, and those of databases that have been absent for GONE_FOR.

    Retention keeps the last set of every other source that a set holds. A database that somebody dropped by mistake is
    missed within that time; servers on which databases come and go would else keep a set for each of them for ever.
    """
    gone = {one.source for one in _absent(site, plan)} - set(absent_since(site, plan, now - GONE_FOR))
    return (*site.plan(plan).sources, *sorted(gone))


def absent_since(site: Site, plan: str, moment: datetime) -> tuple[str, ...]:
    """Return the sources of databases of a plan's servers that are absent, but were still there at a moment."""
    return tuple(one.source for one in _absent(site, plan) if one.absent_since and one.absent_since >= moment)


def _absent(site: Site, plan: str) -> Iterable[KnownDatabase]:
    lists = (site.databases[server] for server in servers_of(site, plan) if server in site.databases)
    named = site.plan(plan).sources
    return (
        one for known in lists for one in known.databases if one.absent_since is not None and one.source not in named
    )


def list_files(site: Site) -> tuple[Path, ...]:
    """Return where the databases of the site's servers are listed, in each plan and fleet that has them."""
    return tuple(list_file(folder, server) for folder, server in _folders_of_lists(site))


def _folders_of_lists(site: Site) -> Iterator[tuple[Path, str]]:
    for plan in site.single_plans:
        yield from ((site.store_folder(plan), server) for server in servers_of(site, plan))
    for fleet in site.settings.fleets:
        yield from ((fleet_folder(site.settings.store, fleet), server) for server in servers_of(site, fleet))


def folders_of_list(site: Site, server: str) -> tuple[Path, ...]:
    """Return the folders in which a server's databases are listed."""
    return tuple(folder for folder, name in _folders_of_lists(site) if name == server)


def with_named_databases(site: Site) -> Site:
    """Return the site in which `SERVER/DATABASE`, in plans and in `after`, is that database's own source.

    It is one whether its server was asked or not: a plan that names a database fails where it is gone.
    """
    sources, named = dict(site.settings.sources), set[str]()

    def own(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(source, names)))

    def source(name: str) -> str:
        server, slash, database = name.partition("/")
        if not slash:
            return name
        found = source_of_database(server, database)
        if found not in named:
            named.add(found)
            sources[found] = site.settings.sources[server].of_database(server, database)
        return found

    plans = {n: plan.model_copy(update={"sources": own(plan.sources)}) for n, plan in site.settings.plans.items()}
    after = {name: own(each.after) for name, each in site.settings.sources.items()}
    sources = {n: _after(each, own(each.after) if n in named else after[n]) for n, each in sources.items()}
    settings = site.settings.model_copy(update={"sources": sources, "plans": plans})
    return replace(site, settings=settings, named_databases=frozenset(named)) if named else site


def with_known_databases(site: Site) -> Site:
    """Return the site with a source for each database that is listed now; no server is asked."""
    known = {}
    for server in filter(site.is_server, site.settings.sources):
        folders = folders_of_list(site, server)
        lists = [one for folder in folders if (one := _read(list_file(folder, server))) is not None]
        if server in site.databases:
            lists.append(site.databases[server])
        if lists:
            known[server] = max(lists, key=lambda one: one.asked_at)
    return with_databases(site, known) if known else site


def with_databases(site: Site, known: Mapping[str, KnownDatabases]) -> Site:
    """Return the site with a source for each of these databases, instead of those that it has by now.

    A plan that has the server's source captures those that are there and that the settings select; the others stay
    sources that can be restored.
    """
    found = {name: _usable(name, known.get(name) or site.databases[name]) for name in {*site.databases, *known}}
    listed = {one.source for each in site.databases.values() for one in each.databases}
    settings = _without(site.settings, listed - site.named_databases)
    present = {name: tuple(_present(settings.sources[name], each)) for name, each in found.items()}

    def spread(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each for name in names for each in (name, *present.get(name, ()))))

    sources: dict[str, SourceSettings] = {}
    for name, source in settings.sources.items():
        sources[name] = source = _after(source, spread(source.after))
        for one in found[name].databases if name in found else ():
            if one.source in site.named_databases:
                continue
            sources[one.source] = _after(source.of_database(name, one.name), (name, *source.after))
    plans = {name: plan.model_copy(update={"sources": spread(plan.sources)}) for name, plan in settings.plans.items()}
    spread_out = settings.model_copy(update={"sources": sources, "plans": plans})
    settings, fleets = with_server_members(spread_out, found, lambda name: _address(site, name))
    return replace(site, settings=settings, databases=found, fleets={**site.fleets, **fleets})


def _address(site: Site, source: str) -> str:
    """Return host and port of a source's server, as far as its connection string shows them."""
    connection = site.settings.sources[source].connection
    value = site.dsn(connection)[1] if connection else ""
    with suppress(ValueError):
        parts = urlsplit(value.removeprefix("jdbc:"))
        return f"{parts.hostname}:{parts.port or 5432}" if parts.hostname else source
    return source


def _after(source: SourceSettings, names: tuple[str, ...]) -> SourceSettings:
    return source if source.after == names else source.model_copy(update={"after": names})


def _without(settings: SiteSettings, names: set[str]) -> SiteSettings:
    """Return settings as they stand in the file: without the sources of databases."""
    if not names:
        return settings

    def rest(those: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in those if name not in names)

    sources = {n: _after(source, rest(source.after)) for n, source in settings.sources.items() if n not in names}
    plans = {n: plan.model_copy(update={"sources": rest(plan.sources)}) for n, plan in settings.plans.items()}
    return settings.model_copy(update={"sources": sources, "plans": plans})


def _present(source: SourceSettings, known: KnownDatabases) -> Iterable[str]:
    selection = source.server_databases
    for one in known.databases:
        if one.absent_since is None and selection is not None and selection.selects(one.name):
            yield one.source


def _usable(server: str, known: KnownDatabases) -> KnownDatabases:
    """Return the list without what no run of ours has written: the store is not the settings."""
    kept: dict[str, KnownDatabase] = {}
    for one in known.databases:
        if one.source.startswith(server) and len(one.source) <= 60 and _REST.fullmatch(one.source[len(server) :]):
            kept.setdefault(one.source, one)
    return known.model_copy(update={"databases": tuple(kept.values())})


def _read(path: Path) -> KnownDatabases | None:
    """Return a list; None where there is none that can be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
                return None
            return KnownDatabases.model_validate_json(file.read())
    except (OSError, PydanticError):
        return None
