"""Putting a rebuilt database in the live one's place by rename, and taking that back. Both are one transaction."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime

from backup_pipeline.errors import RefusedError
from backup_pipeline.postgres.server.databases import LONGEST_NAME, rename_together, server_facts
from backup_pipeline.postgres.server.target import PostgresTarget

RESTORE = "restore"
BEFORE = "before"
UNDONE = "undone"
_MADE_HERE = re.compile(rf"(?P<base>.+)__(?P<role>{RESTORE}|{BEFORE}|{UNDONE})_\d{{8}}T\d{{6}}(?:_\d+)?")


def side_name(database: str, role: str, moment: datetime, taken: Collection[str] = ()) -> str:
    """Return the name of a database beside `database`: `<database>__<role>_<UTC time>`, at most 63 bytes, not taken."""
    for attempt in range(1000):
        suffix = f"__{role}_{moment:%Y%m%dT%H%M%S}" + (f"_{attempt}" if attempt else "")
        base = database.encode()[: LONGEST_NAME - len(suffix)].decode("utf-8", "ignore")
        if base + suffix not in taken:
            return base + suffix
    raise RefusedError("No free name beside the database.", where=database, remedy="Remove old restored databases.")


def is_side_of(name: str, database: str, role: str = "") -> bool:
    """Return whether a database of that name was put beside `database` here (in that role, where one is named)."""
    found = _MADE_HERE.fullmatch(name)
    if found is None or (role and found["role"] != role):
        return False
    cut = len(name.encode()) >= LONGEST_NAME - 3 and database.startswith(found["base"])
    return found["base"] == database or cut


def swap_in(target: PostgresTarget, rebuilt: str, kept: str) -> None:
    """Give `rebuilt` the target's name; what had it becomes `kept`. Both or nothing.

    Args:
        target: the live database (its name may be free: then only the rebuilt one is renamed).
        rebuilt: name of the new database.
        kept: name that the old one gets.

    Raises:
        RefusedError, UnreachableError, SourceError: nothing was changed.
    """
    present = server_facts(target).databases
    renames = [(rebuilt, target.database)]
    if target.database in present:
        renames.insert(0, (target.database, kept))
    rename_together(target, renames)


def swap_back(target: PostgresTarget, kept: str, aside: str) -> None:
    """Give the kept database its name back; what has the name now becomes `aside`. Both or nothing.

    Args:
        target: the live database.
        kept: name of the database that was live before; "" when there was none: then the live one is only put aside.
        aside: name that the restored one gets.
    """
    present = server_facts(target).databases
    if kept and kept not in present:
        raise RefusedError(
            "The database from before the restore is not there any more.",
            where=kept,
            remedy="Restore the emergency set that was made before the restore.",
        )
    renames = [(target.database, aside)] if target.database in present else []
    if kept:
        renames.append((kept, target.database))
    rename_together(target, renames)
