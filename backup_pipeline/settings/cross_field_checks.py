"""Faults between the fields of backup.yaml: names that nobody has, circles, cron, time zones, colliding stores.

Works on the raw data, which may be wrong in any way, so that these faults are reported together with those of single
fields. Nothing outside the file is read.
"""

from __future__ import annotations

import os.path
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from backup_pipeline.settings.document import Document, FileFault
from backup_pipeline.settings.field_errors import nearest
from backup_pipeline.settings.fleet_template import template_faults
from backup_pipeline.settings.raw_values import FieldPath, FoundFaults, item_path, names_in
from backup_pipeline.settings.site import vault_named
from backup_pipeline.settings.types import SiteSettings, SourceSettings, source_kinds

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# In the template of a fleet its placeholders stand for parts of the name.
_VARIABLE_OF_MEMBER = re.compile(r"(?:[A-Za-z_]|\{\w+\})(?:[A-Za-z0-9_]|\{\w+\})*")
_LONGEST_SERVER = 30
_CRON_LIMITS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def coherence_faults(document: Document, folder: Path) -> list[FileFault]:
    """Return every fault between fields.

    Args:
        document: the file as read.
        folder: from which relative paths count.
    """
    data = document.data
    if not isinstance(data, dict):
        return []
    sources, plans = _mapping(data.get("sources")), _mapping(data.get("plans"))
    vaults, fleets = _mapping(data.get("vaults")), _mapping(data.get("fleets"))
    found: list[FileFault] = []
    for path, what in (
        *_same_but_for_case("sources", sources),
        *_same_but_for_case("plans", plans),
        *_same_but_for_case("vaults", vaults),
        *_same_but_for_case("fleets", fleets),
        *_nothing_to_do(data),
        *_fleets(fleets, sources, plans),
        *_copies_of_fleets(fleets, vaults),
        *_vault_stores_of_fleets(fleets, vaults, shared=bool(data.get("state_env"))),
        *_sources(sources),
        *_named_as_databases(sources),
        *_circles(sources),
        *_plans(plans, sources),
        *_copies(plans, vaults),
        *_vault_stores(plans, vaults, shared=bool(data.get("state_env"))),
        *_stores(data, plans, folder),
        *_stores_inside_sources(data, sources, plans, folder),
        *_schedules(sources, plans, fleets),
        *_variables(data, (), 0),
        *_timezone(data),
    ):
        found.append(document.fault(path, what))
    return found


def _mapping(value: Any) -> dict[str, dict[str, Any]]:
    """Return the part of a mapping that can be read: text keys with mappings below."""
    if not isinstance(value, dict):
        return {}
    return {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, dict)}


def _same_but_for_case(kind: str, named: dict[str, dict[str, Any]]) -> FoundFaults:
    known: dict[str, str] = {}
    for name in named:
        plain = name.lower().replace("-", "_")
        if (other := known.get(plain)) is not None:
            if other.lower() == name.lower():
                why = "by case; folders of some systems cannot distinguish them"
            else:
                why = "by - and _; Dagster cannot distinguish them"
            yield (kind, name), f"differs from {other} only {why}"
        known.setdefault(plain, name)


def _sources(sources: dict[str, dict[str, Any]]) -> FoundFaults:
    for name, source in sources.items():
        for index, other in enumerate(names_in(source.get("after"))):
            path = item_path(("sources", name, "after"), source["after"], index)
            if _server_of(other) == name:
                yield path, "a source cannot wait for itself"
            elif other and (what := _unknown(other, sources)):
                yield path, what
        for below, what in _model(source).cross_field_faults(source):
            yield ("sources", name, *below), what


def _unknown(name: str, sources: dict[str, dict[str, Any]]) -> str:
    """Return what is wrong with the name of a source, or of a server's database (`SERVER/DATABASE`); "" for nothing."""
    server, slash, database = name.partition("/")
    if server not in sources:
        return f"there is no source {name!r}{nearest(server, sources)}"
    if slash and sources[server].get("databases") is None:
        return f"{server} does not stand for the databases of a server; give it `databases`, or write {server} alone"
    return f"{name!r} names no database; write {server}/DATABASE" if slash and not database else ""


