"""Dumps of a whole server (pg_dumpall) that are imported: which databases they hold, and the dump of each by itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pydantic import TypeAdapter

from backup_pipeline.model.catalog import RoleEntry
from backup_pipeline.postgres.export.foreign_dump import DumpForm, cluster_text
from backup_pipeline.postgres.load.input import ReadablePieces
from backup_pipeline.postgres.load.server_dump import read_server_dump, split
from backup_pipeline.sources.kind import BackupPart

_ROLES = TypeAdapter(tuple[RoleEntry, ...])
_CUT = "the dump of the server is cut short here: what follows is missing"


def parts_of(path: Path, form: str) -> list[BackupPart] | None:
    """Return the databases of a server's dump; None for a dump of one database.

    Raises:
        ValidationError: it is damaged, or cut short before its first database.
    """
    if form != DumpForm.CLUSTER:
        return None
    with cluster_text(path) as pieces:
        found = read_server_dump(ReadablePieces(pieces), path.name)
    times = Counter(one.name for one in found.databases)
    parts = []
    for one in found.databases:
        if not one.whole:
            part = BackupPart(one.name, "its dump is cut short", "Import another one.")
        elif not one.name:
            goes_to = ", ".join(sorted(set(one.names))) or "none"
            part = BackupPart(
                "", f"one of its dumps goes to several databases, or to none ({goes_to})", "Do not use it."
            )
        elif times[one.name] > 1:
            part = BackupPart(one.name, "it holds several dumps of this database", "Do not use it: ask who changed it.")
        else:
            part = BackupPart(one.name, "holds nothing" if one.empty else "")
        parts.append(part)
    return parts if found.whole else [*parts, BackupPart("", _CUT, "Import another one as well.")]


def split_into(path: Path, wanted: frozenset[str], folder: Path) -> tuple[dict[str, Path], Path]:
    """Write the dumps of the wanted databases into a folder, and the server's roles.

    Raises:
        ValidationError: it is damaged.
    """
    with cluster_text(path) as pieces:
        files, found = split(ReadablePieces(pieces), path.name, folder, wanted)
    beside = folder / "roles.json"
    beside.write_bytes(_ROLES.dump_json(found.roles))
    return files, beside


def server_roles(beside: Path) -> tuple[RoleEntry, ...]:
    """Return the roles that `split_into` wrote."""
    return _ROLES.validate_json(beside.read_bytes())
