"""What is known of a server's databases after it was asked again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from backup_pipeline.model.known_databases import KnownDatabase, KnownDatabases
from backup_pipeline.model.source_names import source_of_database

GONE = "it was dropped or renamed"


def after_asking(server: str, known: KnownDatabases | None, found: Mapping[str, str], now: datetime) -> KnownDatabases:
    """Return the list of a server's databases, brought up to date; nothing that was listed once leaves it.

    Args:
        server: the name of its source.
        known: the list so far; None where the server was never asked.
        found: the databases that it has now, each with the reason why it is not captured, "" where it is.
        now: when it was asked.
    """
    listed = {one.name: _again(one, found.get(one.name, GONE), now) for one in (known.databases if known else ())}
    taken = {one.source for one in listed.values()}
    for name, skipped in found.items():
        source = source_of_database(server, name)
        # Two digests that agree: what has the name already keeps it, for its sets bear it.
        if not skipped and name not in listed and source not in taken:
            listed[name] = KnownDatabase(name=name, source=source, found_at=now)
            taken.add(source)
    return KnownDatabases(asked_at=now, databases=tuple(listed.values()))


def _again(one: KnownDatabase, absent: str, now: datetime) -> KnownDatabase:
    if not absent:
        return one.model_copy(update={"absent_since": None, "absent_because": ""})
    return one.model_copy(update={"absent_since": one.absent_since or now, "absent_because": absent})