def _server_of(name: str) -> str:
    """Return the source in the file that a name means: `SERVER` of `SERVER/DATABASE`."""
    return name.partition("/")[0]


def _named_as_databases(sources: dict[str, dict[str, Any]]) -> FoundFaults:
    """Yield the sources whose names could be those of a server's databases, which are found only later."""
    servers = [name for name, source in sources.items() if source.get("databases") is not None]
    for server in servers:
        if len(server) > _LONGEST_SERVER:
            yield ("sources", server), f"a source with databases has at most {_LONGEST_SERVER} characters in its name"
        start = f"{server}_".lower().replace("-", "_")
        for name in sources:
            if name != server and name.lower().replace("-", "_").startswith(start):
                yield ("sources", name), f"begins with {server}_, as the databases of {server} are named; rename it"


def _nothing_to_do(data: dict[str, Any]) -> FoundFaults:
    if not data.get("fleets"):
        yield from (((name,), "required, but missing") for name in ("sources", "plans") if name not in data)


def _fleets(
    fleets: dict[str, dict[str, Any]], sources: dict[str, dict[str, Any]], plans: dict[str, dict[str, Any]]
) -> FoundFaults:
    for name, fleet in fleets.items():
        if len(name) > _LONGEST_SERVER:
            yield ("fleets", name), f"a fleet has at most {_LONGEST_SERVER} characters in its name"
        for kind, named in (("sources", sources), ("plans", plans)):
            for other in named:
                if other.lower() == name.lower() or other.lower().startswith(f"{name.lower()}_"):
                    yield (kind, other), f"is named as fleet {name} or as its members ({name}_…); rename it"
        given = fleet.get("sources_from")
        server = given.get("server") if isinstance(given, dict) else None
        template = fleet.get("source")
        if server is not None:
            found = sources.get(str(server), {})
            if found.get("databases") is None:
                yield ("fleets", name, "sources_from", "server"), "names no source with `databases`"
            if template:
                yield ("fleets", name, "source"), f"the databases are captured as {server} says: leave it out"
        elif isinstance(template, dict):
            for below, what in template_faults(template):
                yield ("fleets", name, "source", *below), what
        else:
            yield ("fleets", name, "source"), "required, but missing"


def _copies_of_fleets(fleets: dict[str, dict[str, Any]], vaults: dict[str, dict[str, Any]]) -> FoundFaults:
    for name, plan in _mapping({name: fleet.get("plan") for name, fleet in fleets.items()}).items():
        for (_, _, *below), what in _copies({name: plan}, vaults):
            yield ("fleets", name, "plan", *below), what
        for index, entry in enumerate(_entries(plan)):
            for field in ("check", "drill"):
                if entry.get(field):
                    path: FieldPath = ("fleets", name, "plan", "copies", index, field)
                    yield path, "is not run for the members of a fleet; leave it out"


def _model(source: dict[str, Any]) -> type[SourceSettings]:
    """Return the model of a source's kind; of all kinds where it names none that is known."""
    return source_kinds().get(str(source.get("kind")), SourceSettings)


def _circles(sources: dict[str, dict[str, Any]]) -> FoundFaults:
    """Yield every circle of `after` once, at the source of it that stands first in the file."""
    after = {
        name: [n for n in map(_server_of, names_in(s.get("after"))) if n in sources and n != name]
        for name, s in sources.items()
    }
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> FoundFaults:
        if name in way:
            circle = way[way.index(name) :]
            yield ("sources", circle[0], "after"), f"goes round in a circle: {' → '.join((*circle, circle[0]))}"
            return
        if name in done:
            return
        for other in after[name]:
            yield from walk(other, (*way, name))
        done.add(name)

    for name in sources:
        yield from walk(name, ())


def _plans(plans: dict[str, dict[str, Any]], sources: dict[str, dict[str, Any]]) -> FoundFaults:
    for plan_name, plan in plans.items():
        named = names_in(plan.get("sources"))
        base: FieldPath = ("plans", plan_name, "sources")
        if isinstance(plan.get("sources"), str):
            yield base, f"write a list, as in [{plan['sources']}]"
        for index, source in enumerate(named):
            path = item_path(base, plan.get("sources"), index)
            if source and (what := _unknown(source, sources)):
                yield path, what
            elif source in named[:index]:
                yield path, f"{source} stands twice"
            else:
                for before in names_in(sources.get(_server_of(source), {}).get("after")):
                    if _server_of(before) in sources and not {before, _server_of(before)} & {*named}:
                        yield (
                            path,
                            f"{source} waits for {before} (after), which this plan does not have; add {before} here",
                        )


def _entries(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a plan's entries of `copies`; {} for one that is no mapping."""
    given = plan.get("copies")
    return [one if isinstance(one, dict) else {} for one in given] if isinstance(given, list) else []


def _copies(plans: dict[str, dict[str, Any]], vaults: dict[str, dict[str, Any]]) -> FoundFaults:
    for plan_name, plan in plans.items():
        base: FieldPath = ("plans", plan_name, "copies")
        if isinstance(plan.get("copies"), (str, dict)):
            yield base, "write a list, as in [{to: offsite}]"
        known: set[str] = set()
        for index, entry in enumerate(_entries(plan)):
            vault = entry.get("to")
            if not isinstance(vault, str):
                continue
            if vault not in vaults:
                yield (*base, index, "to"), f"there is no vault {vault!r}{nearest(vault, vaults) or _NO_VAULTS}"
            elif vault in known:
                yield (*base, index, "to"), f"{vault} stands twice; a set has one copy in a vault"
            known.add(vault)


_NO_VAULTS = "; describe it under vaults (docs/settings.md)"


def _is_vault(store: Any) -> bool:
    return isinstance(store, str) and (store.startswith("vault:") or "://" in store)


def _vault_stores(plans: dict[str, dict[str, Any]], vaults: dict[str, dict[str, Any]], *, shared: bool) -> FoundFaults:
    urls = {name: str(vault.get("url", "")) for name, vault in vaults.items()}
    for name, plan in plans.items():
        own = plan.get("store")
        path: FieldPath = ("plans", name, "store")
        if not _is_vault(own):
            if shared:
                yield (path if own else path[:2]), "with state_env workers share no disk: write `store: vault:NAME`"
            continue
        vault = vault_named(own, urls)
        if not vault:
            what = str(own).removeprefix("vault:")
            yield path, f"there is no vault {what!r}{nearest(what, vaults) or _NO_VAULTS}"
        elif any(entry.get("to") == vault for entry in _entries(plan)):
            yield path, f"the plan's sets are in {vault} already; name other vaults in copies"


def _vault_stores_of_fleets(
    fleets: dict[str, dict[str, Any]], vaults: dict[str, dict[str, Any]], *, shared: bool
) -> FoundFaults:
    plans = {name: fleet.get("plan") or {} for name, fleet in fleets.items()}
    for (_, name, *below), what in _vault_stores(_mapping(plans), vaults, shared=shared):
        yield ("fleets", name, "plan", *below), what


def _store_of(data: dict[str, Any], plan_name: str, plan: dict[str, Any], folder: Path) -> Path:
    own = plan.get("store")
    site = data.get("store")
    default = SiteSettings.model_fields["store"].default
    own = None if _is_vault(own) else own
    place = Path(own) if isinstance(own, str) else Path(site if isinstance(site, str) else default) / plan_name
    return Path(os.path.normpath(folder / place.expanduser()))


def _stores(data: dict[str, Any], plans: dict[str, dict[str, Any]], folder: Path) -> FoundFaults:
    known: dict[Path, str] = {}
    for name, plan in plans.items():
        store = _store_of(data, name, plan, folder)
        if other := known.get(store):
            path: FieldPath = ("plans", name, "store") if plan.get("store") else ("plans", name)
            yield path, f"has the same store as plan {other} ({store}); each plan needs its own"
        known.setdefault(store, name)


def _folder_of(url: object) -> Path | None:
    """Return the folder that a vault's URL names; None for any other place."""
    if not isinstance(url, str) or not url.startswith("file://"):
        return None
    return Path(os.path.normpath(unquote(urlsplit(url).path)))


def _stores_inside_sources(
    data: dict[str, Any], sources: dict[str, dict[str, Any]], plans: dict[str, dict[str, Any]], folder: Path
) -> FoundFaults:
    held: dict[Path, list[str]] = {}
    for name, vault in _mapping(data.get("vaults")).items():
        if place := _folder_of(vault.get("url")):
            for above in (place, *place.parents):
                held.setdefault(above, []).append(f"holds the vault {name} ({place}): it would back up its own copies")
    for name, plan in plans.items():
        store = _store_of(data, name, plan, folder)
        for above in (store, *store.parents):
            held.setdefault(above, []).append(
                f"holds the store of plan {name} ({store}): it would back up its own sets"
            )
    for name, source in sources.items():
        for below, captured in _model(source).captured_trees(source):
            root = Path(os.path.normpath(folder / Path(captured).expanduser()))
            for what in held.get(root, ()):
                yield ("sources", name, *below), what


def _schedules(
    sources: dict[str, dict[str, Any]], plans: dict[str, dict[str, Any]], fleets: dict[str, dict[str, Any]]
) -> FoundFaults:
    places: list[tuple[FieldPath, Any]] = [
        (("plans", name, key), plan.get(key)) for name, plan in plans.items() for key in ("schedule", "verify", "drill")
    ]
    places += [(("fleets", name, "schedule"), fleet.get("schedule")) for name, fleet in fleets.items()]
    places += [
        (("sources", name, "export_schedule"), source.get("export_schedule")) for name, source in sources.items()
    ]
    places += [
        (("plans", name, "copies", index, key), entry.get(key))
        for name, plan in plans.items()
        for index, entry in enumerate(_entries(plan))
        for key in ("check", "drill")
    ]
    for path, value in places:
        if isinstance(value, str) and (what := cron_fault(value)):
            yield path, what


def cron_fault(text: str) -> str:
    """Return what is wrong with a cron expression of five fields, or "" when it is right."""
    if text.startswith("@"):
        known = ("@hourly", "@daily", "@weekly", "@monthly", "@yearly")
        return "" if text in known else f"not a cron expression{nearest(text, known)}"
    parts = text.split()
    if len(parts) != 5:
        return (
            f"a cron expression has five fields (minute hour day month weekday), not {len(parts)}; "
            'every night at two is "0 2 * * *"'
        )
    # Nearly all schedules are plain; croniter's import costs more than reading the rest of the file.
    if all(
        part == "*" or (part.isdigit() and low <= int(part) <= high)
        for part, (low, high) in zip(parts, _CRON_LIMITS, strict=True)
    ) and parts[2:4] == ["*", "*"]:
        return ""
    from croniter import croniter
    from croniter.croniter import CroniterError

    try:
        croniter(text).get_next()
    except (CroniterError, ValueError) as error:
        return f"not a cron expression: {error}"
    return ""


def _variables(value: Any, path: FieldPath, depth: int) -> FoundFaults:
    """Yield fields that must name a variable and hold something else, perhaps a secret: its text is not repeated."""
    if depth > 6 or not isinstance(value, dict):
        return
    for key, item in value.items():
        here = (*path, str(key))
        if isinstance(key, str) and key.endswith("_env") and key != "include_env":
            for index, name in enumerate(names_in(item)):
                if not (_VARIABLE_OF_MEMBER if here[0] == "fleets" else _VARIABLE).fullmatch(name):
                    yield (
                        item_path(here, item, index),
                        "must be the name of a variable (letters, digits, _); the value itself belongs in .env, "
                        "and if it held a secret, change that secret",
                    )
        else:
            yield from _variables(item, here, depth + 1)


def _timezone(data: dict[str, Any]) -> FoundFaults:
    name = data.get("timezone")
    if not isinstance(name, str) or name == "UTC":
        return
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        hint = nearest(name, zoneinfo.available_timezones())
        hint = hint if hint.startswith("; did you mean") else "; write an IANA name such as Europe/Berlin"
        yield ("timezone",), f"no such time zone: {name}{hint}"
